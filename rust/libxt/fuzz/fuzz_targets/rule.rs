// SPDX-License-Identifier: GPL-2.0

//! Fuzz target: any rule from the kernel.
//!
//! The input is one byte for the family, then the rule, padded with zeros. For an empty input, the
//! target checks the help.

#![no_main]
#![deny(unsafe_code)]

use iptables::{
    oracle,
    Family,
    Rule, //
};
use libfuzzer_sys::fuzz_target;
// Linked only: the extension registers itself.
use xt_RUSTMASQ as _;

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        oracle::check_help(Family::Ipv4);
        oracle::check_help(Family::Ipv6);
        return;
    };
    let family = match first & 1 {
        0 => Family::Ipv4,
        _ => Family::Ipv6,
    };
    let mut rule: Rule = [0; 48];
    rule.iter_mut().zip(data).for_each(|(to, from)| *to = *from);

    // The text of any rule, valid or not, is a valid command line.
    let saved = oracle::save_text(family, &rule);
    let parsed = oracle::parse_saved(family, &saved);
    assert!(oracle::kernel_accepts(&parsed), "{parsed:?}: {saved:?}");
    assert!(
        oracle::has_only_options_of(&parsed, &rule),
        "{rule:?}: {saved:?}"
    );
    assert_eq!(oracle::save_text(family, &parsed), saved);
    if oracle::kernel_accepts(&rule) {
        assert_eq!(
            oracle::user_part(&rule),
            oracle::user_part(&parsed),
            "{saved:?}"
        );
    }
});
