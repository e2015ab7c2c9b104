// SPDX-License-Identifier: GPL-2.0

//! Conntrack's messages about flows that end, and its answers to a dump (`nf_conntrack_netlink.c`).

use super::{
    events::{Endpoint, Icmp, Tuple, Zones},
    netlink::{array, attribute, messages},
};
use crate::output::text_of;
use std::net::IpAddr;

/// The type of a message about a flow that ended: `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// The type of a message about a flow in a dump: `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 1 << 8;
/// The types of an error and of a dump's end (`NLMSG_ERROR`, `NLMSG_DONE`).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The length of `struct nfgenmsg`, which precedes the attributes.
const FAMILY_HEADER: usize = 4;

// enum ctattr_type
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const HELP: u16 = 5;
const MARK: u16 = 8;
const COUNTERS_ORIG: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TIMESTAMP: u16 = 20;
// enum ctattr_tuple
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
// enum ctattr_ip
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
// enum ctattr_l4proto
const PROTO_NUM: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;
const ICMP_ID: u16 = 4;
const ICMP_TYPE: u16 = 5;
const ICMP_CODE: u16 = 6;
const ICMPV6_ID: u16 = 7;
const ICMPV6_TYPE: u16 = 8;
const ICMPV6_CODE: u16 = 9;
// enum ctattr_counters
const PACKETS: u16 = 1;
const BYTES: u16 = 2;
// enum ctattr_tstamp
const START: u16 = 1;
const STOP: u16 = 2;

// enum ctattr_help
const HELP_NAME: u16 = 1;

/// The packets and bytes that conntrack counted in one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

/// A flow that ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// The flow's id.
    pub id: u32,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The flow's packets before NAT.
    pub original: Tuple,
    /// The replies before NAT translates them back.
    pub reply: Tuple,
    /// The type and code of an ICMP flow.
    pub icmp: Icmp,
    /// The status, bits of `enum ip_conntrack_status`.
    pub status: u32,
    /// The flow's mark.
    pub mark: u32,
    /// The conntrack zones.
    pub zone: Zones,
    /// The packets of the original direction and those of the reply direction, if they were counted.
    pub counters: Option<(Counters, Counters)>,
    /// Begin and end, in nanoseconds since 1970, if they were noted.
    pub times: Option<(u64, u64)>,
}

/// Returns the flows of a datagram, `None` for a message about one that cannot be understood.
pub fn parse_ended(datagram: &[u8]) -> impl Iterator<Item = Option<Ended>> + '_ {
    messages(datagram)
        .filter(|message| message.kind == DELETE)
        .map(|message| parse(message.payload.get(FAMILY_HEADER..)?))
}

/// A message of a dump.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dumped {
    /// A flow, with the name of its helper if it has one.
    Flow(Option<String>),
    /// The end of the dump, with the error's number if it failed.
    End(Option<i32>),
}

/// Returns the messages of a datagram of a dump.
pub fn parse_dump(datagram: &[u8]) -> impl Iterator<Item = Dumped> + '_ {
    messages(datagram).filter_map(|message| match message.kind {
        NEW => {
            let attributes = message.payload.get(FAMILY_HEADER..)?;
            let help = attribute(attributes, HELP);
            let name = help.and_then(|help| attribute(help, HELP_NAME));
            Some(Dumped::Flow(name.map(|name| {
                let name = name.strip_suffix(b"\0").unwrap_or(name);
                text_of(name).into_owned()
            })))
        }
        ERROR | DONE => {
            let number = message.payload.get(..4).and_then(array);
            let number = number.map_or(0, i32::from_ne_bytes).saturating_neg();
            Some(Dumped::End((number != 0).then_some(number)))
        }
        _ => None,
    })
}

fn parse(attributes: &[u8]) -> Option<Ended> {
    let original = parse_tuple(attribute(attributes, TUPLE_ORIG)?)?;
    let reply = parse_tuple(attribute(attributes, TUPLE_REPLY)?)?;
    let word = |kind| attribute(attributes, kind).map(|bytes| array(bytes).map(u32::from_be_bytes));
    // A zone of both directions is an attribute of the flow, a zone of one direction is one of its tuple.
    let zone = attribute(attributes, ZONE).map_or(Some(0), number)?;
    let counters = |kind| attribute(attributes, kind).and_then(parse_counters);
    let times = attribute(attributes, TIMESTAMP);
    Some(Ended {
        id: word(ID)??,
        protocol: original.protocol,
        original: original.ends,
        reply: reply.ends,
        icmp: original.icmp,
        status: word(STATUS).unwrap_or(Some(0))?,
        mark: word(MARK).unwrap_or(Some(0))?,
        zone: Zones {
            original: original.zone.unwrap_or(zone),
            reply: reply.zone.unwrap_or(zone),
        },
        counters: counters(COUNTERS_ORIG).zip(counters(COUNTERS_REPLY)),
        times: times.and_then(|times| Some((long(times, START)?, long(times, STOP)?))),
    })
}

