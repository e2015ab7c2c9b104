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
    Target,
};

use crate::bindings::{
    XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE as ADDRESS_RESTRICTED_CONE,
    XT_RUSTMASQ_EXCEPT_RESERVED as EXCEPT_RESERVED,
    XT_RUSTMASQ_FULL_CONE as FULL_CONE,
    XT_RUSTMASQ_KEEP_OWN as KEEP_OWN,
    XT_RUSTMASQ_PORT_RESTRICTED_CONE as PORT_RESTRICTED_CONE,
    XT_RUSTMASQ_PSID as PSID,
    XT_RUSTMASQ_RANDOM as RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY as RANDOM_FULLY,
    XT_RUSTMASQ_ROUTE_SOURCE as ROUTE_SOURCE,
    XT_RUSTMASQ_TO_PORTS as TO_PORTS,
    XT_RUSTMASQ_WHEN_FULL_REJECT as REJECT, //
};

/// The options that exclude each other.
const CONES: u32 = FULL_CONE | ADDRESS_RESTRICTED_CONE | PORT_RESTRICTED_CONE;

/// The flags of both revisions, and those of revision 1 alone.
const COMMON: u32 = RANDOM | RANDOM_FULLY | REJECT | CONES;
const NEW: u32 = PSID | EXCEPT_RESERVED | ROUTE_SOURCE | KEEP_OWN;

/// The data of a new rule.
const NEW_RULE: Rule = [0; 168];

/// Splits the input of a fuzz target at its NUL bytes.
pub fn split_words(data: &[u8]) -> Vec<CString> {
    data.split(|&byte| byte == 0)
        .map(|word| CString::new(word).expect("no NUL byte is left"))
        .collect()
}

/// The options of a rule, in either revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields {
    flags: u32,
    to_ports: Vec<(u16, u16)>,
    except_ports: Vec<(u16, u16)>,
    /// Offset, length, identifier.
    psid: (u8, u8, u16),
    share: u32,
}

/// Reads a number in network order.
fn number(rule: &Rule, place: usize) -> u16 {
    u16::from_be_bytes([rule[place], rule[place + 1]])
}

impl Fields {
    /// Reads a rule. Counts are taken as they are, up to the size of the arrays.
    fn of(target: Target, rule: &Rule) -> Self {
        let word = |place: usize| u32::from_ne_bytes(rule[place..place + 4].try_into().unwrap());
        let range = |place: usize| (number(rule, place), number(rule, place + 2));
        let list = |count: u8, place: usize| {
            (0..usize::from(count).min(15))
                .map(|n| range(place + 4 * n))
                .collect()
        };
        if target.revision == 0 {
            let to_ports = if word(0) & TO_PORTS != 0 {
                vec![range(4)]
            } else {
                vec![]
            };
            return Self {
                flags: word(0) & !TO_PORTS,
                to_ports,
                ..Self::default()
            };
        }
        Self {
            flags: word(0),
            to_ports: list(rule[12], 16),
            except_ports: list(rule[13], 76),
            psid: (rule[10], rule[11], number(rule, 8)),
            share: word(4),
        }
    }

    /// Writes the rule.
    fn write(&self, target: Target) -> Rule {
        let mut rule = NEW_RULE;
        let put_list = |rule: &mut Rule, place: usize, list: &[(u16, u16)]| {
            for (n, (first, last)) in list.iter().enumerate() {
                rule[place + 4 * n..][..2].copy_from_slice(&first.to_be_bytes());
                rule[place + 4 * n + 2..][..2].copy_from_slice(&last.to_be_bytes());
            }
        };
        let mut flags = self.flags;
        if target.revision == 0 {
            flags |= if self.to_ports.is_empty() {
                0
            } else {
                TO_PORTS
            };
            put_list(&mut rule, 4, &self.to_ports);
        } else {
            rule[4..8].copy_from_slice(&self.share.to_ne_bytes());
            rule[8..10].copy_from_slice(&self.psid.2.to_be_bytes());
            rule[10] = self.psid.0;
            rule[11] = self.psid.1;
            rule[12] = self.to_ports.len() as u8;
            rule[13] = self.except_ports.len() as u8;
            put_list(&mut rule, 16, &self.to_ports);
            put_list(&mut rule, 76, &self.except_ports);
        }
        rule[..4].copy_from_slice(&flags.to_ne_bytes());
        rule
    }

    /// Returns for each port, from 0 on, whether the rule has it.
    fn ports(&self) -> Vec<bool> {
        let set_all = |ports: &mut [bool], list: &[(u16, u16)], to: bool| {
            for (first, last) in list.iter().filter(|(first, last)| first <= last) {
                ports[usize::from(*first)..=usize::from(*last)].fill(to);
            }
        };
        let mut ports = vec![self.to_ports.is_empty() && self.flags & PSID == 0; 65536];
        set_all(&mut ports, &self.to_ports, true);
        if self.flags & PSID != 0 {
            // RFC 7597, appendix B: the ports R * M * i + M * PSID + j.
            let (offset, length, psid) = self.psid;
            let (r, m) = (1 << length, 1 << (16 - offset - length));
            for i in usize::from(offset > 0)..1 << offset {
                ports[r * m * i + m * usize::from(psid)..][..m].fill(true);
            }
        }
        set_all(&mut ports, &self.except_ports, false);
        ports[0] = false;
        ports
    }

