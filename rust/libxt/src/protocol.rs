// SPDX-License-Identifier: GPL-2.0

//! The protocols that `--to-ports` can be used with.

use std::ffi::CStr;
use std::fmt;

/// The address family of a rule: IPv4 for iptables, IPv6 for ip6tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// The protocols that a rule matches, as given with `-p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleProtocol {
    /// No `-p`, or `-p all`.
    Any,
    /// `-p NUMBER`
    Only(u16),
    /// `! -p NUMBER`
    AllBut(u16),
}

const ICMP: u16 = 1;
const TCP: u16 = 6;
const UDP: u16 = 17;
const ICMPV6: u16 = 58;
const SCTP: u16 = 132;

impl Family {
    /// Returns the names of the protocols that `--to-ports` may be used with.
    pub(crate) fn protocols_with_ports(self) -> &'static str {
        match self {
            Self::Ipv4 => "tcp, udp, sctp or icmp",
            Self::Ipv6 => "tcp, udp, sctp or ipv6-icmp",
        }
    }

    /// Returns whether connection tracking tells flows of `protocol` apart by ports or query
    /// identifiers.
    fn has_ports(self, protocol: u16) -> bool {
        match protocol {
            TCP | UDP | SCTP => true,
            ICMP => self == Self::Ipv4,
            ICMPV6 => self == Self::Ipv6,
            _ => false,
        }
    }
}

impl RuleProtocol {
    /// Creates it from a rule's protocol number, where 0 means all, and its inversion flag.
    pub(crate) fn new(number: u16, inverted: bool) -> Self {
        match (number, inverted) {
            (0, _) => Self::Any,
            (number, false) => Self::Only(number),
            (number, true) => Self::AllBut(number),
        }
    }

    /// Returns whether every packet that the rule matches has ports or query identifiers.
    pub(crate) fn has_ports(self, family: Family) -> bool {
        match self {
            Self::Only(number) => family.has_ports(number),
            Self::Any | Self::AllBut(_) => false,
        }
    }

    /// Returns the name that `/etc/services` has for the protocol, if the rule matches one that
    /// services have.
    pub(crate) fn of_services(self) -> Option<&'static CStr> {
        match self {
            Self::Only(TCP) => Some(c"tcp"),
            Self::Only(UDP) => Some(c"udp"),
            Self::Only(SCTP) => Some(c"sctp"),
            Self::Only(_) | Self::Any | Self::AllBut(_) => None,
        }
    }
}

impl fmt::Display for RuleProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any => f.write_str("every protocol"),
            Self::Only(number) => write!(f, "protocol {}", Name(number)),
            Self::AllBut(number) => write!(f, "every protocol but {}", Name(number)),
        }
    }
}

/// Displays a protocol as its name if it is one of the constants above, else as its number.
struct Name(u16);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ICMP => f.write_str("icmp"),
            TCP => f.write_str("tcp"),
            UDP => f.write_str("udp"),
            ICMPV6 => f.write_str("ipv6-icmp"),
            SCTP => f.write_str("sctp"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Family::{Ipv4, Ipv6};

    #[test]
    fn protocols_with_ports_in_both_families() {
        for family in [Ipv4, Ipv6] {
            for number in [TCP, UDP, SCTP] {
                assert!(RuleProtocol::new(number, false).has_ports(family));
            }
        }
    }

    #[test]
    fn icmp_only_for_ipv4() {
        assert!(RuleProtocol::Only(ICMP).has_ports(Ipv4));
        assert!(!RuleProtocol::Only(ICMP).has_ports(Ipv6));
    }

    #[test]
    fn icmpv6_only_for_ipv6() {
        assert!(RuleProtocol::Only(ICMPV6).has_ports(Ipv6));
        assert!(!RuleProtocol::Only(ICMPV6).has_ports(Ipv4));
    }

    #[test]
    fn four_protocols_have_ports() {
        for family in [Ipv4, Ipv6] {
            let with_ports =
                (0..=u16::MAX).filter(|&n| RuleProtocol::new(n, false).has_ports(family));
            assert_eq!(4, with_ports.count());
        }
    }

    #[test]
    fn inverted_protocols_have_no_ports() {
        for family in [Ipv4, Ipv6] {
            assert!((0..=u16::MAX).all(|n| !RuleProtocol::new(n, true).has_ports(family)));
        }
    }

    #[test]
    fn zero_means_every_protocol() {
        assert_eq!(RuleProtocol::Any, RuleProtocol::new(0, false));
        assert_eq!(RuleProtocol::Any, RuleProtocol::new(0, true));
    }

    #[test]
    fn protocols_of_services() {
        assert_eq!(Some(c"tcp"), RuleProtocol::Only(TCP).of_services());
        assert_eq!(Some(c"udp"), RuleProtocol::Only(UDP).of_services());
        assert_eq!(Some(c"sctp"), RuleProtocol::Only(SCTP).of_services());
        assert_eq!(None, RuleProtocol::Only(ICMP).of_services());
        assert_eq!(None, RuleProtocol::AllBut(TCP).of_services());
        assert_eq!(None, RuleProtocol::Any.of_services());
    }

    #[test]
    fn display() {
        assert_eq!("every protocol", RuleProtocol::new(0, false).to_string());
        assert_eq!("protocol 50", RuleProtocol::new(50, false).to_string());
        assert_eq!(
            "protocol ipv6-icmp",
            RuleProtocol::new(58, false).to_string()
        );
        assert_eq!(
            "every protocol but tcp",
            RuleProtocol::new(6, true).to_string()
        );
    }
}
