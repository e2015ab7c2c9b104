// SPDX-License-Identifier: GPL-2.0

//! A rule's options, parsed once from the binary form that userspace sends.

use super::{
    host_flows::Limit,
    mapping::Filtering,
    port_set::{
        PortBits,
        PortList,
        PortSet,
        PortSetId,
        PortSpec,
        MOST_RANGES, //
    },
    ports, //
};
use crate::{
    net::{
        namespace::Net,
        reserved::ReservedPorts, //
    },
    netfilter::{
        nat::{
            PortRange,
            RequestedRange, //
        },
        xtables::{
            MatchedProtocol,
            OwningOptions,
            StoredOptions, //
        },
    },
    uapi, //
};
use core::{
    mem::offset_of,
    num::{
        NonZeroU16,
        NonZeroU32, //
    },
    ops::Deref,
    slice, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::Arc,
    transmute::FromBytes, //
};

/// The options of a rule that cost nothing to store in it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
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

/// The options that few rules have. A rule that has one of them owns this, on the heap.
#[derive(Default)]
pub(crate) struct MoreOptions {
    /// The ports that a flow may get, if they are not one range (`--to-ports`, `--psid`, `--except-ports`).
    ports: Option<Arc<PortBits>>,
    /// Reserved ports are not chosen (`--except-reserved`).
    except_reserved: bool,
    /// The source address is the one that the route names (`--route-source`).
    pub(super) route_source: bool,
    /// A flow whose source is an address of the outgoing device keeps it (`--keep-own`).
    pub(super) keep_own: bool,
    /// The most flows that an inside address has at a time (`--max-flows-per-host`).
    pub(super) max_flows_per_host: Option<Limit>,
}

/// All options of a rule, as its packets meet them.
#[derive(Clone, Copy)]
pub(crate) struct RuleOptions<'a> {
    options: &'a Options,
    more: Option<&'a MoreOptions>,
}

impl Deref for RuleOptions<'_> {
    type Target = Options;

    #[inline(always)]
    fn deref(&self) -> &Options {
        self.options
    }
}

impl<'a> From<&'a Options> for RuleOptions<'a> {
    #[inline(always)]
    fn from(options: &'a Options) -> Self {
        Self {
            options,
            more: None,
        }
    }
}

impl<'a> RuleOptions<'a> {
    /// Returns the options that only few rules have, if this one has any.
    #[inline(always)]
    pub(super) fn more(&self) -> Option<&'a MoreOptions> {
        self.more
    }

    /// Returns the options that are stored in the rule, without more.
    #[inline(always)]
    pub(super) fn without_more(&self) -> Self {
        self.options.into()
    }

    /// Returns the same options with these that cost nothing to store in a rule.
    pub(super) fn with(&self, options: &'a Options) -> Self {
        Self { options, ..*self }
    }

    /// Returns whether the rule lets a flow of the namespace keep its own port, in host order.
    #[inline(always)]
    pub(super) fn allow(&self, own: u16, net: &Net) -> bool {
        self.options.allow(own) && self.more.is_none_or(|more| more.allow(own, net))
    }

    /// Returns whether a flow of the namespace may get the port, in host order.
    #[inline(always)]
    pub(super) fn offer(&self, port: u16, net: &Net) -> bool {
        self.to_ports.is_none_or(|range| range.contains(port))
            && self.more.is_none_or(|more| more.allow(port, net))
    }

    /// Returns whether a flow may get all ports of one range, or of its class.
    pub(super) fn names_one_range(&self) -> bool {
        let limits = |more: &MoreOptions| more.ports.is_some() || more.except_reserved;
        !self.more.is_some_and(limits)
    }

    /// Returns the sets of ports that a flow of the namespace may get, the best one first.
    ///
    /// `own` is its own port. Without `--to-ports` a flow goes to the next class of ports if its own one is full.
    #[inline(always)]
    pub(super) fn port_sets<'b>(self, own: u16, is_icmp: bool, net: &'b Net) -> PortSets<'b>
    where
        'a: 'b,
    {
        let ranges = match &self.options.to_ports {
            Some(range) => slice::from_ref(range),
            None => ports::class(own, is_icmp),
        };
        let more = self.more;
        PortSets {
            ranges: ranges.iter(),
            bits: more.and_then(|more| more.ports.as_ref()),
            reserved: more.and_then(|more| more.reserved(net)),
        }
    }
}

