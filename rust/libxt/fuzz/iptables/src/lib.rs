// SPDX-License-Identifier: GPL-2.0

//! Shared code of the fuzz targets: a model of iptables, and the results expected of the extension.
//!
//! This crate does not depend on the extension. A program that links both gets the extension
//! registered before `main`, as iptables does when it loads one.

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

#[expect(unsafe_code, reason = "generated from C")]
mod bindings;
#[expect(unsafe_code, reason = "the FFI layer to iptables.c")]
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
    Target,
};
