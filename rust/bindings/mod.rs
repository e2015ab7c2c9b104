// SPDX-License-Identifier: GPL-2.0

//! Bindings of C: those of the kernel crate and, generated at build, those that it lacks.
//!
//! [`net`](crate::net) and [`netfilter`](crate::netfilter) build safe abstractions on them. Other code uses
//! nothing from here but the plain data of `uapi/xt_RUSTMASQ.h`, by way of [`uapi`](crate::uapi).

/// The output of bindgen, under the lint levels of the kernel crate's own bindings.
#[allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    // Compilers before 1.88 do not know the next one.
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod generated {
    use kernel::ffi;
    use pin_init::MaybeZeroable;

    // Where both define a name, the generated file below takes precedence.
    pub(crate) use kernel::bindings::*;

    include!(env!("RUSTMASQ_BINDINGS"));
}

pub(crate) use generated::*;

// SAFETY: The structure consists of integers, for which any bytes are a value, and has no padding: its
// fields add up to 48 bytes, the size that a layout test of bindgen checks.
unsafe impl kernel::transmute::FromBytes for xt_rustmasq_info {}

// SAFETY: The same of revision 1, whose fields add up to 168 bytes.
unsafe impl kernel::transmute::FromBytes for xt_rustmasq_info_v1 {}
