// SPDX-License-Identifier: GPL-2.0

//! A rule's options, parsed once from the binary form that userspace sends.

use super::mapping::Filtering;
use crate::{
    netfilter::nat::{
        PortRange,
        RequestedRange, //
    },
    uapi, //
};
use core::num::NonZeroU16;
use kernel::{
    fmt,
    prelude::*, //
};

/// The options of a rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Options {
    /// The ports or query identifiers to choose from (`--to-ports`).
    pub(crate) to_ports: Option<PortRange>,
    /// A random port is chosen (`--random`, `--random-fully`).
    pub(crate) random: bool,
    /// A packet for which no port is free is answered (`--when-full reject`).
    pub(crate) reject_when_full: bool,
    /// An inside endpoint has one outside port for all destinations, and flows from outside are filtered so
    /// (`--full-cone` and its sisters).
    pub(crate) mapping: Option<Filtering>,
}

/// The reason for which a rule's binary form is refused.
///
/// Its text names the field, the value and what is allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// `flags` has these bits, which have no meaning.
    UnknownFlags(u32),
    /// `reserved` is not zero.
    Reserved,
    /// `min_port` or `max_port` (here in host order) is set without the flag for it.
    PortsWithoutFlag(u16, u16),
    /// `min_port` is 0.
    PortZero,
    /// `max_port` is less than `min_port`; both in host order: minimum, maximum.
    Reversed(u16, u16),
    /// `flags` has several of the bits that exclude each other.
    SeveralCones(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::UnknownFlags(bits) => write!(
                f,
                "flags has unknown bits {bits:#x} (known: {:#x})",
                uapi::XT_RUSTMASQ_FLAGS_ALL
            ),
            Refusal::Reserved => f.write_str("reserved is not zero"),
            Refusal::PortsWithoutFlag(min, max) => write!(
                f,
                "min_port and max_port are {min} and {max} without XT_RUSTMASQ_TO_PORTS (must be 0)"
            ),
            Refusal::PortZero => f.write_str("min_port is 0 (allowed: 1 to 65535)"),
            Refusal::SeveralCones(bits) => write!(
                f,
                "flags has {bits:#x} (allowed: one of {:#x})",
                uapi::XT_RUSTMASQ_CONES
            ),
            Refusal::Reversed(min, max) => {
                write!(f, "max_port {max} is less than min_port {min}")
            }
        }
    }
}

impl Options {
    /// Returns whether the rule lets a flow keep its own port, in host order.
    #[inline(always)]
    pub(super) fn allow(&self, own: u16) -> bool {
        !self.random && self.to_ports.is_none_or(|range| range.contains(own))
    }

    /// Returns the options of a rule for the kernel's own masquerading.
    ///
    /// `NF_NAT_RANGE_PERSISTENT` means nothing for one address, and `NF_NAT_RANGE_PROTO_OFFSET` chooses among the same
    /// ports.
    #[inline(always)]
    pub(super) fn of_range(range: RequestedRange, mapping: Option<Filtering>) -> Self {
        Self {
            to_ports: range.ports(),
            random: range.is_random(),
            reject_when_full: false,
            mapping,
        }
    }

    /// Parses the part of a rule that userspace fills in.
    pub(super) fn parse(rule: &uapi::xt_rustmasq_info) -> Result<Self, Refusal> {
        let has = |flag: u32| rule.flags & flag != 0;
        let unknown = rule.flags & !uapi::XT_RUSTMASQ_FLAGS_ALL;
        if unknown != 0 {
            return Err(Refusal::UnknownFlags(unknown));
        }
        if rule.reserved != [0; 8] {
            return Err(Refusal::Reserved);
        }
        let min = u16::from_be(rule.min_port);
        let max = u16::from_be(rule.max_port);
        let to_ports = if has(uapi::XT_RUSTMASQ_TO_PORTS) {
            Some(parse_range(min, max)?)
        } else if (min, max) != (0, 0) {
            return Err(Refusal::PortsWithoutFlag(min, max));
        } else {
            None
        };
        Ok(Self {
            to_ports,
            random: has(uapi::XT_RUSTMASQ_RANDOM | uapi::XT_RUSTMASQ_RANDOM_FULLY),
            reject_when_full: has(uapi::XT_RUSTMASQ_WHEN_FULL_REJECT),
            mapping: parse_mapping(rule.flags)?,
        })
    }
}

/// Returns the filtering that the flags ask for, if they ask for a mapping.
fn parse_mapping(flags: u32) -> Result<Option<Filtering>, Refusal> {
    match flags & uapi::XT_RUSTMASQ_CONES {
        0 => Ok(None),
        uapi::XT_RUSTMASQ_FULL_CONE => Ok(Some(Filtering::EndpointIndependent)),
        uapi::XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE => Ok(Some(Filtering::AddressDependent)),
        uapi::XT_RUSTMASQ_PORT_RESTRICTED_CONE => Ok(Some(Filtering::AddressAndPortDependent)),
        several => Err(Refusal::SeveralCones(several)),
    }
}

/// Returns the range between two ports in host order.
fn parse_range(min: u16, max: u16) -> Result<PortRange, Refusal> {
    let first = NonZeroU16::new(min).ok_or(Refusal::PortZero)?;
    NonZeroU16::new(max)
        .and_then(|last| PortRange::new(first, last))
        .ok_or(Refusal::Reversed(min, max))
}

#[kunit_tests(rustmasq_options)]
mod tests {
    use super::*;

