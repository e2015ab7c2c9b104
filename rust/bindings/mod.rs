// SPDX-License-Identifier: GPL-2.0

//! The C side: the kernel crate's bindings and, generated at build, what they lack.
//!
//! Nothing here is safe to use by itself; [`netfilter`](crate::netfilter) makes it so. The one
//! exception is the plain data of `uapi/xt_RUSTMASQ.h`, see [`uapi`](crate::uapi).

/// As bindgen wrote it, under the lint levels that the kernel crate's own bindings have.
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
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod generated {
    use kernel::ffi;
    use pin_init::MaybeZeroable;

    // What stands in both is taken from the file below.
    pub(crate) use kernel::bindings::*;

    include!(env!("RUSTMASQ_BINDINGS"));
}

pub(crate) use generated::*;

// SAFETY: the structure is made of integers alone and has no padding (a layout test of bindgen
// checks its size), so any bytes are a valid value of it.
unsafe impl kernel::transmute::FromBytes for xt_rustmasq_info {}
