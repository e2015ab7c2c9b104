// SPDX-License-Identifier: GPL-2.0

//! The results expected of the extension.
//!
//! They are implemented independently of the extension, from its man page and `xt_RUSTMASQ.h`.

use std::ffi::CString;

use crate::{
    parse,
    show,
    Callback, //
    Family,
    GivenOption,
    Outcome,
    Protocol,
    Rule,
};

use crate::bindings::{
    XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE as ADDRESS_RESTRICTED_CONE,
    XT_RUSTMASQ_FULL_CONE as FULL_CONE,
    XT_RUSTMASQ_PORT_RESTRICTED_CONE as PORT_RESTRICTED_CONE,
    XT_RUSTMASQ_RANDOM as RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY as RANDOM_FULLY,
    XT_RUSTMASQ_TO_PORTS as TO_PORTS,
    XT_RUSTMASQ_WHEN_FULL_REJECT as REJECT, //
};

/// The options that exclude each other.
const CONES: u32 = FULL_CONE | ADDRESS_RESTRICTED_CONE | PORT_RESTRICTED_CONE;

/// The data of a new rule.
const NEW_RULE: Rule = [0; 48];

/// Splits the input of a fuzz target at its NUL bytes.
pub fn split_words(data: &[u8]) -> Vec<CString> {
    data.split(|&byte| byte == 0)
        .map(|word| CString::new(word).expect("no NUL byte is left"))
        .collect()
}

/// Returns a rule's flags, and its first and last port in host order.
fn fields(rule: &Rule) -> (u32, u16, u16) {
    let [a, b, c, d, e, f, g, h, ..] = *rule;
    (
        u32::from_ne_bytes([a, b, c, d]),
        u16::from_be_bytes([e, f]),
        u16::from_be_bytes([g, h]),
    )
}

/// Creates a rule; the ports are in host order.
fn new_rule(flags: u32, first: u16, last: u16) -> Rule {
    let mut rule = NEW_RULE;
    rule[..4].copy_from_slice(&flags.to_ne_bytes());
    rule[4..6].copy_from_slice(&first.to_be_bytes());
    rule[6..8].copy_from_slice(&last.to_be_bytes());
    rule
}

/// Returns whether the kernel must accept the rule.
pub fn kernel_accepts(rule: &Rule) -> bool {
    let (flags, first, last) = fields(rule);
    let ports = if flags & TO_PORTS != 0 {
        first != 0 && first <= last
    } else {
        (first, last) == (0, 0)
    };
    let known = TO_PORTS | RANDOM | RANDOM_FULLY | REJECT | CONES;
    ports && flags & !known == 0 && (flags & CONES).count_ones() <= 1 && rule[8..16] == [0; 8]
}

/// Returns whether a rule has no option that the other one lacks.
pub fn has_only_options_of(rule: &Rule, other: &Rule) -> bool {
    fields(rule).0 & !fields(other).0 == 0
}

/// Returns the part of a rule that userspace fills in.
pub fn user_part(rule: &Rule) -> &[u8] {
    &rule[..16]
}

/// The services of `iptables.c`: name, protocol, port.
const SERVICES: [(&str, u16, u16); 11] = [
    ("ftp-data", 6, 20),
    ("http", 6, 80),
    ("shell", 6, 514),
    ("syslog", 17, 514),
    ("who", 17, 513),
    ("who", 6, 1513),
    ("a", 6, 1),
    ("a-b", 132, 2),
    ("b-c", 6, 3),
    ("c", 17, 4),
    ("zero", 6, 0),
];

/// Parses a port: a number as Rust would print it, or the name of a service, of the protocol if
/// there is one.
fn parse_port(text: &str, protocol: u16) -> Option<u16> {
    let number = text
        .parse()
        .ok()
        .filter(|port: &u16| port.to_string() == text);
    let named = || SERVICES.iter().filter(|service| service.0 == text);
    let own = named().find(|service| service.1 == protocol);
    number.or(own.or(named().next()).map(|service| service.2))
}

/// Parses `PORT` or `PORT-PORT`, where exactly one dash separates two ports.
fn parse_range(text: &[u8], protocol: u16) -> Option<(u16, u16)> {
    let text = std::str::from_utf8(text).ok()?;
    let words: Vec<&str> = text.split('-').collect();
    let mut ranges = Vec::new();
    for n in 1..words.len() {
        let first = parse_port(&words[..n].join("-"), protocol);
        ranges.extend(first.zip(parse_port(&words[n..].join("-"), protocol)));
    }
    if let Some(port) = parse_port(text, protocol) {
        ranges = vec![(port, port)];
    }
    match ranges[..] {
        [(first, last)] if first > 0 && first <= last => Some((first, last)),
        _ => None,
    }
}

/// Returns whether all packets of the protocol have ports or query identifiers.
fn has_ports(family: Family, protocol: Protocol) -> bool {
    let icmp = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 58,
    };
    !protocol.inverted && [6, 17, 132, icmp].contains(&protocol.number)
}

