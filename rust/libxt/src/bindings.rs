// SPDX-License-Identifier: GPL-2.0

//! libxtables and a rule's binary form, as bindgen declares them.

#![expect(
    dead_code,
    non_camel_case_types,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    reason = "generated from C"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