struct Parsed {
    protocol: u8,
    ends: Tuple,
    icmp: Icmp,
    zone: Option<u16>,
}

fn parse_tuple(attributes: &[u8]) -> Option<Parsed> {
    let addresses = attribute(attributes, TUPLE_IP)?;
    let proto = attribute(attributes, TUPLE_PROTO)?;
    let [protocol] = array(attribute(proto, PROTO_NUM)?)?;
    let port = |kind| attribute(proto, kind).map_or(Some(0), number);
    let (source_port, destination_port, icmp) = match protocol {
        1 => parse_icmp(proto, [ICMP_ID, ICMP_TYPE, ICMP_CODE], &[8, 13, 15, 17])?,
        58 => parse_icmp(proto, [ICMPV6_ID, ICMPV6_TYPE, ICMPV6_CODE], &[128, 139])?,
        _ => (
            port(SRC_PORT)?,
            port(DST_PORT)?,
            Icmp { r#type: 0, code: 0 },
        ),
    };
    let end = |v4, v6, port| {
        let address = match attribute(addresses, v4) {
            Some(bytes) => IpAddr::from(array::<4>(bytes)?),
            None => IpAddr::from(array::<16>(attribute(addresses, v6)?)?),
        };
        Some(Endpoint { address, port })
    };
    Some(Parsed {
        protocol,
        ends: Tuple {
            source: end(V4_SRC, V6_SRC, source_port)?,
            destination: end(V4_DST, V6_DST, destination_port)?,
        },
        icmp,
        zone: attribute(attributes, TUPLE_ZONE)
            .map(number)
            .map_or(Some(None), |zone| zone.map(Some))?,
    })
}

/// Returns source port, destination port, and type and code: a query identifier is the port of the one that asks.
fn parse_icmp(proto: &[u8], kinds: [u16; 3], queries: &[u8]) -> Option<(u16, u16, Icmp)> {
    let [id, kind, code] = kinds.map(|kind| attribute(proto, kind));
    let (id, [kind], [code]) = (number(id?)?, array(kind?)?, array(code?)?);
    let icmp = Icmp { r#type: kind, code };
    Some(if queries.contains(&kind) {
        (id, 0, icmp)
    } else {
        (0, id, icmp)
    })
}

fn parse_counters(attributes: &[u8]) -> Option<Counters> {
    Some(Counters {
        packets: long(attributes, PACKETS)?,
        bytes: long(attributes, BYTES)?,
    })
}

fn number(bytes: &[u8]) -> Option<u16> {
    array(bytes).map(u16::from_be_bytes)
}

fn long(attributes: &[u8], kind: u16) -> Option<u64> {
    array(attribute(attributes, kind)?).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of the kernel, and lines that conntrack(8) printed of the same flows, in another order.
    const SENT: &str = include_str!("../../tests/data/conntrack_destroy.hex");
    const PRINTED: &str = include_str!("../../tests/data/conntrack_destroy.txt");

    fn recorded() -> Vec<Vec<u8>> {
        decode(SENT)
    }

    fn decode(text: &str) -> Vec<Vec<u8>> {
        let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap_or(0);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                (0..line.len())
                    .step_by(2)
                    .map(|at| byte(line, at))
                    .collect()
            })
            .collect()
    }

    /// Returns the flow in the words of conntrack(8), sorted.
    fn words(flow: &Ended) -> Vec<String> {
        let mut words = vec![format!("id={}", flow.id)];
        for (tuple, answers) in [(flow.original, false), (flow.reply, true)] {
            let Tuple {
                source,
                destination,
            } = tuple;
            words.push(format!("src={}", source.address));
            words.push(format!("dst={}", destination.address));
            if flow.icmp.r#type == 0 {
                words.push(format!("sport={}", source.port));
                words.push(format!("dport={}", destination.port));
            } else {
                words.push(format!(
                    "id={}",
                    if answers {
                        destination.port
                    } else {
                        source.port
                    }
                ));
            }
        }
        for counters in flow
            .counters
            .iter()
            .flat_map(|(original, reply)| [original, reply])
        {
            words.push(format!("packets={}", counters.packets));
            words.push(format!("bytes={}", counters.bytes));
        }
        match flow.zone {
            Zones {
                original: 0,
                reply: 0,
            } => {}
            Zones { original, reply } if original == reply => {
                words.push(format!("zone={original}"))
            }
            Zones { original, .. } => words.push(format!("zone-orig={original}")),
        }
        if flow.mark != 0 {
            words.push(format!("mark={}", flow.mark));
        }
        if let Some((start, stop)) = flow.times {
            words.push(format!(
                "delta-time={}",
                stop / 1_000_000_000 - start / 1_000_000_000
            ));
        }
        words.sort();
        words
    }

    #[test]
    fn recorded_messages_say_what_conntrack_prints() {
        let known = [
            "id",
            "src",
            "dst",
            "sport",
            "dport",
            "packets",
            "bytes",
            "zone",
            "zone-orig",
            "mark",
            "delta-time",
        ];
        let is_known = |word: &&str| {
            word.split_once('=')
                .is_some_and(|(name, _)| known.contains(&name))
        };
        let mut printed: Vec<Vec<String>> = Vec::new();
        for line in PRINTED.lines().filter(|line| !line.starts_with('#')) {
            let mut words: Vec<_> = line
                .split(' ')
                .filter(is_known)
                .map(str::to_owned)
                .collect();
            words.sort();
            printed.push(words);
        }
        let mut parsed: Vec<_> = recorded()
            .iter()
            .flat_map(|bytes| parse_ended(bytes).collect::<Vec<_>>())
            .map(|flow| flow.map_or(vec![], |flow| words(&flow)))
            .collect();
        parsed.sort();
        printed.sort();
        assert_eq!(parsed, printed);
        assert_eq!(parsed.len(), 7);
    }

    #[test]
    fn icmp_flows_have_type_and_code() {
        let all = recorded();
        let kinds: Vec<_> = all
            .iter()
            .flat_map(|bytes| parse_ended(bytes))
            .flatten()
            .map(|flow| flow.icmp.r#type)
            .collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == 8).count(), 1);
        assert_eq!(kinds.iter().filter(|kind| **kind == 128).count(), 1);
    }

    #[test]
    fn a_message_that_is_cut_is_no_flow() {
        for bytes in recorded() {
            for end in 0..bytes.len() {
                assert_eq!(parse_ended(&bytes[..end]).count(), 0);
            }
            // Cut, with a length that says so: some attributes are missing.
            let mut lengths = 0;
            for end in (20..bytes.len()).step_by(4) {
                let mut cut = bytes[..end].to_vec();
                cut[..4].copy_from_slice(&u32::try_from(end).unwrap_or(0).to_ne_bytes());
                lengths += usize::from(parse_ended(&cut).all(|flow| flow.is_none()));
            }
            assert!(lengths >= 20, "{lengths}");
        }
    }

    #[test]
    fn no_change_of_a_byte_is_a_panic() {
        for bytes in recorded() {
            for at in 0..bytes.len() {
                for value in [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    assert!(parse_ended(&changed).count() <= bytes.len() / 16);
                }
            }
        }
    }

    #[test]
    fn other_messages_are_passed_over() {
        let Some(mut bytes) = recorded().into_iter().next() else {
            panic!("nothing is recorded")
        };
        bytes[4] = 0;
        assert_eq!(parse_ended(&bytes).count(), 0);
    }

    /// A dump, and what conntrack(8) printed of the same flows, not in the same order.
    const DUMPED: &str = include_str!("../../tests/data/conntrack_dump.hex");
    const DUMP_PRINTED: &str = include_str!("../../tests/data/conntrack_dump.txt");

    #[test]
    fn a_recorded_dump_has_the_helpers_that_conntrack_prints() {
        let mut printed: Vec<_> = DUMP_PRINTED
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let helper = line
                    .split(' ')
                    .find_map(|word| word.strip_prefix("helper="));
                Dumped::Flow(helper.map(str::to_owned))
            })
            .collect();
        let mut parsed: Vec<_> = decode(DUMPED)
            .iter()
            .flat_map(|bytes| parse_dump(bytes).collect::<Vec<_>>())
            .collect();
        assert_eq!(parsed.pop(), Some(Dumped::End(None)));
        let order = |one: &Dumped, other: &Dumped| format!("{one:?}").cmp(&format!("{other:?}"));
        parsed.sort_by(order);
        printed.sort_by(order);
        assert_eq!(parsed, printed);
        assert_eq!(parsed.len(), 5);
    }

    #[test]
    fn a_dump_that_fails_has_an_error() {
        let message = |kind: u16, content: &[u8]| {
            let length = u32::try_from(HEADER + content.len()).unwrap_or(0);
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes.extend(content);
            parse_dump(&bytes).collect::<Vec<_>>()
        };
        // EPERM
        assert_eq!(message(2, &(-1_i32).to_ne_bytes()), [Dumped::End(Some(1))]);
        assert_eq!(message(3, &(-1_i32).to_ne_bytes()), [Dumped::End(Some(1))]);
        assert_eq!(message(3, &0_i32.to_ne_bytes()), [Dumped::End(None)]);
        let most = Dumped::End(Some(i32::MAX));
        assert_eq!(message(2, &i32::MIN.to_ne_bytes()), [most]);
        for kind in [2, 3] {
            assert_eq!(message(kind, &[]), [Dumped::End(None)]);
        }
        assert_eq!(message(0x100, &[]), []);
        assert_eq!(message(0x102, &[0; 8]), []);
    }

    #[test]
    fn no_change_of_a_dump_is_a_panic() {
        for bytes in decode(DUMPED) {
            for at in 0..bytes.len() {
                for value in [0, 1, 4, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    assert!(parse_dump(&changed).count() <= bytes.len() / 16);
                }
                assert!(parse_dump(&bytes[..at]).count() <= 5);
            }
        }
    }

    /// The length of a message's header.
    const HEADER: usize = 16;
}