/// Returns the rule that results from adding an option, or `None` if the option must be refused.
fn expected_rule(family: Family, before: &Rule, option: &GivenOption) -> Option<Rule> {
    if option.inverted {
        return None;
    }
    let (flags, first, last) = fields(before);
    match (option.name.as_str(), &option.argument) {
        ("to-ports", Some(text)) if has_ports(family, option.protocol) => {
            let (first, last) = parse_range(text, option.protocol.number)?;
            Some(new_rule(flags | TO_PORTS, first, last))
        }
        ("to-ports", Some(_)) => None,
        ("random", None) => Some(new_rule(flags | RANDOM, first, last)),
        ("random-fully", None) => Some(new_rule(flags | RANDOM_FULLY, first, last)),
        ("when-full", Some(text)) => match &text[..] {
            b"drop" => Some(*before),
            b"reject" => Some(new_rule(flags | REJECT, first, last)),
            _ => None,
        },
        ("full-cone" | "address-restricted-cone" | "port-restricted-cone", None)
            if flags & CONES != 0 =>
        {
            None
        }
        ("address-restricted-cone", None) => {
            Some(new_rule(flags | ADDRESS_RESTRICTED_CONE, first, last))
        }
        ("full-cone", None) => Some(new_rule(flags | FULL_CONE, first, last)),
        ("port-restricted-cone", None) => Some(new_rule(flags | PORT_RESTRICTED_CONE, first, last)),
        other => panic!("there is no option {other:?}"),
    }
}

/// Checks the result of each option, and returns the rule after the last one.
pub fn check_options(family: Family, outcome: &Outcome) -> Rule {
    let mut rule = NEW_RULE;
    for (n, option) in outcome.options.iter().enumerate() {
        let repeated = outcome.options[..n]
            .iter()
            .any(|other| other.name == option.name);
        let expected = expected_rule(family, &rule, option).filter(|_| !repeated);
        let refused = outcome.refusal.is_some() && n + 1 == outcome.options.len();
        assert_eq!(
            expected.is_none(),
            refused,
            "wrongly refused or accepted: {option:?}"
        );
        assert_eq!(
            option.rule,
            expected.unwrap_or(rule),
            "the rule after {option:?}"
        );
        rule = option.rule;
    }
    rule
}

/// Checks that the message is one line, names the option and says what is allowed.
pub fn check_refusal(message: &[u8], option: &GivenOption) {
    let message = one_line(message);
    let prefix = format!("RUSTMASQ: --{}: ", option.name);
    assert!(message.starts_with(&prefix), "{message}");
    assert!(message.contains("allowed"), "{message}");
}

/// Returns the text, which must be one line without control characters.
fn one_line(text: &[u8]) -> &str {
    let text = std::str::from_utf8(text).expect("the text is UTF-8");
    assert!(!text.contains(char::is_control), "{text:?}");
    text
}

/// Returns the text of `-S` for a rule, and checks that `-L` and the translation have the same
/// options.
pub fn save_text(family: Family, rule: &Rule) -> String {
    let saved = show(family, Callback::Save, rule);
    let saved = one_line(&saved);
    let listed = saved
        .replace(" --to-ports ", " masq ports: ")
        .replace(" --", " ");
    for callback in [Callback::Print, Callback::PrintNumeric] {
        assert_eq!(one_line(&show(family, callback, rule)), listed);
    }
    let statement = saved
        .replace(" --when-full reject", "")
        .replace(" --full-cone", "")
        .replace(" --address-restricted-cone", "")
        .replace(" --port-restricted-cone", "")
        .replace(" --to-ports ", " to :")
        .replace(" --random --random-fully", " random,fully-random")
        .replace(" --random-fully", " fully-random")
        .replace(" --random", " random");
    for (callback, comment) in [
        (
            Callback::Translate,
            format!("translated from -j RUSTMASQ{saved}"),
        ),
        (Callback::TranslateCommented, "of the user".into()),
    ] {
        assert_eq!(
            one_line(&show(family, callback, rule)),
            format!("masquerade{statement} comment \"{comment}\"")
        );
    }
    saved.into()
}

/// Checks that the help names every option and that its lines are shorter than 80 columns.
pub fn check_help(family: Family) {
    let help =
        String::from_utf8(show(family, Callback::Help, &NEW_RULE)).expect("the help is UTF-8");
    for option in [
        "to-ports",
        "random",
        "random-fully",
        "when-full",
        "full-cone",
        "address-restricted-cone",
        "port-restricted-cone",
    ] {
        let listed = [" ", "\n"].map(|end| format!("\n --{option}{end}"));
        assert!(listed.iter().any(|text| help.contains(text)), "{help}");
    }
    assert!(
        help.ends_with('\n')
            && help
                .lines()
                .all(|line| one_line(line.as_bytes()).len() < 80)
    );
}

/// Parses the text of `-S`, which must be a valid command line, and returns the resulting rule.
pub fn parse_saved(family: Family, saved: &str) -> Rule {
    let line = format!("iptables -p 6{saved}").replace(' ', "\0");
    let outcome = parse(family, &split_words(line.as_bytes()));
    assert!(
        outcome.refusal.is_none() && outcome.skipped == 0,
        "{saved:?}"
    );
    outcome.options.last().map_or(NEW_RULE, |last| last.rule)
}
