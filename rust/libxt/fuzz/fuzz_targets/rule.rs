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
    let saved = oracle::saved(family, &rule);
    let again = oracle::read_again(family, &saved);
    assert!(oracle::kernel_takes(&again), "{again:?}: {saved:?}");
    assert!(oracle::no_more(&again, &rule), "{rule:?}: {saved:?}");
    assert_eq!(oracle::saved(family, &again), saved);
    if oracle::kernel_takes(&rule) {
        assert_eq!(
            oracle::compared(&rule),
            oracle::compared(&again),
            "{saved:?}"
        );
    }
});