impl MoreOptions {
    /// Returns whether a flow may get the port.
    #[inline(never)]
    fn allow(&self, port: u16, net: &Net) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(port))
            && !self
                .reserved(net)
                .is_some_and(|reserved| reserved.contains(port))
    }

    /// Returns the ports that are reserved now, if that counts.
    fn reserved<'a>(&self, net: &'a Net) -> Option<ReservedPorts<'a>> {
        self.except_reserved.then(|| net.reserved_ports()).flatten()
    }
}

/// The sets of ports that a flow may get, the best one first. Empty ones are left out.
pub(super) struct PortSets<'a> {
    ranges: slice::Iter<'a, PortRange>,
    bits: Option<&'a Arc<PortBits>>,
    reserved: Option<ReservedPorts<'a>>,
}

impl<'a> PortSets<'a> {
    /// Returns the sets of all ports of some ranges.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn of(ranges: &'a [PortRange]) -> Self {
        Self {
            ranges: ranges.iter(),
            bits: None,
            reserved: None,
        }
    }

    /// Returns the range of the last set, whether it has ports or not.
    #[inline(always)]
    pub(super) fn last_range(&self) -> Option<PortRange> {
        self.ranges.as_slice().last().copied()
    }
}

impl<'a> Iterator for PortSets<'a> {
    type Item = PortSet<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<PortSet<'a>> {
        let Self {
            ranges,
            bits,
            reserved,
        } = self;
        ranges.find_map(|range| PortSet::new(*range, *bits, *reserved))
    }
}

/// A binary form of a rule.
pub(crate) trait Form: FromBytes {
    /// Its revision.
    const REVISION: u8;
    /// The offset of its part for the kernel.
    const PRIVATE_OFFSET: usize;
    /// The options in the form that the rule stores.
    type Stored: StoredOptions;

    /// Returns the options of a rule that matches packets of a protocol. Errors: those of [`CheckError`]. Process context.
    fn check(&self, protocol: MatchedProtocol) -> Result<Self::Stored, CheckError>;

    /// Returns the options as a packet meets them.
    fn options(stored: &Self::Stored) -> RuleOptions<'_>;
}

/// The reason for which a rule cannot be added.
pub(crate) enum CheckError {
    /// Its binary form is wrong.
    Refused(Refusal),
    /// There is no memory.
    Other(Error),
}

impl From<Refusal> for CheckError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Form for uapi::xt_rustmasq_info {
    const REVISION: u8 = 0;
    const PRIVATE_OFFSET: usize = offset_of!(Self, kernel_private);
    type Stored = Options;

    fn check(&self, _: MatchedProtocol) -> Result<Options, CheckError> {
        Ok(Options::parse(self)?)
    }

    #[inline(always)]
    fn options(stored: &Options) -> RuleOptions<'_> {
        stored.into()
    }
}

impl Form for uapi::xt_rustmasq_info_v1 {
    const REVISION: u8 = 1;
    const PRIVATE_OFFSET: usize = offset_of!(Self, kernel_private);
    type Stored = OwningOptions<Options, MoreOptions>;

    fn check(&self, protocol: MatchedProtocol) -> Result<Self::Stored, CheckError> {
        Request::parse(self)?.into_stored(protocol)
    }

    #[inline(always)]
    fn options(stored: &Self::Stored) -> RuleOptions<'_> {
        RuleOptions {
            options: stored.options(),
            more: stored.more(),
        }
    }
}