    /// Returns whether the rule has a port.
    fn has_ports(&self) -> bool {
        self.ports().contains(&true)
    }

    /// Returns the longest range of the rule's ports, the first of several, if it names its ports.
    fn longest(&self) -> Option<(u16, u16)> {
        if self.to_ports.is_empty() && self.flags & PSID == 0 {
            return None;
        }
        let ports = self.ports();
        let starts = (1..=65535_u16)
            .filter(|port| ports[usize::from(*port)] && !ports[usize::from(*port) - 1]);
        let length = |first: u16| {
            ports[usize::from(first)..]
                .iter()
                .take_while(|has| **has)
                .count()
        };
        let longest = starts.rev().max_by_key(|first| length(*first))?;
        Some((longest, longest + (length(longest) - 1) as u16))
    }
}

/// Returns whether ranges ascend, with a port between two of them.
fn is_list(list: &[(u16, u16)]) -> bool {
    let apart = list
        .windows(2)
        .all(|pair| u32::from(pair[1].0) > u32::from(pair[0].1) + 1);
    apart && list.iter().all(|(first, last)| *first > 0 && first <= last)
}

/// Returns whether the kernel must accept the rule.
pub fn kernel_accepts(target: Target, rule: &Rule) -> bool {
    let fields = Fields::of(target, rule);
    let known = COMMON | if target.revision == 0 { 0 } else { NEW };
    let (offset, length, psid) = fields.psid;
    let psid_is_right = if fields.flags & PSID != 0 {
        u32::from(offset) + u32::from(length) <= 16
            && u32::from(psid) < 1 << length
            && fields.to_ports.is_empty()
    } else {
        fields.psid == (0, 0, 0)
    };
    fields.flags & !known == 0
        && (fields.flags & CONES).count_ones() <= 1
        && is_list(&fields.to_ports)
        && is_list(&fields.except_ports)
        && psid_is_right
        // Whatever is not a field, and what is behind a list, is zero.
        && user_part(target, rule) == user_part(target, &fields.write(target))
        && fields.has_ports()
}

/// Returns whether a rule has no option that the other one lacks.
pub fn has_only_options_of(target: Target, rule: &Rule, other: &Rule) -> bool {
    let (rule, other) = (Fields::of(target, rule), Fields::of(target, other));
    rule.flags & !other.flags == 0
        && rule.to_ports.len() <= other.to_ports.len()
        && rule.except_ports.len() <= other.except_ports.len()
        && [0, other.share].contains(&rule.share)
}

/// Returns the part of a rule that userspace fills in.
pub fn user_part(target: Target, rule: &Rule) -> &[u8] {
    &rule[..if target.revision == 0 { 16 } else { 136 }]
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

/// Parses ranges with commas between them, and sorts them.
fn parse_list(text: &[u8], protocol: u16) -> Option<Vec<(u16, u16)>> {
    let parts = text.split(|byte| *byte == b',');
    let mut list = parts
        .map(|part| parse_range(part, protocol))
        .collect::<Option<Vec<_>>>()?;
    list.sort_unstable();
    (is_list(&list) && list.len() <= 15).then_some(list)
}

/// Parses a number as Rust would print it.
fn parse_number(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|number: &u32| number.to_string() == text)
}