    fn rule(flags: u32, min_port: u16, max_port: u16) -> uapi::xt_rustmasq_info {
        uapi::xt_rustmasq_info {
            flags,
            min_port: min_port.to_be(),
            max_port: max_port.to_be(),
            ..Default::default()
        }
    }

    fn ports(min_port: u16, max_port: u16) -> Result<Option<(u16, u16)>, Refusal> {
        Options::parse(&rule(uapi::XT_RUSTMASQ_TO_PORTS, min_port, max_port))
            .map(|options| options.to_ports.map(|range| (range.first(), range.last())))
    }

    #[test]
    fn no_options() {
        assert_eq!(Options::parse(&rule(0, 0, 0)), Ok(Options::default()));
    }

    #[test]
    fn port_range_in_host_order() {
        assert_eq!(ports(55666, 55680), Ok(Some((55666, 55680))));
    }

    #[test]
    fn single_port() {
        assert_eq!(ports(1, 1), Ok(Some((1, 1))));
    }

    #[test]
    fn widest_range() {
        assert_eq!(ports(1, 65535), Ok(Some((1, 65535))));
    }

    #[test]
    fn port_zero() {
        assert_eq!(ports(0, 10), Err(Refusal::PortZero));
        assert_eq!(ports(0, 0), Err(Refusal::PortZero));
    }

    #[test]
    fn reversed_range() {
        assert_eq!(ports(10, 9), Err(Refusal::Reversed(10, 9)));
        assert_eq!(ports(10, 0), Err(Refusal::Reversed(10, 0)));
        // This one is reversed in host order only.
        assert_eq!(
            ports(0x0200, 0x0103),
            Err(Refusal::Reversed(0x0200, 0x0103))
        );
    }

    #[test]
    fn range_that_is_reversed_only_in_network_order() {
        assert_eq!(ports(0x0103, 0x0200), Ok(Some((0x0103, 0x0200))));
    }

    #[test]
    fn ports_without_their_flag() {
        let refusal = Err(Refusal::PortsWithoutFlag(5, 0));
        assert_eq!(Options::parse(&rule(0, 5, 0)), refusal);
        let refusal = Err(Refusal::PortsWithoutFlag(0, 5));
        assert_eq!(
            Options::parse(&rule(uapi::XT_RUSTMASQ_RANDOM, 0, 5)),
            refusal
        );
    }

    #[test]
    fn each_flag_sets_its_option() {
        let set =
            |flag: u32| Options::parse(&rule(flag, 0, 0)).map(|o| (o.random, o.reject_when_full));
        for flag in [uapi::XT_RUSTMASQ_RANDOM, uapi::XT_RUSTMASQ_RANDOM_FULLY] {
            assert_eq!(set(flag), Ok((true, false)));
        }
        assert_eq!(set(uapi::XT_RUSTMASQ_WHEN_FULL_REJECT), Ok((false, true)));
    }

    #[test]
    fn all_flags_together() {
        let others = uapi::XT_RUSTMASQ_FLAGS_ALL & !uapi::XT_RUSTMASQ_CONES;
        let options = Options::parse(&rule(others, 7, 8));
        assert_eq!(
            options.map(|o| (o.to_ports.is_some(), o.random, o.reject_when_full)),
            Ok((true, true, true))
        );
    }

    #[test]
    fn one_cone_at_most() {
        let mapping = |flags: u32| Options::parse(&rule(flags, 0, 0)).map(|o| o.mapping);
        let (full, port) = (
            uapi::XT_RUSTMASQ_FULL_CONE,
            uapi::XT_RUSTMASQ_PORT_RESTRICTED_CONE,
        );
        assert_eq!(mapping(0), Ok(None));
        assert_eq!(mapping(full), Ok(Some(Filtering::EndpointIndependent)));
        assert_eq!(mapping(port), Ok(Some(Filtering::AddressAndPortDependent)));
        let address = uapi::XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE;
        assert_eq!(mapping(address), Ok(Some(Filtering::AddressDependent)));
        let both = full | port;
        assert_eq!(mapping(both), Err(Refusal::SeveralCones(both)));
    }

    #[test]
    fn each_unknown_flag() {
        for bit in (0..32).map(|n| 1_u32 << n) {
            if bit & uapi::XT_RUSTMASQ_FLAGS_ALL == 0 {
                let refusal = Err(Refusal::UnknownFlags(bit));
                assert_eq!(Options::parse(&rule(bit, 0, 0)), refusal);
            }
        }
    }

    #[test]
    fn each_reserved_byte() {
        for n in 0..8 {
            let mut rule = rule(0, 0, 0);
            rule.reserved[n] = 1;
            assert_eq!(Options::parse(&rule), Err(Refusal::Reserved));
        }
    }

    #[test]
    fn private_part_is_ignored() {
        let mut rule = rule(0, 0, 0);
        rule.kernel_private = [u64::MAX; 4];
        assert_eq!(Options::parse(&rule), Ok(Options::default()));
    }

    #[test]
    fn refusals_name_the_field() -> Result {
        use kernel::str::CString;
        let text = |refusal: Refusal| CString::try_from_fmt(kernel::prelude::fmt!("{}", refusal));
        assert!(text(Refusal::UnknownFlags(16))?
            .to_bytes()
            .starts_with(b"flags has unknown bits 0x10"));
        assert!(text(Refusal::Reserved)?.to_bytes().starts_with(b"reserved"));
        assert!(text(Refusal::PortZero)?
            .to_bytes()
            .starts_with(b"min_port is 0"));
        assert!(text(Refusal::Reversed(9, 3))?
            .to_bytes()
            .starts_with(b"max_port 3"));
        Ok(())
    }
}
