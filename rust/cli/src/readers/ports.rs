// SPDX-License-Identifier: GPL-2.0

//! The module's counters and pools, /proc/net/rustmasq and /proc/net/rustmasq_pools.

use serde::{ser::SerializeMap, Serialize, Serializer};
use std::net::IpAddr;

/// A number of /proc/net/rustmasq.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// It only grows.
    pub grows: bool,
    /// A short explanation.
    pub meaning: &'static str,
}

const fn counter(name: &'static str, meaning: &'static str) -> Field {
    Field {
        name,
        grows: true,
        meaning,
    }
}

const fn gauge(name: &'static str, meaning: &'static str) -> Field {
    Field {
        name,
        grows: false,
        meaning,
    }
}

/// The numbers, in the file's order.
pub const FIELDS: [Field; 15] = [
    counter("flows_masqueraded", "flows that RUSTMASQ gave a source"),
    counter("ports_kept", "of these, flows that kept their port"),
    counter("ports_moved", "of these, flows that got another port"),
    counter("ports_refused", "packets dropped: all ports were taken"),
    counter("flows_over_limit", "packets dropped: host has its flows"),
    counter("lookups", "conntrack look-ups to choose ports"),
    counter("races_avoided", "ports that another flow had just chosen"),
    gauge("pools", "crowded destinations with a pool of ports"),
    gauge("pools_most", "the most pools at any time"),
    counter("pools_denied", "pools that were not to be had"),
    gauge("mappings", "mappings of inside addresses and ports"),
    counter("mappings_denied", "flows that got a port, but no mapping"),
    counter("inbound_filtered", "packets dropped: not spoken to"),
    counter("flows_flushed", "flows forgotten: address or device gone"),
    counter("no_address", "packets dropped: no address to leave with"),
];

/// The numbers of a namespace, as [`FIELDS`] names them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters([u64; FIELDS.len()]);

impl Counters {
    /// Parses /proc/net/rustmasq: a name and a number a line. Names that are not known are of a later version.
    ///
    /// Returns the name that is missing or has no number.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let number = |wanted: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
            pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
        };
        let mut counters = Self::default();
        for (value, field) in counters.0.iter_mut().zip(&FIELDS) {
            *value = number(field.name).ok_or(field.name)?;
        }
        Ok(counters)
    }

    /// Returns the numbers with what they are.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Field, u64)> + '_ {
        FIELDS.iter().zip(self.0)
    }
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(FIELDS.len()))?;
        for (field, value) in self.iter() {
            map.serialize_entry(field.name, &value)?;
        }
        map.end()
    }
}

/// The pool of a crowded destination.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Pool {
    /// The protocol's name, or its number.
    pub protocol: String,
    /// The address that the flows go to.
    pub destination: IpAddr,
    /// The port that they go to; 0 for ICMP.
    pub port: u16,
    /// The address that they leave with.
    pub source: IpAddr,
    /// The conntrack zone.
    pub zone: u16,
    /// The ports or identifiers that they may get: FIRST-LAST; several such, with commas; or psid:OFFSET/LENGTH/PSID.
    /// After a `!` follow those that are left out, or `reserved`.
    pub range: String,
    /// The number of ports that flows have.
    pub in_use: u32,
    /// The number of those that were freed less than a minute ago.
    pub resting: u32,
    /// The number of others.
    pub free: u32,
}

impl Pool {
    /// Parses /proc/net/rustmasq_pools: a pool a line, NAME=VALUE each. Returns a line that cannot be understood.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, &str> {
        text.lines()
            .map(|line| Self::parse(line).ok_or(line))
            .collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let value = |wanted: &str| {
            let mut pairs = line.split(' ').filter_map(|word| word.split_once('='));
            pairs
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        Some(Self {
            protocol: value("protocol")?.to_owned(),
            destination: value("destination")?.parse().ok()?,
            port: value("port")?.parse().ok()?,
            source: value("source")?.parse().ok()?,
            zone: value("zone")?.parse().ok()?,
            range: value("range").filter(|range| is_range(range))?.to_owned(),
            in_use: value("in_use")?.parse().ok()?,
            resting: value("resting")?.parse().ok()?,
            free: value("free")?.parse().ok()?,
        })
    }

    /// Returns the number of ports.
    pub fn size(&self) -> u64 {
        u64::from(self.in_use) + u64::from(self.resting) + u64::from(self.free)
    }
}

/// Sorts pools, the fullest first.
pub fn sort_by_fill(pools: &mut [Pool]) {
    // The fractions in_use / size are compared without rounding.
    pools.sort_by(|a, b| {
        let left = u64::from(b.in_use) * a.size();
        let right = u64::from(a.in_use) * b.size();
        left.cmp(&right).then(b.in_use.cmp(&a.in_use))
    });
}

