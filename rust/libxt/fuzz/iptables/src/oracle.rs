// SPDX-License-Identifier: GPL-2.0

//! What is expected of the extension, written anew from the manual page and from `xt_RUSTMASQ.h`, so that the
//! extension is not measured by itself.

use std::ffi::CString;

use crate::{
    parse,
    show,
    Family,
    Given,
    Outcome,
    Protocol,
    Rule,
    Show, //
};

use crate::bindings::{
    XT_RUSTMASQ_RANDOM as RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY as RANDOM_FULLY,
    XT_RUSTMASQ_TO_PORTS as TO_PORTS, //
};

const NEW: Rule = [0; 48];

/// Splits the input of a target at its zeros.
pub fn words(data: &[u8]) -> Vec<CString> {
    data.split(|&byte| byte == 0)
        .map(|word| CString::new(word).expect("no zero is left"))
        .collect()
}

/// A rule's fields. The ports are in host order.
fn fields(rule: &Rule) -> (u32, u16, u16) {
    let [a, b, c, d, e, f, g, h, ..] = *rule;
    (
        u32::from_ne_bytes([a, b, c, d]),
        u16::from_be_bytes([e, f]),
        u16::from_be_bytes([g, h]),
    )
}

fn rule(flags: u32, min: u16, max: u16) -> Rule {
    let mut rule = NEW;
    rule[..4].copy_from_slice(&flags.to_ne_bytes());
    rule[4..6].copy_from_slice(&min.to_be_bytes());
    rule[6..8].copy_from_slice(&max.to_be_bytes());
    rule
}

/// Whether the kernel takes the rule.
pub fn kernel_takes(rule: &Rule) -> bool {
    let (flags, min, max) = fields(rule);
    let ports = if flags & TO_PORTS != 0 {
        min != 0 && min <= max
    } else {
        (min, max) == (0, 0)
    };
    ports && flags & !(TO_PORTS | RANDOM | RANDOM_FULLY) == 0 && rule[8..16] == [0; 8]
}

/// Whether a rule has no option that the other one lacks.
pub fn no_more(rule: &Rule, other: &Rule) -> bool {
    fields(rule).0 & !fields(other).0 == 0
}

/// What userspace has a say in.
pub fn compared(rule: &Rule) -> &[u8] {
    &rule[..16]
}

/// `PORT` or `PORT-PORT`: each number is written as it would be printed.
fn range(text: &[u8]) -> Option<(u16, u16)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut ports = text.split('-').map(|word| {
        let port: u16 = word.parse().ok()?;
        (port > 0 && port.to_string() == word).then_some(port)
    });
    let min = ports.next()??;
    let max = ports.next().unwrap_or(Some(min))?;
    (ports.next().is_none() && min <= max).then_some((min, max))
}

fn has_ports(family: Family, protocol: Protocol) -> bool {
    let icmp = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 58,
    };
    !protocol.inverted && [6, 17, 132, icmp].contains(&protocol.number)
}

/// What an option makes of a rule; `None` if it must be refused.
fn expected(family: Family, before: &Rule, given: &Given) -> Option<Rule> {
    let (flags, min, max) = fields(before);
    let flag = match given.name.as_str() {
        "to-ports" => TO_PORTS,
        "random" => RANDOM,
        "random-fully" => RANDOM_FULLY,
        name => panic!("there is no option {name}"),
    };
    if given.inverted || flags & flag != 0 {
        return None;
    }
    let (min, max) = match &given.argument {
        Some(text) if flag == TO_PORTS && has_ports(family, given.protocol) => range(text)?,
        None if flag != TO_PORTS => (min, max),
        _ => return None,
    };
    Some(rule(flags | flag, min, max))
}

/// Checks what became of each option. Says the rule that they come to.
pub fn check_given(family: Family, outcome: &Outcome) -> Rule {
    let mut rule = NEW;
    for (n, given) in outcome.given.iter().enumerate() {
        let expected = expected(family, &rule, given);
        let refused = outcome.refusal.is_some() && n + 1 == outcome.given.len();
        assert_eq!(expected.is_none(), refused, "refused or not: {given:?}");
        assert_eq!(given.rule, expected.unwrap_or(rule), "the rule: {given:?}");
        rule = given.rule;
    }
    rule
}

/// A refusal is one line that names the option and says what is allowed.
pub fn check_refusal(message: &[u8], option: &Given) {
    let message = one_line(message);
    let before = format!("RUSTMASQ: --{}: ", option.name);
    assert!(message.starts_with(&before), "{message}");
    assert!(message.contains("allowed"), "{message}");
}

/// Text that a terminal shows as one line.
fn one_line(text: &[u8]) -> &str {
    let text = std::str::from_utf8(text).expect("the text is UTF-8");
    assert!(!text.contains(char::is_control), "{text:?}");
    text
}

/// What `-S` says of a rule, after a look at whether `-L` says the same.
pub fn saved(family: Family, rule: &Rule) -> String {
    let saved = show(family, Show::Save, rule);
    let saved = one_line(&saved);
    let listed = saved
        .replace(" --to-ports ", " masq ports: ")
        .replace(" --", " ");
    for what in [Show::Print, Show::PrintNumeric] {
        assert_eq!(one_line(&show(family, what, rule)), listed);
    }
    saved.into()
}

/// The help names every option, in lines that a terminal does not break.
pub fn check_help(family: Family) {
    let help = String::from_utf8(show(family, Show::Help, &NEW)).expect("the help is UTF-8");
    for option in ["to-ports", "random", "random-fully"] {
        assert!(help.contains(&format!("\n --{option} ")), "{help}");
    }
    assert!(
        help.ends_with('\n')
            && help
                .lines()
                .all(|line| one_line(line.as_bytes()).len() < 80)
    );
}

/// What `-S` said is a command line, which comes to this rule.
pub fn read_again(family: Family, saved: &str) -> Rule {
    let line = format!("iptables -p 6{saved}").replace(' ', "\0");
    let outcome = parse(family, &words(line.as_bytes()));
    assert!(
        outcome.refusal.is_none() && outcome.skipped == 0,
        "{saved:?}"
    );
    outcome.given.last().map_or(NEW, |last| last.rule)
}
