// SPDX-License-Identifier: GPL-2.0

//! `iptables.h` and a rule's binary form, as bindgen declares them.

#![expect(dead_code, non_camel_case_types, reason = "generated from C")]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