/// The request of a rule of revision 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Request {
    options: Options,
    ports: PortSpec,
    except_reserved: bool,
    route_source: bool,
    keep_own: bool,
    max_flows_per_host: Option<NonZeroU32>,
}

impl Request {
    /// Parses the part of a rule that userspace fills in.
    fn parse(rule: &uapi::xt_rustmasq_info_v1) -> Result<Self, Refusal> {
        let has = |flag: u32| rule.flags & flag != 0;
        let unknown = rule.flags & !uapi::XT_RUSTMASQ_FLAGS_ALL_V1;
        if unknown != 0 {
            return Err(Refusal::UnknownFlags(
                unknown,
                uapi::XT_RUSTMASQ_FLAGS_ALL_V1,
            ));
        }
        if rule.reserved != [0; 2] {
            return Err(Refusal::Reserved);
        }
        let ports = PortSpec {
            to_ports: parse_list(List::ToPorts, rule.to_ports_count, &rule.to_ports)?,
            psid: parse_psid(rule)?,
            except: parse_list(
                List::ExceptPorts,
                rule.except_ports_count,
                &rule.except_ports,
            )?,
        };
        if ports.psid.is_some() && !ports.to_ports.is_empty() {
            return Err(Refusal::ListAndPortSet);
        }
        Ok(Self {
            options: Options::of_flags(rule.flags)?,
            ports,
            except_reserved: has(uapi::XT_RUSTMASQ_EXCEPT_RESERVED),
            route_source: has(uapi::XT_RUSTMASQ_ROUTE_SOURCE),
            keep_own: has(uapi::XT_RUSTMASQ_KEEP_OWN),
            max_flows_per_host: NonZeroU32::new(rule.max_flows_per_host),
        })
    }

    /// Returns the options in the form that the rule stores. A set that is one range is stored as such.
    fn into_stored(
        self,
        protocol: MatchedProtocol,
    ) -> Result<OwningOptions<Options, MoreOptions>, CheckError> {
        let mut options = self.options;
        let mut ports = None;
        if !self.ports.is_empty() {
            let bits = PortBits::new(self.ports, GFP_KERNEL_ACCOUNT)?.ok_or(Refusal::NoPortLeft)?;
            if self.ports.names_ports() {
                options.to_ports = Some(bits.range());
            }
            if !(self.ports.names_ports() && bits.is_one_range()) {
                ports = Some(Arc::new(bits, GFP_KERNEL_ACCOUNT).map_err(Error::from)?);
            }
        }
        let max_flows_per_host = self
            .max_flows_per_host
            .map(|most| Limit::new(most, &(self, protocol)));
        let has_more = ports.is_some()
            || self.except_reserved
            || self.route_source
            || self.keep_own
            || self.max_flows_per_host.is_some();
        let more = MoreOptions {
            ports,
            except_reserved: self.except_reserved,
            route_source: self.route_source,
            keep_own: self.keep_own,
            max_flows_per_host,
        };
        let more = has_more
            .then(|| KBox::new(more, GFP_KERNEL_ACCOUNT))
            .transpose();
        Ok(OwningOptions::new(options, more.map_err(Error::from)?))
    }
}

/// A list of ranges in revision 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum List {
    /// `to_ports`
    ToPorts,
    /// `except_ports`
    ExceptPorts,
}

impl List {
    /// Returns the field's name.
    fn name(self) -> &'static str {
        match self {
            Self::ToPorts => "to_ports",
            Self::ExceptPorts => "except_ports",
        }
    }
}

