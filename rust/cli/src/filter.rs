// SPDX-License-Identifier: GPL-2.0

//! The values of the options that select flows.

use std::net::IpAddr;

/// The protocols that events show by name. They show others as hexadecimal numbers.
const PROTOCOLS: [(u8, &str); 6] = [
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (47, "gre"),
    (58, "icmpv6"),
    (132, "sctp"),
];

/// Returns the name or the hexadecimal number by which events show the protocol.
pub fn protocol_name(number: u8) -> String {
    match PROTOCOLS.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{number:#x}"),
    }
}

/// Parses the value of `--protocol`: a name, or a decimal or hexadecimal number. Returns it as events show it.
pub fn parse_protocol(text: &str) -> Result<String, String> {
    if PROTOCOLS.iter().any(|(_, name)| *name == text) {
        return Ok(text.to_owned());
    }
    let number = match text.strip_prefix("0x") {
        Some(digits) => parse_digits(digits, 16),
        None => parse_digits(text, 10),
    };
    let number = number.and_then(|number| u8::try_from(number).ok());
    number.map(protocol_name).ok_or_else(|| {
        let names = PROTOCOLS.map(|(_, name)| name).join(", ");
        format!("'{text}' is none of {names} and no number from 0 to 255")
    })
}

/// Parses the value of `--port`.
pub fn parse_port(text: &str) -> Result<u16, String> {
    let number = parse_digits(text, 10).and_then(|number| u16::try_from(number).ok());
    number
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("'{text}' is no number from 1 to 65535"))
}

/// Parses digits, which `from_str_radix` allows a sign before.
fn parse_digits(text: &str, radix: u32) -> Option<u32> {
    let digits = text
        .chars()
        .all(|c| c.is_digit(radix) && !c.is_ascii_uppercase());
    u32::from_str_radix(text, radix).ok().filter(|_| digits)
}

/// A network: the addresses that begin with the same bits as one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Parses the value of `--address`: an address, or one with a prefix length.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_parts(text).ok_or_else(|| {
            format!("'{text}' is neither an address, as 192.0.2.1 or 2001:db8::1, nor a network, as 192.0.2.0/24")
        })
    }

    fn parse_parts(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => parse_digits(length, 10)?,
            None => longest,
        };
        let length = u8::try_from(length).ok().filter(|_| length <= longest)?;
        Some(Self { address, length })
    }

    /// Returns whether the address belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        // A shift by the whole width, which `unwrap_or` catches, leaves nothing to compare.
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let differing = ours.to_bits() ^ other.to_bits();
                differing
                    .checked_shr(32 - u32::from(self.length))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let differing = ours.to_bits() ^ other.to_bits();
                differing
                    .checked_shr(128 - u32::from(self.length))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_named_or_numbered_as_events_show_them() {
        for (text, shown) in [
            ("udp", "udp"),
            ("17", "udp"),
            ("0x11", "udp"),
            ("0", "0x0"),
            ("255", "0xff"),
            ("033", "0x21"),
        ] {
            assert_eq!(parse_protocol(text).as_deref(), Ok(shown));
        }
        for text in [
            "",
            "256",
            "+6",
            "-1",
            "0x",
            "0x100",
            "0xFF",
            "UDP",
            "6 ",
            "99999999999",
            "\u{0663}",
        ] {
            assert!(parse_protocol(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_protocol_number_has_one_name() {
        for number in 0..=255_u8 {
            let name = protocol_name(number);
            assert_eq!(parse_protocol(&number.to_string()), Ok(name.clone()));
            assert_eq!(parse_protocol(&name), Ok(name));
        }
    }

    #[test]
    fn ports() {
        assert_eq!(parse_port("1"), Ok(1));
        assert_eq!(parse_port("65535"), Ok(65535));
        for text in ["", "0", "65536", "+5", "5\n3", " 5", "0x5"] {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_that_are_refused() {
        let wrong = [
            "",
            "203.0.113",
            "fd00::/129",
            "10.0.0.0/33",
            "fe80::1%lan0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "/8",
        ];
        for text in wrong {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }

    /// Compares bit by bit, as text.
    fn has_common_prefix(one: IpAddr, other: IpAddr, length: usize) -> bool {
        let bits = |address| match address {
            IpAddr::V4(address) => format!("{:032b}", u32::from(address)),
            IpAddr::V6(address) => format!("{:0128b}", u128::from(address)),
        };
        one.is_ipv4() == other.is_ipv4() && bits(one)[..length] == bits(other)[..length]
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        let texts = [
            "0.0.0.0",
            "192.0.2.1",
            "192.0.3.1",
            "255.255.255.255",
            "::",
            "2001:db8::1",
            "2001:db8:1::",
            "ff::",
        ];
        let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(addresses.len(), texts.len());
        for one in &addresses {
            for length in 0..=if one.is_ipv4() { 32 } else { 128 } {
                let Ok(network) = Network::parse(&format!("{one}/{length}")) else {
                    panic!("{one}/{length}")
                };
                for other in &addresses {
                    let expected = has_common_prefix(*one, *other, length);
                    assert_eq!(network.contains(*other), expected, "{network:?} {other}");
                }
            }
        }
        assert!(Network::parse("192.0.2.1")
            .is_ok_and(|network| !network.contains([192, 0, 2, 2].into())));
    }
}