/// Returns whether the text has the form of a pool's ports.
fn is_range(text: &str) -> bool {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_list = |text: &str| {
        text.split(',').all(|part| match part.split_once('-') {
            Some((first, last)) => is_port(first) && is_port(last),
            None => is_port(part),
        })
    };
    let mut parts = text.split('!');
    let has_ports = parts
        .next()
        .is_some_and(|ports| match ports.strip_prefix("psid:") {
            Some(set) => set.split('/').filter(|number| is_port(number)).count() == 3,
            None => is_list(ports),
        });
    has_ports && parts.all(|left_out| left_out == "reserved" || is_list(left_out))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The content of /proc/net/rustmasq with the numbers 1, 2, ...
    pub const COUNTERS: &str = "\
flows_masqueraded 1
ports_kept 2
ports_moved 3
ports_refused 4
flows_over_limit 5
lookups 6
races_avoided 7
pools 8
pools_most 9
pools_denied 10
mappings 11
mappings_denied 12
inbound_filtered 13
flows_flushed 14
no_address 18446744073709551615
";

    /// The content of /proc/net/rustmasq_pools.
    pub const POOLS: &str = "\
protocol=udp destination=203.0.113.2 port=53 source=203.0.113.1 zone=0 range=1024-65535 in_use=64000 resting=12 free=500
protocol=icmpv6 destination=2001:db8:1::2 port=0 source=2001:db8:1::1 zone=7 range=0-65535 in_use=1 resting=0 free=65535
protocol=tcp destination=203.0.113.2 port=80 source=203.0.113.1 zone=0 range=6000-6019 in_use=20 resting=0 free=0
";

    #[test]
    fn counters_by_their_names() {
        let counters = Counters::parse(COUNTERS).unwrap();
        assert_eq!(
            counters.0,
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, u64::MAX]
        );
        let names: Vec<_> = COUNTERS
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(FIELDS.map(|field| field.name)[..], names);
        let more = format!("new 1\n{COUNTERS}newer 2 3\nx\n");
        assert_eq!(Counters::parse(&more), Ok(counters));
    }

    #[test]
    fn a_missing_or_wrong_counter_is_named() {
        for (text, name) in [
            ("", "flows_masqueraded"),
            (&COUNTERS.replace("lookups 6\n", "")[..], "lookups"),
            (&COUNTERS.replace("pools 8", "pools -8"), "pools"),
            (&COUNTERS.replace("pools 8", "pools  8"), "pools"),
        ] {
            assert_eq!(Counters::parse(text), Err(name));
        }
    }

    #[test]
    fn pools_with_all_their_fields() {
        let pools = Pool::parse_all(POOLS).unwrap();
        let expected = Pool {
            protocol: "icmpv6".to_owned(),
            destination: "2001:db8:1::2".parse().unwrap(),
            port: 0,
            source: "2001:db8:1::1".parse().unwrap(),
            zone: 7,
            range: "0-65535".to_owned(),
            in_use: 1,
            resting: 0,
            free: 65535,
        };
        assert_eq!((pools.len(), &pools[1]), (3, &expected));
        assert_eq!(Pool::parse_all(""), Ok(vec![]));
    }

    #[test]
    fn forms_of_ports() {
        let line = POOLS.lines().next().unwrap();
        let parse =
            |range: &str| Pool::parse(&line.replace("1024-65535", range)).map(|pool| pool.range);
        for range in [
            "7-7",
            "1024-2047,4096-8191,50000",
            "psid:6/8/52",
            "psid:6/8/52!1232!reserved",
            "1024-65535!8080,30000-32767",
            "5,7!reserved",
        ] {
            assert_eq!(parse(range).as_deref(), Some(range));
        }
        for range in [
            "",
            "5-",
            "5,",
            "psid:6/8",
            "psid:6/8/x",
            "5!",
            "5!free",
            "x",
            "5-65536",
            "!5",
        ] {
            assert_eq!(parse(range), None, "{range:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_pool_is_returned() {
        let line = POOLS.lines().next().unwrap();
        for (from, to) in [
            ("in_use", "used"),
            ("203.0.113.2", "203.0.113"),
            ("-65535", "-65536"),
            ("zone=0", "zone="),
        ] {
            let wrong = line.replace(from, to);
            assert_eq!(
                Pool::parse_all(&format!("{line}\n{wrong}\n")),
                Err(&wrong[..])
            );
        }
    }

    #[test]
    fn the_fullest_pool_comes_first() {
        let mut pools = Pool::parse_all(POOLS).unwrap();
        sort_by_fill(&mut pools);
        let in_use: Vec<_> = pools.iter().map(|pool| pool.in_use).collect();
        assert_eq!(in_use, [20, 64000, 1]);
    }
}