/// Returns the list of the first `count` ranges.
fn parse_list(
    list: List,
    count: u8,
    ranges: &[uapi::xt_rustmasq_ports; MOST_RANGES],
) -> Result<PortList, Refusal> {
    if usize::from(count) > MOST_RANGES {
        return Err(Refusal::TooManyRanges(list, count));
    }
    let mut before = None;
    let mut parsed = [None; MOST_RANGES];
    for (n, (range, parsed)) in ranges.iter().zip(parsed.iter_mut()).enumerate() {
        let (first, last) = (u16::from_be(range.first), u16::from_be(range.last));
        if n >= count.into() {
            if (first, last) != (0, 0) {
                return Err(Refusal::RangeBehindCount(list, first, last));
            }
            continue;
        }
        let range = NonZeroU16::new(first)
            .zip(NonZeroU16::new(last))
            .and_then(|(first, last)| PortRange::new(first, last))
            .ok_or(Refusal::NoRange(list, first, last))?;
        if before.is_some_and(|before: u16| u32::from(first) <= u32::from(before) + 1) {
            return Err(Refusal::NotApart(list, first, last));
        }
        before = Some(last);
        *parsed = Some(range);
    }
    Ok(PortList::new(parsed.into_iter().flatten()))
}

/// Returns the port set of MAP, if the rule has one.
fn parse_psid(rule: &uapi::xt_rustmasq_info_v1) -> Result<Option<PortSetId>, Refusal> {
    let (offset, length) = (rule.psid_offset, rule.psid_length);
    let psid = u16::from_be(rule.psid);
    if rule.flags & uapi::XT_RUSTMASQ_PSID != 0 {
        return match PortSetId::new(offset, length, psid) {
            Some(set) => Ok(Some(set)),
            None => Err(Refusal::NoPortSet(offset, length, psid)),
        };
    }
    match (offset, length, psid) {
        (0, 0, 0) => Ok(None),
        _ => Err(Refusal::PortSetWithoutFlag(offset, length, psid)),
    }
}

/// The reason for which a rule's binary form is refused.
///
/// Its text names the field, the value and what is allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// `flags` has these bits, which have no meaning; those of the second number have one.
    UnknownFlags(u32, u32),
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
    /// A list has more ranges than there is room for.
    TooManyRanges(List, u8),
    /// A list has a range from and to these ports, one of which is 0, or which is reversed.
    NoRange(List, u16, u16),
    /// A list has a range that does not leave a port free behind the one before it.
    NotApart(List, u16, u16),
    /// An array has a range behind those that the count says.
    RangeBehindCount(List, u16, u16),
    /// Offset, length and identifier are no port set of MAP.
    NoPortSet(u8, u8, u16),
    /// They are set without the flag for it.
    PortSetWithoutFlag(u8, u8, u16),
    /// There are both `to_ports` and a port set.
    ListAndPortSet,
    /// No port is left, by the exceptions or by a port set that has port 0 alone.
    NoPortLeft,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::UnknownFlags(bits, known) => {
                write!(f, "flags has unknown bits {bits:#x} (known: {known:#x})")
            }
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
            Refusal::TooManyRanges(list, count) => {
                let name = list.name();
                write!(f, "{name}_count is {count} (allowed: up to {MOST_RANGES})")
            }
            Refusal::NoRange(list, first, last) => {
                let name = list.name();
                write!(f, "{name} has the range {first}-{last} (allowed: 1 <= first <= last)")
            }
            Refusal::NotApart(list, first, last) => {
                let name = list.name();
                write!(f, "{name} has {first}-{last} not behind the range before it (allowed: a port between them)")
            }
            Refusal::RangeBehindCount(list, first, last) => {
                let name = list.name();
                write!(f, "{name} has {first}-{last} behind its {name}_count ranges (must be 0)")
            }
            Refusal::NoPortSet(offset, length, psid) => write!(
                f,
                "psid is {offset}/{length}/{psid} (allowed: psid_offset + psid_length <= 16, psid < 2^psid_length)"
            ),
            Refusal::PortSetWithoutFlag(offset, length, psid) => write!(
                f,
                "psid is {offset}/{length}/{psid} without XT_RUSTMASQ_PSID (must be 0)"
            ),
            Refusal::ListAndPortSet => {
                f.write_str("to_ports_count is not 0 with XT_RUSTMASQ_PSID (allowed: one of them)")
            }
            Refusal::NoPortLeft => f.write_str("no port is left (allowed: one at least)"),
        }
    }
}