/// Parses a port set.
fn parse_psid(text: &[u8]) -> Option<(u8, u8, u16)> {
    let words: Vec<&str> = std::str::from_utf8(text).ok()?.split('/').collect();
    let numbers = words
        .into_iter()
        .map(parse_number)
        .collect::<Option<Vec<_>>>()?;
    match numbers[..] {
        [offset @ 0..=16, length @ 0..=16, psid @ 0..=65535]
            if offset + length <= 16
                && psid < 1 << length
                && (offset, length, psid) != (0, 16, 0) =>
        {
            Some((offset as u8, length as u8, psid as u16))
        }
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
fn expected_rule(target: Target, before: &Rule, option: &GivenOption) -> Option<Rule> {
    if option.inverted {
        return None;
    }
    let mut rule = Fields::of(target, before);
    let has_ports = has_ports(target.family, option.protocol);
    let Protocol { number, inverted } = option.protocol;
    // A rule for all protocols but one has services of any.
    let services = if inverted { 0 } else { number };
    match (option.name.as_str(), &option.argument) {
        ("to-ports", Some(text)) => {
            rule.to_ports = parse_list(text, services)?;
            let too_many = target.revision == 0 && rule.to_ports.len() > 1;
            if !has_ports || too_many || rule.flags & PSID != 0 {
                return None;
            }
        }
        ("psid", Some(text)) => {
            rule.psid = parse_psid(text)?;
            if !has_ports || !rule.to_ports.is_empty() {
                return None;
            }
            rule.flags |= PSID;
        }
        ("except-ports", Some(text)) => {
            rule.except_ports = parse_list(text, services)?;
        }
        ("except-reserved", None) => rule.flags |= EXCEPT_RESERVED,
        ("max-flows-per-host", Some(text)) => {
            rule.share =
                parse_number(std::str::from_utf8(text).ok()?).filter(|number| *number > 0)?;
        }
        ("route-source", None) => rule.flags |= ROUTE_SOURCE,
        ("keep-own", None) => rule.flags |= KEEP_OWN,
        ("random", None) => rule.flags |= RANDOM,
        ("random-fully", None) => rule.flags |= RANDOM_FULLY,
        ("when-full", Some(text)) => match &text[..] {
            b"drop" => {}
            b"reject" => rule.flags |= REJECT,
            _ => return None,
        },
        ("full-cone" | "address-restricted-cone" | "port-restricted-cone", None)
            if rule.flags & CONES != 0 =>
        {
            return None
        }
        ("address-restricted-cone", None) => rule.flags |= ADDRESS_RESTRICTED_CONE,
        ("full-cone", None) => rule.flags |= FULL_CONE,
        ("port-restricted-cone", None) => rule.flags |= PORT_RESTRICTED_CONE,
        other => panic!("there is no option {other:?}"),
    }
    rule.has_ports().then(|| rule.write(target))
}

/// Checks the result of each option, and returns the rule after the last one.
pub fn check_options(target: Target, outcome: &Outcome) -> Rule {
    let mut rule = NEW_RULE;
    for (n, option) in outcome.options.iter().enumerate() {
        let repeated = outcome.options[..n]
            .iter()
            .any(|other| other.name == option.name);
        let expected = expected_rule(target, &rule, option).filter(|_| !repeated);
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
pub fn save_text(target: Target, rule: &Rule) -> String {
    let saved = show(target, Callback::Save, rule);
    let saved = one_line(&saved);
    let listed = saved
        .replace(" --to-ports ", " masq ports: ")
        .replace(" --", " ");
    for callback in [Callback::Print, Callback::PrintNumeric] {
        assert_eq!(one_line(&show(target, callback, rule)), listed);
    }
    // The rule that the text stands for, as some of these bytes may mean nothing.
    let fields = Fields::of(target, &parse_saved(target, saved));
    let mut statement = match fields.longest() {
        Some((first, last)) if first == last => format!(" to :{first}"),
        Some((first, last)) => format!(" to :{first}-{last}"),
        None => String::new(),
    };
    statement += match (fields.flags & RANDOM != 0, fields.flags & RANDOM_FULLY != 0) {
        (true, true) => " random,fully-random",
        (true, false) => " random",
        (false, true) => " fully-random",
        (false, false) => "",
    };
    let whole = format!("translated from -j RUSTMASQ{saved}");
    let text = one_line_of(show(target, Callback::Translate, rule));
    let comment = text
        .strip_prefix(&format!("masquerade{statement} comment \""))
        .and_then(|comment| comment.strip_suffix('"'))
        .unwrap_or_else(|| panic!("{text:?}: {saved:?}"));
    match comment.strip_suffix(" ...") {
        // It is cut behind an option or a range, and no shorter than it must be.
        Some(start) => assert!(
            whole.starts_with(start)
                && whole.len() + 2 > 127
                && comment.len() <= 125
                && [" ", ","].contains(&&whole[start.len()..=start.len()]),
            "{text:?}: {saved:?}"
        ),
        None => assert_eq!(comment, whole),
    }
    assert_eq!(
        one_line_of(show(target, Callback::TranslateCommented, rule)),
        format!("masquerade{statement} comment \"of the user\"")
    );
    saved.into()
}

/// Returns the same as [`one_line`].
fn one_line_of(text: Vec<u8>) -> String {
    one_line(&text).into()
}

/// Checks that the help names every option and that its lines are shorter than 80 columns.
pub fn check_help(target: Target) {
    let help =
        String::from_utf8(show(target, Callback::Help, &NEW_RULE)).expect("the help is UTF-8");
    let new = [
        "psid",
        "except-ports",
        "except-reserved",
        "max-flows-per-host",
        "route-source",
        "keep-own",
    ];
    for option in new {
        assert_eq!(
            help.contains(&format!("\n --{option} ")),
            target.revision > 0,
            "{help}"
        );
    }
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
pub fn parse_saved(target: Target, saved: &str) -> Rule {
    let line = format!("iptables -p 6{saved}").replace(' ', "\0");
    let outcome = parse(target, &split_words(line.as_bytes()));
    assert!(
        outcome.refusal.is_none() && outcome.skipped == 0,
        "{saved:?}"
    );
    outcome.options.last().map_or(NEW_RULE, |last| last.rule)
}
