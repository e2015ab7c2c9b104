// SPDX-License-Identifier: GPL-2.0

//! `libxt_RUSTMASQ.so`: what iptables loads for `-j RUSTMASQ`.
//!
//! iptables gives each option on the command line to [`ffi`], which turns it into plain Rust, lets
//! [`options`] judge it and writes the outcome into the rule's binary form. What the options may
//! say is decided in [`ports`] (the range) and [`protocol`] (which rules may have one).
//!
//! The extension uses libxtables' older interface (`parse` and getopt's `struct option`), not the
//! newer one (`x6_parse` and `struct xt_option_entry`): `xt_option_entry` has grown between
//! libxtables 1.8.9 and 1.8.11 without a new soname, so an array of it built against the one is
//! misread by the other. `struct option` is the C library's, and `struct xtables_target` is the
//! same in both.

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(
    not(test),
    expect(non_snake_case, reason = "libxtables looks for libxt_RUSTMASQ.so")
)]

#[expect(unsafe_code, reason = "generated from C")]
mod bindings;
#[expect(
    unsafe_code,
    reason = "the border to libxtables, and the only such file"
)]
mod ffi;
mod options;
mod ports;
mod protocol;
