// SPDX-License-Identifier: GPL-2.0

//! The protocols whose ports can be masqueraded.

use std::fmt;

/// The family of a rule: iptables' or ip6tables'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// What a rule's `-p` says.
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
    /// The names of the protocols that `--to-ports` may be used with.
    pub(crate) fn protocols_with_ports(self) -> &'static str {
        match self {
            Self::Ipv4 => "tcp, udp, sctp or icmp",
            Self::Ipv6 => "tcp, udp, sctp or ipv6-icmp",
        }
    }

    /// Whether connection tracking knows `protocol`'s flows by ports or by query identifiers.
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
    /// From the protocol number and the inversion flag of a rule, where number 0 stands for all.
    pub(crate) fn new(number: u16, inverted: bool) -> Self {
        match (number, inverted) {
            (0, _) => Self::Any,
            (number, false) => Self::Only(number),
            (number, true) => Self::AllBut(number),
        }
    }

    /// Whether every packet of the rule has ports or query identifiers.
    pub(crate) fn has_ports(self, family: Family) -> bool {
        match self {
            Self::Only(number) => family.has_ports(number),
            Self::Any | Self::AllBut(_) => false,
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

/// Shows a protocol by its name, if it is one of those that matter here, else by its number.
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
    fn ports_in_both_families() {
        for family in [Ipv4, Ipv6] {
            for number in [TCP, UDP, SCTP] {
                assert!(RuleProtocol::new(number, false).has_ports(family));
            }
        }
    }

    #[test]
    fn icmp_belongs_to_ipv4() {
        assert!(RuleProtocol::Only(ICMP).has_ports(Ipv4));
        assert!(!RuleProtocol::Only(ICMP).has_ports(Ipv6));
    }

    #[test]
    fn icmpv6_belongs_to_ipv6() {
        assert!(RuleProtocol::Only(ICMPV6).has_ports(Ipv6));
        assert!(!RuleProtocol::Only(ICMPV6).has_ports(Ipv4));
    }

    #[test]
    fn exactly_four_protocols_have_ports() {
        for family in [Ipv4, Ipv6] {
            let with_ports =
                (0..=u16::MAX).filter(|&n| RuleProtocol::new(n, false).has_ports(family));
            assert_eq!(4, with_ports.count());
        }
    }

    #[test]
    fn inverted_never() {
        for family in [Ipv4, Ipv6] {
            assert!((0..=u16::MAX).all(|n| !RuleProtocol::new(n, true).has_ports(family)));
        }
    }

    #[test]
    fn zero_is_every_protocol() {
        assert_eq!(RuleProtocol::Any, RuleProtocol::new(0, false));
        assert_eq!(RuleProtocol::Any, RuleProtocol::new(0, true));
    }

    #[test]
    fn shown() {
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