impl Options {
    /// The options of a rule that names none.
    pub(super) const NONE: Self = Self {
        to_ports: None,
        random: false,
        reject_when_full: false,
        mapping: None,
    };

    /// Returns whether the rule lets a flow keep its own port, in host order, as far as these options say.
    #[inline(always)]
    fn allow(&self, own: u16) -> bool {
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
            return Err(Refusal::UnknownFlags(unknown, uapi::XT_RUSTMASQ_FLAGS_ALL));
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
            ..Self::of_flags(rule.flags)?
        })
    }

    /// Returns the options by the flags that both revisions have.
    fn of_flags(flags: u32) -> Result<Self, Refusal> {
        let has = |flag: u32| flags & flag != 0;
        Ok(Self {
            to_ports: None,
            random: has(uapi::XT_RUSTMASQ_RANDOM | uapi::XT_RUSTMASQ_RANDOM_FULLY),
            reject_when_full: has(uapi::XT_RUSTMASQ_WHEN_FULL_REJECT),
            mapping: parse_mapping(flags)?,
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
                let refusal = Err(Refusal::UnknownFlags(bit, uapi::XT_RUSTMASQ_FLAGS_ALL));
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

    fn list(ranges: &[(u16, u16)]) -> (u8, [uapi::xt_rustmasq_ports; MOST_RANGES]) {
        let mut list = [uapi::xt_rustmasq_ports::default(); MOST_RANGES];
        for (to, (first, last)) in list.iter_mut().zip(ranges) {
            *to = uapi::xt_rustmasq_ports {
                first: first.to_be(),
                last: last.to_be(),
            };
        }
        // CAST: At most 15.
        (ranges.len() as u8, list)
    }

    fn with_lists(to_ports: &[(u16, u16)], except: &[(u16, u16)]) -> uapi::xt_rustmasq_info_v1 {
        let (to_ports_count, to_ports) = list(to_ports);
        let (except_ports_count, except_ports) = list(except);
        uapi::xt_rustmasq_info_v1 {
            to_ports_count,
            except_ports_count,
            to_ports,
            except_ports,
            ..Default::default()
        }
    }

    /// Returns whether the rule's options are stored without others on the heap, and the range of its ports.
    fn stored(rule: &uapi::xt_rustmasq_info_v1) -> Option<(bool, Option<(u16, u16)>)> {
        let stored = rule.check(MatchedProtocol::default()).ok()?;
        let range = stored.options().to_ports;
        Some((
            stored.more().is_none(),
            range.map(|range| (range.first(), range.last())),
        ))
    }

    #[test]
    fn what_one_range_says_needs_no_memory() {
        assert_eq!(stored(&with_lists(&[], &[])), Some((true, None)));
        let range = with_lists(&[(7, 9)], &[]);
        assert_eq!(stored(&range), Some((true, Some((7, 9)))));
        let cut = with_lists(&[(7, 9)], &[(1, 7)]);
        assert_eq!(stored(&cut), Some((true, Some((8, 9)))));
        let map = uapi::xt_rustmasq_info_v1 {
            flags: uapi::XT_RUSTMASQ_PSID,
            psid_length: 4,
            ..Default::default()
        };
        assert_eq!(stored(&map), Some((true, Some((1, 4095)))));
        let two = with_lists(&[(7, 9), (11, 12)], &[]);
        assert_eq!(stored(&two), Some((false, Some((7, 12)))));
        let except = with_lists(&[], &[(7, 9)]);
        assert_eq!(stored(&except), Some((false, None)));
        assert_eq!(stored(&with_lists(&[(7, 9)], &[(1, 20)])), None);
    }

    #[test]
    fn each_flag_of_revision_1() {
        let parse = |flags| {
            let rule = uapi::xt_rustmasq_info_v1 {
                flags,
                ..Default::default()
            };
            Request::parse(&rule)
        };
        let is_set = |flags, get: fn(&Request) -> bool| parse(flags).map(|request| get(&request));
        assert_eq!(parse(0), Ok(Request::default()));
        let flag = uapi::XT_RUSTMASQ_EXCEPT_RESERVED;
        assert_eq!(is_set(flag, |request| request.except_reserved), Ok(true));
        let flag = uapi::XT_RUSTMASQ_ROUTE_SOURCE;
        assert_eq!(is_set(flag, |request| request.route_source), Ok(true));
        let flag = uapi::XT_RUSTMASQ_KEEP_OWN;
        assert_eq!(is_set(flag, |request| request.keep_own), Ok(true));
        let flag = uapi::XT_RUSTMASQ_PSID;
        assert_eq!(
            is_set(flag, |request| request.ports.psid.is_some()),
            Ok(true)
        );
        for bit in (0..32).map(|n| 1_u32 << n) {
            if bit & uapi::XT_RUSTMASQ_FLAGS_ALL_V1 == 0 {
                let refusal = Refusal::UnknownFlags(bit, uapi::XT_RUSTMASQ_FLAGS_ALL_V1);
                assert_eq!(parse(bit), Err(refusal));
            }
        }
    }

    #[test]
    fn wrong_lists() {
        let refusal = |rule: &uapi::xt_rustmasq_info_v1| Request::parse(rule).err();
        let to_ports = |ranges: &[(u16, u16)]| refusal(&with_lists(ranges, &[]));
        let (list, except) = (List::ToPorts, List::ExceptPorts);
        assert_eq!(to_ports(&[(7, 9), (11, 65_535)]), None);
        assert_eq!(to_ports(&[(0, 9)]), Some(Refusal::NoRange(list, 0, 9)));
        assert_eq!(to_ports(&[(9, 7)]), Some(Refusal::NoRange(list, 9, 7)));
        for (first, last) in [(10, 10), (9, 20), (1, 2), (7, 9)] {
            let refusal = Some(Refusal::NotApart(list, first, last));
            assert_eq!(to_ports(&[(7, 9), (first, last)]), refusal);
        }
        assert_eq!(
            to_ports(&[(7, 65_535), (1, 1)]),
            Some(Refusal::NotApart(list, 1, 1))
        );
        assert_eq!(
            refusal(&with_lists(&[], &[(0, 0)])),
            Some(Refusal::NoRange(except, 0, 0))
        );
        let mut rule = with_lists(&[(7, 9)], &[]);
        rule.to_ports_count = 0;
        assert_eq!(refusal(&rule), Some(Refusal::RangeBehindCount(list, 7, 9)));
        rule.to_ports_count = 16;
        assert_eq!(refusal(&rule), Some(Refusal::TooManyRanges(list, 16)));
        rule.to_ports_count = 1;
        rule.flags = uapi::XT_RUSTMASQ_PSID;
        assert_eq!(refusal(&rule), Some(Refusal::ListAndPortSet));
        rule.psid = 1_u16.to_be();
        assert_eq!(refusal(&rule), Some(Refusal::NoPortSet(0, 0, 1)));
        rule.flags = 0;
        assert_eq!(refusal(&rule), Some(Refusal::PortSetWithoutFlag(0, 0, 1)));
        rule.psid = 0;
        rule.reserved[1] = 1;
        assert_eq!(refusal(&rule), Some(Refusal::Reserved));
    }

    #[test]
    fn refusals_name_the_field() -> Result {
        use kernel::str::CString;
        let text = |refusal: Refusal| CString::try_from_fmt(kernel::prelude::fmt!("{}", refusal));
        assert!(text(Refusal::UnknownFlags(16, 15))?
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
