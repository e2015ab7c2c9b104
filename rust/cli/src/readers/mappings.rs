// SPDX-License-Identifier: GPL-2.0

//! The mappings that the module has given to inside endpoints.

use crate::filter::protocol_name;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A mapping.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Mapping {
    /// The protocol's name, or its number.
    pub protocol: String,
    /// The inside address and port; for ICMP the port is the query identifier.
    pub inside: SocketAddr,
    /// The outside address and port.
    pub outside: SocketAddr,
    /// The conntrack zone.
    pub zone: u16,
    /// The name of the device that its flows leave by, or its index if there is no such device here.
    pub device: String,
    /// The kind of cone: full, address or port.
    pub cone: String,
    /// The number of flows from inside.
    pub flows: u32,
    /// The number of flows from outside that were led in so far.
    pub inbound: u32,
    /// The number of seconds since it was made.
    pub age: u32,
    /// The number of seconds since it was used from inside.
    pub unused: u32,
}

impl Mapping {
    /// Parses /proc/net/rustmasq_mappings: a mapping a line, NAME=VALUE each. Returns a line that cannot be understood.
    ///
    /// `device` returns the name of a device by its index.
    pub fn parse_all(
        text: &str,
        device: impl Fn(u32) -> Option<String>,
    ) -> Result<Vec<Self>, &str> {
        text.lines()
            .map(|line| Self::parse(line, &device).ok_or(line))
            .collect()
    }

    fn parse(line: &str, device: impl Fn(u32) -> Option<String>) -> Option<Self> {
        let value = |wanted: &str| {
            let mut pairs = line.split(' ').filter_map(|word| word.split_once('='));
            pairs
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let end = |address: &str, port: &str| {
            let address: IpAddr = value(address)?.parse().ok()?;
            Some(SocketAddr::new(address, value(port)?.parse().ok()?))
        };
        let index: u32 = value("device")?.parse().ok()?;
        Some(Self {
            protocol: protocol_name(value("protocol")?.parse().ok()?),
            inside: end("inside", "port")?,
            outside: end("outside", "outside_port")?,
            zone: value("zone")?.parse().ok()?,
            device: device(index).unwrap_or_else(|| index.to_string()),
            cone: value("cone")?.to_owned(),
            flows: value("flows")?.parse().ok()?,
            inbound: value("inbound")?.parse().ok()?,
            age: value("age")?.parse().ok()?,
            unused: value("unused")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The content of the file, with two mappings.
    pub const MAPPINGS: &str = "\
protocol=17 inside=172.18.0.2 port=4000 outside=203.0.113.1 outside_port=4001 zone=0 device=7 cone=full flows=2 inbound=1 age=9 unused=3
protocol=6 inside=fd00:18::2 port=4000 outside=2001:db8:1::1 outside_port=4000 zone=5 device=8 cone=port flows=0 inbound=0 age=400 unused=200
";

    /// Returns the name of device 7 alone.
    pub fn device(index: u32) -> Option<String> {
        (index == 7).then(|| "wan0".to_owned())
    }

    #[test]
    fn a_mapping_a_line() {
        let mappings = Mapping::parse_all(MAPPINGS, device).unwrap();
        let [first, second] = &mappings[..] else {
            panic!("{mappings:?}");
        };
        assert_eq!(first.protocol, "udp");
        assert_eq!(first.inside, "172.18.0.2:4000".parse().unwrap());
        assert_eq!(first.outside, "203.0.113.1:4001".parse().unwrap());
        assert_eq!((first.flows, first.inbound), (2, 1));
        assert_eq!((first.age, first.unused), (9, 3));
        assert_eq!(first.device, "wan0");
        assert_eq!(second.inside, "[fd00:18::2]:4000".parse().unwrap());
        assert_eq!((second.zone, second.device.as_str()), (5, "8"));
        assert_eq!(second.cone, "port");
    }

    #[test]
    fn a_line_that_is_no_mapping_is_returned() {
        assert_eq!(Mapping::parse_all("", device), Ok(vec![]));
        let line = MAPPINGS.lines().next().unwrap();
        for end in 0..line.len() - "3".len() {
            let cut = &line[..end];
            if cut.ends_with("unused=") || end > 0 {
                assert!(Mapping::parse_all(cut, device).is_err(), "{cut}");
            }
        }
    }
}
