// SPDX-License-Identifier: GPL-2.0

//! Any rule. The input is a byte for the family and then the rule, with zeros for what is missing.
//! Without either, it is the help's turn.

#![no_main]
#![deny(unsafe_code)]

use iptables::{
    oracle,
    Family,
    Rule, //
};
use libfuzzer_sys::fuzz_target;
// Registers itself; nothing of it is called by name.
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

    // Whatever the rule, what is shown of it is a good command line.
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
