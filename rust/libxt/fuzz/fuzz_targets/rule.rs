// SPDX-License-Identifier: GPL-2.0

//! Fuzz target: any rule from the kernel.
//!
//! The input is one byte for the family and the revision, then the rule, padded with zeros. For an empty input, the
//! target checks the help.

#![no_main]
#![deny(unsafe_code)]

use iptables::{
    oracle,
    Family,
    Rule,
    Target, //
};
use libfuzzer_sys::fuzz_target;
// Linked only: the extension registers itself.
use xt_RUSTMASQ as _;

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        for family in [Family::Ipv4, Family::Ipv6] {
            for revision in [0, 1] {
                oracle::check_help(Target { family, revision });
            }
        }
        return;
    };
    let family = match first & 1 {
        0 => Family::Ipv4,
        _ => Family::Ipv6,
    };
    // The inputs of before revision 1 begin with '4' or '6'.
    let revision = first >> 3 & 1;
    let target = Target { family, revision };
    let mut rule: Rule = [0; 168];
    let size = if revision == 0 { 48 } else { 168 };
    rule[..size]
        .iter_mut()
        .zip(data)
        .for_each(|(to, from)| *to = *from);

    // The text of any rule, valid or not, is a valid command line.
    let saved = oracle::save_text(target, &rule);
    let parsed = oracle::parse_saved(target, &saved);
    assert!(
        oracle::kernel_accepts(target, &parsed),
        "{parsed:?}: {saved:?}"
    );
    assert!(
        oracle::has_only_options_of(target, &parsed, &rule),
        "{rule:?}: {saved:?}"
    );
    assert_eq!(oracle::save_text(target, &parsed), saved);
    if oracle::kernel_accepts(target, &rule) {
        assert_eq!(
            oracle::user_part(target, &rule),
            oracle::user_part(target, &parsed),
            "{saved:?}"
        );
    }
});
