// SPDX-License-Identifier: GPL-2.0

//! The status for people: a line for each fact, in columns, which fold on a narrow terminal.

use crate::{
    output::printable,
    readers::nft::MasqueradeChain,
    status::{Conntrack, Place, Status},
};
use comfy_table::{presets, ColumnConstraint, ContentArrangement, Table};

/// In the place of a name, where there is none.
const NONE: &str = "-";

/// Returns the text. `width` is that of the terminal, if the output is one.
pub fn show(status: &Status, width: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    }
    append(&mut table, "kernel", &status.kernel, "");
    let module = status.module.as_deref().unwrap_or("not loaded");
    append(&mut table, "module", module, "");
    if status.masquerade {
        append(
            &mut table,
            "parameter",
            "masquerade",
            "serves rules of MASQUERADE",
        );
    }
    for event in &status.events {
        let (name, place) = event.split_once(' ').unwrap_or((event, ""));
        append(&mut table, "event", name, place);
    }
    for place in &status.namespaces {
        append_namespace(&mut table, place);
    }
    for fault in &status.faults {
        let namespace = fault.namespace.as_deref().unwrap_or(NONE);
        append(&mut table, "WRONG", namespace, &fault.fault);
        append(&mut table, "  cure", namespace, &fault.cure);
    }
    for what in &status.unseen {
        append(&mut table, "not seen", NONE, what);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    let mut text = table.trim_fmt() + "\n";
    if status.faults.is_empty() && status.unseen.is_empty() {
        text += "all is well\n";
    }
    text
}

/// Appends what is known of a namespace.
fn append_namespace(table: &mut Table, place: &Place) {
    append(table, "namespace", &place.namespace, "");
    for rule in &place.rules {
        append(table, "  rule", &rule.program, &rule.rule);
    }
    for object in &place.nft_helpers {
        let name = format!("{} {} {}", object.family, object.table, object.name);
        append(table, "  ct helper", "nft", &name);
    }
    for MasqueradeChain {
        family,
        table: name,
        chain,
    } in &place.nft_masquerades
    {
        append(
            table,
            "  rule",
            "nft",
            &format!("masquerade in {family} {name} {chain}"),
        );
    }
    for (name, addresses) in &place.devices {
        let addresses = if addresses.is_empty() {
            "no address".to_owned()
        } else {
            addresses.join(" ")
        };
        append(table, "  device", name, &addresses);
    }
    for (name, flows) in &place.helpers {
        append(
            table,
            "  helper",
            name,
            &format!("{} flows", number(*flows)),
        );
    }
    let Conntrack {
        flows,
        max,
        counters,
    } = &place.conntrack;
    let of_table = format!("{} of {}", number(*flows), number(*max));
    append(table, "  conntrack", "flows", &of_table);
    if let Some(counters) = counters {
        for (name, value) in [
            ("insert_failed", counters.insert_failed),
            ("drop", counters.drop),
            ("early_drop", counters.early_drop),
        ] {
            append(table, "  counter", name, &value.to_string());
        }
    }
}

fn append(table: &mut Table, kind: &str, name: &str, text: &str) {
    table.add_row([kind, &printable(name), &printable(text)]);
}

fn number(number: Option<u64>) -> String {
    number.map_or("?".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        readers::{nft::HelperObject, proc::ConntrackCounters},
        status::{Fault, Rule},
    };
    use std::collections::{BTreeMap, BTreeSet};

    fn status() -> Status {
        let helpers = [("rustmasq-tftp", Some(3)), ("tftp", None)];
        Status {
            kernel: "7.3.0".to_owned(),
            module: None,
            masquerade: true,
            events: vec!["packet in /sys/kernel/tracing".to_owned()],
            namespaces: vec![Place {
                netns: 1,
                namespace: "router".to_owned(),
                rules: vec![Rule {
                    program: "iptables-legacy".to_owned(),
                    rule: "-t nat -A POSTROUTING -o wan0 -j RUSTMASQ".to_owned(),
                }],
                devices: BTreeMap::from([
                    (
                        "wan0".to_owned(),
                        vec!["203.0.113.1".to_owned(), "2001:db8::1".to_owned()],
                    ),
                    ("a\u{1b}[7m".to_owned(), vec![]),
                ]),
                nft_helpers: vec![HelperObject {
                    family: "inet".to_owned(),
                    table: "t".to_owned(),
                    name: "x".to_owned(),
                    helper: "rustmasq-tftp".to_owned(),
                }],
                nft_masquerades: vec![MasqueradeChain {
                    family: "inet".to_owned(),
                    table: "t".to_owned(),
                    chain: "out".to_owned(),
                }],
                helpers: helpers.map(|(name, flows)| (name.to_owned(), flows)).into(),
                conntrack: Conntrack {
                    flows: Some(5),
                    max: None,
                    counters: Some(ConntrackCounters {
                        insert_failed: 1,
                        drop: 2,
                        early_drop: 0,
                    }),
                },
            }],
            faults: vec![Fault {
                namespace: Some("router".to_owned()),
                fault: "net.ipv4.ip_forward is 0: packets of other hosts are not forwarded"
                    .to_owned(),
                cure: "sysctl net.ipv4.ip_forward=1".to_owned(),
            }],
            unseen: BTreeSet::new(),
        }
    }

    #[test]
    fn a_line_for_each_fact() {
        let expected = "\
kernel       7.3.0
module       not loaded
parameter    masquerade       serves rules of MASQUERADE
event        packet           in /sys/kernel/tracing
namespace    router
  rule       iptables-legacy  -t nat -A POSTROUTING -o wan0 -j RUSTMASQ
  ct helper  nft              inet t x
  rule       nft              masquerade in inet t out
  device     a\\x1b[7m         no address
  device     wan0             203.0.113.1 2001:db8::1
  helper     rustmasq-tftp    3 flows
  helper     tftp             ? flows
  conntrack  flows            5 of ?
  counter    insert_failed    1
  counter    drop             2
  counter    early_drop       0
WRONG        router           net.ipv4.ip_forward is 0: packets of other hosts are not forwarded
  cure       router           sysctl net.ipv4.ip_forward=1
";
        assert_eq!(show(&status(), None), expected);
        assert_eq!(show(&status(), Some(200)), expected);
    }

    #[test]
    fn all_is_well_if_nothing_is_wrong_or_unseen() {
        let mut status = status();
        status.faults.clear();
        assert!(show(&status, None).ends_with("0\nall is well\n"));
        status.unseen.insert("iptables: No such file".to_owned());
        let shown = show(&status, None);
        assert!(shown.ends_with("\nnot seen     -                iptables: No such file\n"));
    }

    #[test]
    fn a_narrow_terminal_folds_and_loses_no_word() {
        let words = |text: &str| {
            let mut words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        let whole = show(&status(), None);
        for width in [55, 60, 79, 80] {
            let folded = show(&status(), Some(width));
            assert!(folded.lines().all(|line| line.len() <= width), "{folded}");
            assert!(folded.lines().count() > whole.lines().count());
            assert_eq!(words(&folded), words(&whole), "{folded}");
        }
        // Words are folded as well.
        let characters = |text: &str| {
            let mut all: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
            all.sort_unstable();
            all
        };
        for width in [0, 1, 20, 40] {
            let folded = show(&status(), Some(width));
            assert_eq!(characters(&folded), characters(&whole), "{folded}");
        }
    }
}
