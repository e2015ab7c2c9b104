// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets share: iptables, as far as the extension can tell, and what is expected.
//!
//! The extension is not named here. What links both has it registered before `main`, as the loader
//! does for iptables.

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

#[expect(unsafe_code, reason = "generated from C")]
mod bindings;
#[expect(unsafe_code, reason = "the border to C, and the only such file")]
mod ffi;
pub mod oracle;

pub use ffi::{
    parse,
    show,
    Callback, //
    Family,
    GivenOption,
    Outcome,
    Protocol,
    Rule,
};
