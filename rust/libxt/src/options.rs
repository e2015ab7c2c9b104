// SPDX-License-Identifier: GPL-2.0

//! The options of a rule: parsing, the binary form, and the text for `-L`, `-S`, `-h` and nftables.

use std::fmt;
use std::num::NonZeroU32;

use crate::bindings::{
    xt_rustmasq_info,
    xt_rustmasq_info_v1,
    XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE,
    XT_RUSTMASQ_EXCEPT_RESERVED,
    XT_RUSTMASQ_FULL_CONE,
    XT_RUSTMASQ_KEEP_OWN,
    XT_RUSTMASQ_PORT_RESTRICTED_CONE,
    XT_RUSTMASQ_PSID,
    XT_RUSTMASQ_RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY,
    XT_RUSTMASQ_ROUTE_SOURCE,
    XT_RUSTMASQ_TO_PORTS,
    XT_RUSTMASQ_WHEN_FULL_REJECT, //
};
use crate::place::WrongPlace;
use crate::ports::{
    ParsePortListError,
    PortList,
    PortRange,
    PortSetId,
    PortSetIdError,
    MOST_RANGES,
    NO_PORTS, //
};
use crate::protocol::{
    Family,
    RuleProtocol, //
};

/// One option given on the command line.
#[derive(Debug)]
pub(crate) enum GivenOption<'a> {
    /// `--to-ports` with its argument
    ToPorts(&'a str),
    /// `--random`
    Random,
    /// `--random-fully`
    RandomFully,
    /// `--when-full` with its argument
    WhenFull(&'a str),
    /// `--full-cone` or one of its sisters
    Cone(Cone),
    /// `--psid` with its argument
    Psid(&'a str),
    /// `--except-ports` with its argument
    ExceptPorts(&'a str),
    /// `--except-reserved`
    ExceptReserved,
    /// `--max-flows-per-host` with its argument
    MaxFlowsPerHost(&'a str),
    /// `--route-source`
    RouteSource,
    /// `--keep-own`
    KeepOwn,
}

/// The filtering of flows from outside to an inside endpoint's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cone {
    /// Anybody may begin one.
    Full,
    /// Only addresses that were spoken to may answer.
    AddressRestricted,
    /// Only who was spoken to, from the same port, may answer.
    PortRestricted,
}

impl Cone {
    /// Returns the option without its dashes.
    fn word(self) -> &'static str {
        match self {
            Self::Full => "full-cone",
            Self::AddressRestricted => "address-restricted-cone",
            Self::PortRestricted => "port-restricted-cone",
        }
    }

    /// Returns the flag of the binary form.
    fn flag(self) -> u32 {
        match self {
            Self::Full => XT_RUSTMASQ_FULL_CONE,
            Self::AddressRestricted => XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE,
            Self::PortRestricted => XT_RUSTMASQ_PORT_RESTRICTED_CONE,
        }
    }
}

/// All of them.
const CONES: [Cone; 3] = [Cone::Full, Cone::AddressRestricted, Cone::PortRestricted];

impl GivenOption<'_> {
    /// Returns the option's name.
    fn name(&self) -> &'static str {
        match self {
            Self::ToPorts(_) => "--to-ports",
            Self::Random => "--random",
            Self::RandomFully => "--random-fully",
            Self::WhenFull(_) => "--when-full",
            Self::Cone(Cone::Full) => "--full-cone",
            Self::Cone(Cone::AddressRestricted) => "--address-restricted-cone",
            Self::Cone(Cone::PortRestricted) => "--port-restricted-cone",
            Self::Psid(_) => "--psid",
            Self::ExceptPorts(_) => "--except-ports",
            Self::ExceptReserved => "--except-reserved",
            Self::MaxFlowsPerHost(_) => "--max-flows-per-host",
            Self::RouteSource => "--route-source",
            Self::KeepOwn => "--keep-own",
        }
    }
}

/// Writes the option as on a command line, with control characters in its argument escaped.
impl fmt::Display for GivenOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::ToPorts(argument)
            | Self::WhenFull(argument)
            | Self::Psid(argument)
            | Self::ExceptPorts(argument)
            | Self::MaxFlowsPerHost(argument) => write!(f, " {}", argument.escape_debug()),
            Self::Random
            | Self::RandomFully
            | Self::Cone(_)
            | Self::ExceptReserved
            | Self::RouteSource
            | Self::KeepOwn => Ok(()),
        }
    }
}

/// The revision of the binary form that a rule is sent in: the newest one that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revision {
    /// A module from before the options that only [`Revision::One`] has.
    Zero,
    One,
}

/// The rule that an option is given for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) family: Family,
    /// The matches of the rule, as far as the command line was read: iptables parses it from left to right.
    pub(crate) protocol: RuleProtocol,
    pub(crate) revision: Revision,
}

/// The way that an option is given, besides its argument.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// A `!` precedes it.
    pub(crate) inverted: bool,
    /// The rule has had it before.
    pub(crate) repeated: bool,
}

/// The reason why an option or a rule is refused.
///
/// The text names the option or the place, what was given and what is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<WrongPlace<'_>> for Refusal {
    fn from(place: WrongPlace<'_>) -> Self {
        Self(place.to_string())
    }
}

/// The options of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    to_ports: Option<PortList>,
    psid: Option<PortSetId>,
    except_ports: Option<PortList>,
    except_reserved: bool,
    random: bool,
    random_fully: bool,
    reject_when_full: bool,
    cone: Option<Cone>,
    max_flows_per_host: Option<NonZeroU32>,
    route_source: bool,
    keep_own: bool,
}

impl Options {
    /// Adds one option.
    ///
    /// `service` returns the port, in host order, of a service that is given by name.
    ///
    /// Returns a [`Refusal`] if the option is inverted or repeated, if its argument is none of
    /// those allowed, if another option excludes it, or if the packets of the rule may have no ports
    /// for `--to-ports`. The options are as before then.
    pub(crate) fn add(
        &mut self,
        option: &GivenOption<'_>,
        manner: Manner,
        context: Context,
        service: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), Refusal> {
        let name = option.name();
        if manner.inverted {
            return Err(Refusal(format!(
                "{name}: \"! {option}\" is not allowed; allowed: {name} without \"!\""
            )));
        }
        if manner.repeated {
            return Err(Refusal(format!(
                "{name}: \"{option}\" is one too many; allowed: {name} once"
            )));
        }
        let mut new = *self;
        new.set(option, context, service)
            .and_then(|()| new.check_ports())
            .map_err(|reason| Refusal(format!("{name}: {reason}")))?;
        *self = new;
        Ok(())
    }

    /// Sets one option. Returns why it is refused, if it is.
    fn set(
        &mut self,
        option: &GivenOption<'_>,
        context: Context,
        service: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), String> {
        match option {
            GivenOption::ToPorts(_) if self.psid.is_some() => {
                return Err("not allowed after --psid; allowed: one of them".into())
            }
            GivenOption::Psid(_) if self.to_ports.is_some() => {
                return Err("not allowed after --to-ports; allowed: one of them".into())
            }
            GivenOption::ToPorts(argument) => {
                let list = parse_list(argument, service)?;
                if context.revision == Revision::Zero && list.only_range().is_none() {
                    return Err(format!(
                        "{argument:?} has several ranges; allowed by this kernel's module: one"
                    ));
                }
                check_protocol(argument, context)?;
                self.to_ports = Some(list);
            }
            GivenOption::Psid(argument) => {
                let psid = PortSetId::parse(argument);
                self.psid = Some(psid.map_err(|error| psid_refusal(argument, error))?);
                check_protocol(argument, context)?;
            }
            GivenOption::ExceptPorts(argument) => {
                self.except_ports = Some(parse_list(argument, service)?);
            }
            GivenOption::ExceptReserved => self.except_reserved = true,
            GivenOption::Cone(cone) => match self.cone {
                Some(other) => {
                    return Err(format!(
                        "not allowed after --{}; allowed: one of them",
                        other.word()
                    ))
                }
                None => self.cone = Some(*cone),
            },
            GivenOption::Random => self.random = true,
            GivenOption::RandomFully => self.random_fully = true,
            GivenOption::WhenFull(argument) => {
                self.reject_when_full = match *argument {
                    "drop" => false,
                    "reject" => true,
                    _ => return Err(format!("{argument:?} is unknown; allowed: drop or reject")),
                }
            }
            GivenOption::MaxFlowsPerHost(argument) => {
                let number = parse_number(argument).ok_or_else(|| {
                    format!(
                        "{argument:?} is no number of flows; allowed: 1 to 4294967295 in decimal"
                    )
                })?;
                self.max_flows_per_host = Some(number);
            }
            GivenOption::RouteSource => self.route_source = true,
            GivenOption::KeepOwn => self.keep_own = true,
        }
        Ok(())
    }

    /// Returns an error if the exceptions leave no port.
    fn check_ports(&self) -> Result<(), String> {
        match self.except_ports {
            Some(list) if !(1..=u16::MAX).any(|port| self.has_port(port)) => Err(format!(
                "--except-ports {list} leaves no port; allowed: a list that leaves one"
            )),
            _ => Ok(()),
        }
    }

    /// Returns whether a flow may get the port, as far as the rule says.
    fn has_port(&self, port: u16) -> bool {
        self.to_ports.is_none_or(|list| list.contains(port))
            && self.psid.is_none_or(|set| set.contains(port))
            && !self.except_ports.is_some_and(|list| list.contains(port))
    }

    /// Returns the text that `iptables -j RUSTMASQ -h` prints after the help of iptables itself.
    pub(crate) fn help_text(family: Family, revision: Revision) -> String {
        let protocols = family.protocols_with_ports();
        let ports = match revision {
            Revision::Zero => {
                "\
\x20--to-ports PORT[-PORT]   Ports (for ICMP: query identifiers) to map to, from 1
                          to 65535 or names of services; only after
"
            }
            Revision::One => {
                "\
\x20--to-ports PORT[-PORT],...
                          Ports (for ICMP: query identifiers) to map to, from 1
                          to 65535 or names of services; up to 15 ranges; only
                          after
"
            }
        };
        let more = match revision {
            Revision::Zero => "",
            Revision::One => {
                "\
\x20--psid OFFSET/LENGTH/PSID
                          The ports of a MAP port set (RFC 7597), in the place
                          of --to-ports
 --except-ports PORT[-PORT],...
                          These are never mapped to
 --except-reserved        Nor what net.ipv4.ip_local_reserved_ports lists
 --max-flows-per-host N   An inside address has N flows at a time at most
 --route-source           Use the source address that the route names, if any
 --keep-own               A source that is an address of the device stays
"
            }
        };
        format!(
            "\
RUSTMASQ target options:
{ports}                          -p {protocols}
 --random                 Choose the source port at random
 --random-fully           The same; may be given together with --random
 --when-full drop|reject  If no port is free: drop the packet silently (the
                          default), or answer it by an ICMP error as well
 --full-cone              An inside address and port keeps one outside port,
                          and anyone outside may send to it
 --address-restricted-cone
                          The same port, but only addresses that were spoken to
                          may answer
 --port-restricted-cone   The same port, but only who was spoken to may answer
{more}"
        )
    }

    /// Returns the text for `iptables -L`, with a space before each item.
    ///
    /// Follows the `print` callback of MASQUERADE's extension.
    pub(crate) fn print_text(&self) -> String {
        self.text(" masq ports: ", " ")
    }

    /// Returns the text for `iptables -S` and `iptables-save`: the options as on a command line,
    /// each with a space before it.
    pub(crate) fn save_text(&self) -> String {
        self.text(" --to-ports ", " --")
    }

    fn text(&self, before_ports: &str, before_option: &str) -> String {
        let mut text = String::new();
        if let Some(ports) = self.to_ports {
            text += &format!("{before_ports}{ports}");
        }
        let flag = |set: bool, name: &str| set.then(|| name.to_string());
        let options = [
            self.psid.map(|set| format!("psid {set}")),
            self.except_ports.map(|list| format!("except-ports {list}")),
            flag(self.except_reserved, "except-reserved"),
            flag(self.random, "random"),
            flag(self.random_fully, "random-fully"),
            flag(self.reject_when_full, "when-full reject"),
            self.cone.map(|cone| cone.word().to_string()),
            self.max_flows_per_host
                .map(|number| format!("max-flows-per-host {number}")),
            flag(self.route_source, "route-source"),
            flag(self.keep_own, "keep-own"),
        ];
        for option in options.into_iter().flatten() {
            text += before_option;
            text += &option;
        }
        text
    }

    /// Returns nftables' statement that masquerades with the same options.
    ///
    /// It takes one range at most: it has the longest run of the ports that the rule may choose. It
    /// has no equal of the other options, which the comment names. Follows the `xlate` callback of
    /// MASQUERADE's extension.
    pub(crate) fn nft_text(&self) -> String {
        let mut text = String::from("masquerade");
        if let Some(ports) = self.longest_run() {
            text += &format!(" to :{ports}");
        }
        let flags = [(self.random, "random"), (self.random_fully, "fully-random")];
        let flags: Vec<_> = flags
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
        if !flags.is_empty() {
            text += " ";
            text += &flags.join(",");
        }
        text
    }

    /// Returns the longest range of ports that the rule may choose, and the first of several, if it
    /// says which ports these are.
    fn longest_run(&self) -> Option<PortRange> {
        if self.to_ports.is_none() && self.psid.is_none() {
            return None;
        }
        let mut longest: Option<(u16, u16)> = None;
        let mut first = None;
        for port in 1..=u16::MAX {
            if !self.has_port(port) {
                first = None;
                continue;
            }
            let first = *first.get_or_insert(port);
            if longest.is_none_or(|(from, to)| to - from < port - first) {
                longest = Some((first, port));
            }
        }
        longest.and_then(|(first, last)| PortRange::new(first, last))
    }

    /// Returns the comment, in quotes, that tells which rule nftables' statement is a translation of.
    ///
    /// It is less than 128 bytes long, as nftables requires: options that do not fit are left out.
    pub(crate) fn nft_comment(&self) -> String {
        let mut comment = format!("\"translated from -j RUSTMASQ{}\"", self.save_text());
        if comment.len() > MOST_COMMENT {
            let ends = comment.match_indices([' ', ',']).map(|(place, _)| place);
            let end = ends
                .take_while(|place| *place <= MOST_COMMENT - ELLIPSIS.len())
                .last();
            comment.truncate(end.unwrap_or(0));
            comment += ELLIPSIS;
        }
        comment
    }
}

/// The most bytes of a comment with its quotes: nftables takes 127 bytes without them.
const MOST_COMMENT: usize = 127;
/// The end of a comment that was cut.
const ELLIPSIS: &str = " ...\"";

/// Parses a list of port ranges. Returns why it is refused, if it is.
fn parse_list(argument: &str, service: &dyn Fn(&str) -> Option<u16>) -> Result<PortList, String> {
    PortList::parse(argument, service).map_err(|error| match error {
        ParsePortListError::NoRange(part) => format!(
            "{part:?} is no port range; allowed: PORT or PORT-PORT \
             with 1 <= PORT <= 65535 in decimal or the name of a known service, \
             the lower one first"
        ),
        ParsePortListError::TooMany(number) => {
            format!("{number} ranges are too many; allowed: up to {MOST_RANGES}")
        }
        ParsePortListError::Overlap(lower, upper) => {
            format!("{lower} and {upper} overlap; allowed: ranges with a port between them")
        }
        ParsePortListError::Touch(lower, upper) => format!(
            "{lower} and {upper} touch; allowed: {}-{}, or ranges with a port between them",
            lower.first(),
            upper.last()
        ),
    })
}

/// Returns why a port set is refused.
fn psid_refusal(argument: &str, error: PortSetIdError) -> String {
    match error {
        PortSetIdError::Form => format!(
            "{argument:?} is no port set; allowed: OFFSET/LENGTH/PSID, three numbers in decimal"
        ),
        PortSetIdError::TooLong(bits) => {
            format!("{argument:?} has {bits} bits; allowed: OFFSET + LENGTH <= 16")
        }
        PortSetIdError::TooLarge(psid, length) => format!(
            "the PSID {psid} has more than {length} bits; allowed: 0 to {}",
            (1_u32 << length) - 1
        ),
        PortSetIdError::Empty => {
            format!("{argument:?} is port 0 alone; allowed: a set with another port")
        }
    }
}

/// Returns an error if packets of the rule may have no ports.
fn check_protocol(argument: &str, context: Context) -> Result<(), String> {
    let Context {
        family, protocol, ..
    } = context;
    if protocol.has_ports(family) {
        return Ok(());
    }
    Err(format!(
        "{argument:?} is allowed only after -p {}; so far this rule takes {protocol}",
        family.protocols_with_ports()
    ))
}

/// Parses a number in decimal, without sign or leading zeros, that is not 0.
fn parse_number(text: &str) -> Option<NonZeroU32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_number.then(|| text.parse().ok()).flatten()
}

/// Reads a rule's binary form: a new rule, which is zero, or one that the kernel has checked.
///
/// Unknown flags are ignored, since the kernel accepts no rule with any.
impl From<xt_rustmasq_info> for Options {
    fn from(info: xt_rustmasq_info) -> Self {
        let range = PortRange::new(u16::from_be(info.min_port), u16::from_be(info.max_port));
        let has_ports = info.flags & XT_RUSTMASQ_TO_PORTS != 0;
        Self {
            to_ports: range.filter(|_| has_ports).map(PortList::from),
            ..Self::of_flags(info.flags)
        }
    }
}

/// Writes a rule's binary form for the kernel, which requires that the reserved bytes are zero.
///
/// It has no place for the options that revision 1 alone has.
impl From<Options> for xt_rustmasq_info {
    fn from(options: Options) -> Self {
        let range = options.to_ports.and_then(|list| list.only_range());
        let (first, last) = range.map_or((0, 0), |range| (range.first(), range.last()));
        Self {
            flags: flag(range.is_some(), XT_RUSTMASQ_TO_PORTS) | options.flags(),
            min_port: first.to_be(),
            max_port: last.to_be(),
            reserved: [0; 8],
            kernel_private: [0; 4],
        }
    }
}

/// Reads a rule's binary form, as that of revision 0. Numbers that the kernel does not accept are ignored.
impl From<xt_rustmasq_info_v1> for Options {
    fn from(info: xt_rustmasq_info_v1) -> Self {
        let has = |flag: u32| info.flags & flag != 0;
        let psid = PortSetId::new(
            info.psid_offset.into(),
            info.psid_length.into(),
            u16::from_be(info.psid).into(),
        );
        let to_ports = PortList::from_binary(info.to_ports_count, &info.to_ports);
        let options = Self {
            to_ports: to_ports.filter(|_| !has(XT_RUSTMASQ_PSID)),
            psid: psid.ok().filter(|_| has(XT_RUSTMASQ_PSID)),
            except_ports: PortList::from_binary(info.except_ports_count, &info.except_ports),
            except_reserved: has(XT_RUSTMASQ_EXCEPT_RESERVED),
            max_flows_per_host: NonZeroU32::new(info.max_flows_per_host),
            route_source: has(XT_RUSTMASQ_ROUTE_SOURCE),
            keep_own: has(XT_RUSTMASQ_KEEP_OWN),
            ..Self::of_flags(info.flags)
        };
        Self {
            except_ports: options
                .except_ports
                .filter(|_| options.check_ports().is_ok()),
            ..options
        }
    }
}

/// Writes a rule's binary form for the kernel, which requires that all that is not used is zero.
impl From<Options> for xt_rustmasq_info_v1 {
    fn from(options: Options) -> Self {
        let list =
            |list: Option<PortList>| list.map_or((0, [NO_PORTS; MOST_RANGES]), PortList::to_binary);
        let (to_ports_count, to_ports) = list(options.to_ports);
        let (except_ports_count, except_ports) = list(options.except_ports);
        let psid = options.psid.map(PortSetId::to_binary);
        let (psid_offset, psid_length, psid) = psid.unwrap_or_default();
        Self {
            flags: options.flags()
                | flag(options.psid.is_some(), XT_RUSTMASQ_PSID)
                | flag(options.except_reserved, XT_RUSTMASQ_EXCEPT_RESERVED)
                | flag(options.route_source, XT_RUSTMASQ_ROUTE_SOURCE)
                | flag(options.keep_own, XT_RUSTMASQ_KEEP_OWN),
            max_flows_per_host: options.max_flows_per_host.map_or(0, NonZeroU32::get),
            psid: psid.to_be(),
            psid_offset,
            psid_length,
            to_ports_count,
            except_ports_count,
            reserved: [0; 2],
            to_ports,
            except_ports,
            kernel_private: [0; 4],
        }
    }
}

/// Returns the flag if it is set.
fn flag(set: bool, flag: u32) -> u32 {
    if set {
        flag
    } else {
        0
    }
}

impl Options {
    /// Returns the options by the flags that both revisions have.
    fn of_flags(flags: u32) -> Self {
        let has = |flag: u32| flags & flag != 0;
        Self {
            random: has(XT_RUSTMASQ_RANDOM),
            random_fully: has(XT_RUSTMASQ_RANDOM_FULLY),
            reject_when_full: has(XT_RUSTMASQ_WHEN_FULL_REJECT),
            cone: CONES.into_iter().find(|cone| has(cone.flag())),
            ..Self::default()
        }
    }

    /// Returns the flags that both revisions have.
    fn flags(&self) -> u32 {
        flag(self.random, XT_RUSTMASQ_RANDOM)
            | flag(self.random_fully, XT_RUSTMASQ_RANDOM_FULLY)
            | flag(self.reject_when_full, XT_RUSTMASQ_WHEN_FULL_REJECT)
            | self.cone.map_or(0, Cone::flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::{
        XT_RUSTMASQ_FLAGS_ALL,
        XT_RUSTMASQ_FLAGS_ALL_V1, //
    };
    use GivenOption::{
        ExceptPorts, ExceptReserved, KeepOwn, MaxFlowsPerHost, Psid, Random, RandomFully,
        RouteSource, ToPorts, WhenFull,
    };

    const TCP: RuleProtocol = RuleProtocol::Only(6);

    /// Returns the context of a rule in the newest revision.
    fn context(family: Family, protocol: RuleProtocol) -> Context {
        Context {
            family,
            protocol,
            revision: Revision::One,
        }
    }

    /// A small `/etc/services`.
    fn service(name: &str) -> Option<u16> {
        match name {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        }
    }

    /// Parses the options of a rule with `-p tcp`.
    fn parse(line: &[GivenOption<'_>]) -> Result<Options, String> {
        let mut options = Options::default();
        for (n, option) in line.iter().enumerate() {
            let before = &line[..n];
            let manner = Manner {
                repeated: before.iter().any(|other| other.name() == option.name()),
                ..Manner::default()
            };
            options
                .add(option, manner, context(Family::Ipv4, TCP), &service)
                .map_err(|refusal| refusal.to_string())?;
        }
        Ok(options)
    }

    /// Returns why the option is refused as the first of a rule.
    fn refusal(
        option: GivenOption<'_>,
        inverted: bool,
        family: Family,
        protocol: RuleProtocol,
    ) -> String {
        let mut options = Options::default();
        let manner = Manner {
            inverted,
            ..Manner::default()
        };
        let refusal = options
            .add(&option, manner, context(family, protocol), &service)
            .unwrap_err();
        assert_eq!(
            Options::default(),
            options,
            "a refused option changes nothing"
        );
        refusal.to_string()
    }

    /// Returns every combination of the options of revision 0.
    fn old_combinations() -> impl Iterator<Item = Options> {
        let ranges = [None, PortRange::new(80, 80), PortRange::new(100, 200)];
        ranges.into_iter().flat_map(|range| {
            (0..32).map(move |bits| Options {
                to_ports: range.map(PortList::from),
                random: bits & 1 != 0,
                random_fully: bits & 2 != 0,
                reject_when_full: bits & 4 != 0,
                cone: [None]
                    .into_iter()
                    .chain(CONES.map(Some))
                    .nth(bits / 8)
                    .unwrap(),
                ..Options::default()
            })
        })
    }

    /// Returns combinations of all options: each of the new ones alone and all of them, with each of the old ones.
    fn combinations() -> impl Iterator<Item = Options> {
        let list = |text| PortList::parse(text, &service).ok();
        old_combinations().flat_map(move |old| {
            (0..9).map(move |n| {
                let has = |bit| n == bit || n == 8;
                Options {
                    to_ports: match n {
                        1 | 8 => list("100-200,300,400-500"),
                        2 => None,
                        _ => old.to_ports,
                    },
                    psid: (n == 2).then(|| PortSetId::new(6, 8, 52).unwrap()),
                    except_ports: if has(3) {
                        list("30000-32767,150")
                    } else {
                        None
                    },
                    except_reserved: has(4),
                    max_flows_per_host: NonZeroU32::new(if has(5) { u32::MAX } else { 0 }),
                    route_source: has(6),
                    keep_own: has(7),
                    ..old
                }
            })
        })
    }

    #[test]
    fn no_options() {
        let options = parse(&[]).unwrap();
        assert_eq!("", options.print_text());
        assert_eq!("", options.save_text());
    }

    #[test]
    fn all_options() {
        let line = [RandomFully, WhenFull("reject"), ToPorts("100-200"), Random];
        let options = parse(&line).unwrap();
        assert_eq!(
            " masq ports: 100-200 random random-fully when-full reject",
            options.print_text()
        );
        assert_eq!(
            " --to-ports 100-200 --random --random-fully --when-full reject",
            options.save_text()
        );
    }

    #[test]
    fn single_port() {
        let options = parse(&[ToPorts("100-100")]).unwrap();
        assert_eq!(" masq ports: 100", options.print_text());
        assert_eq!(" --to-ports 100", options.save_text());
    }

    #[test]
    fn services_are_shown_as_numbers() {
        let options = parse(&[ToPorts("http-https")]).unwrap();
        assert_eq!(" masq ports: 80-443", options.print_text());
        assert_eq!(" --to-ports 80-443", options.save_text());
        assert_eq!(parse(&[ToPorts("80-443")]).unwrap(), options);
    }

    #[test]
    fn translation() {
        let cases: [(&[GivenOption<'_>], _); 7] = [
            (&[], "masquerade"),
            (&[WhenFull("reject")], "masquerade"),
            (&[ToPorts("7")], "masquerade to :7"),
            (&[ToPorts("100-200")], "masquerade to :100-200"),
            (&[Random], "masquerade random"),
            (&[RandomFully], "masquerade fully-random"),
            (
                &[ToPorts("1-2"), Random, RandomFully],
                "masquerade to :1-2 random,fully-random",
            ),
        ];
        for (line, text) in cases {
            assert_eq!(text, parse(line).unwrap().nft_text());
        }
    }

    #[test]
    fn comment_of_the_translation() {
        let line = [
            ToPorts("10000-65535"),
            Random,
            RandomFully,
            WhenFull("reject"),
        ];
        let longest = parse(&line).unwrap();
        assert_eq!(
            "\"translated from -j RUSTMASQ --to-ports 10000-65535 --random --random-fully \
             --when-full reject\"",
            longest.nft_comment()
        );
        assert!(longest.nft_comment().len() < 128);
        assert_eq!(
            "\"translated from -j RUSTMASQ\"",
            Options::default().nft_comment()
        );
    }

    #[test]
    fn message_shows_the_invalid_range() {
        for text in [
            "0",
            "70000",
            "5-1",
            "a-b",
            "1-2-3",
            "",
            "-5",
            "5-",
            " 5",
            "+5",
            "0x5",
            "!",
            "htttp",
            "http-htttps",
            "https-http",
        ] {
            assert_eq!(
                refusal(ToPorts(text), false, Family::Ipv4, TCP),
                format!(
                    "--to-ports: \"{text}\" is no port range; allowed: PORT or PORT-PORT \
                     with 1 <= PORT <= 65535 in decimal or the name of a known service, \
                     the lower one first"
                )
            );
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let text = refusal(ToPorts("5\n\u{1b}[31m\""), false, Family::Ipv4, TCP);
        assert!(
            text.starts_with(r#"--to-ports: "5\n\u{1b}[31m\"" is no port range"#),
            "{text}"
        );
    }

    #[test]
    fn to_ports_needs_a_protocol() {
        assert_eq!(
            refusal(ToPorts("5"), false, Family::Ipv4, RuleProtocol::Any),
            "--to-ports: \"5\" is allowed only after -p tcp, udp, sctp or icmp; \
             so far this rule takes every protocol"
        );
    }

    #[test]
    fn to_ports_needs_a_protocol_of_the_family() {
        assert_eq!(
            refusal(ToPorts("5"), false, Family::Ipv6, RuleProtocol::Only(1)),
            "--to-ports: \"5\" is allowed only after -p tcp, udp, sctp or ipv6-icmp; \
             so far this rule takes protocol icmp"
        );
    }

    #[test]
    fn to_ports_refuses_an_inverted_protocol() {
        let text = refusal(ToPorts("5"), false, Family::Ipv4, RuleProtocol::AllBut(6));
        assert!(text.ends_with("takes every protocol but tcp"), "{text}");
    }

    #[test]
    fn random_needs_no_protocol() {
        let mut options = Options::default();
        for option in [Random, RandomFully, WhenFull("reject")] {
            assert!(options
                .add(
                    &option,
                    Manner::default(),
                    context(Family::Ipv6, RuleProtocol::Any),
                    &service
                )
                .is_ok());
        }
        assert_eq!(
            " --random --random-fully --when-full reject",
            options.save_text()
        );
    }

    #[test]
    fn drop_is_the_default_when_full() {
        assert_eq!(parse(&[WhenFull("drop")]), Ok(Options::default()));
    }

    #[test]
    fn message_shows_the_unknown_answer() {
        for text in [
            "",
            "Reject",
            "REJECT",
            " reject",
            "rejected",
            "drop,reject",
            "!",
            "1",
        ] {
            assert_eq!(
                refusal(WhenFull(text), false, Family::Ipv6, RuleProtocol::Any),
                format!("--when-full: \"{text}\" is unknown; allowed: drop or reject")
            );
        }
        let text = refusal(WhenFull("\n\u{1b}"), false, Family::Ipv4, TCP);
        assert!(
            text.starts_with(r#"--when-full: "\n\u{1b}" is unknown"#),
            "{text}"
        );
    }

    #[test]
    fn repeated_options() {
        assert_eq!(
            parse(&[ToPorts("5"), ToPorts("6")]).unwrap_err(),
            "--to-ports: \"--to-ports 6\" is one too many; allowed: --to-ports once"
        );
        assert_eq!(
            parse(&[Random, Random]).unwrap_err(),
            "--random: \"--random\" is one too many; allowed: --random once"
        );
        assert!(parse(&[RandomFully, Random, RandomFully]).is_err());
        // The first one leaves no trace in the binary form.
        assert_eq!(
            parse(&[WhenFull("drop"), WhenFull("reject")]).unwrap_err(),
            "--when-full: \"--when-full reject\" is one too many; allowed: --when-full once"
        );
    }

    #[test]
    fn inverted_options() {
        assert_eq!(
            refusal(ToPorts("5"), true, Family::Ipv4, TCP),
            "--to-ports: \"! --to-ports 5\" is not allowed; allowed: --to-ports without \"!\""
        );
        assert_eq!(
            refusal(Random, true, Family::Ipv4, TCP),
            "--random: \"! --random\" is not allowed; allowed: --random without \"!\""
        );
    }

    #[test]
    fn one_cone_at_most() {
        for (first, second) in [(CONES[0], CONES[1]), (CONES[1], CONES[0])] {
            assert_eq!(
                parse(&[GivenOption::Cone(first), GivenOption::Cone(second)]).unwrap_err(),
                format!(
                    "--{}: not allowed after --{}; allowed: one of them",
                    second.word(),
                    first.word()
                )
            );
        }
    }

    #[test]
    fn help_names_every_option() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let help = Options::help_text(family, Revision::One);
            let mut options = vec![ToPorts("5"), Random, RandomFully, WhenFull("drop")];
            options.extend(CONES.map(GivenOption::Cone));
            let old = options.len();
            options.extend([
                Psid(""),
                ExceptPorts(""),
                ExceptReserved,
                MaxFlowsPerHost(""),
            ]);
            options.extend([RouteSource, KeepOwn]);
            let old_help = Options::help_text(family, Revision::Zero);
            assert!(old_help.lines().all(|line| line.len() < 80), "{old_help}");
            for (n, option) in options.into_iter().enumerate() {
                assert_eq!(n < old, old_help.contains(option.name()), "{old_help}");
                let listed = [" ", "\n"].map(|end| format!("\n {}{end}", option.name()));
                assert!(listed.iter().any(|text| help.contains(text)), "{help}");
            }
            assert!(help.contains(family.protocols_with_ports()), "{help}");
            assert!(help.lines().all(|line| line.len() < 80), "{help}");
        }
    }

    #[test]
    fn binary_form() {
        let line = [ToPorts("258-772"), RandomFully, WhenFull("reject")];
        let info: xt_rustmasq_info = parse(&line).unwrap().into();
        assert_eq!(
            XT_RUSTMASQ_TO_PORTS | XT_RUSTMASQ_RANDOM_FULLY | XT_RUSTMASQ_WHEN_FULL_REJECT,
            info.flags
        );
        assert_eq!([1, 2], info.min_port.to_ne_bytes());
        assert_eq!([3, 4], info.max_port.to_ne_bytes());
        assert_eq!([0; 8], info.reserved);
        assert_eq!([0; 4], info.kernel_private);
    }

    #[test]
    fn ports_are_zero_without_to_ports() {
        let info: xt_rustmasq_info = parse(&[Random]).unwrap().into();
        assert_eq!((0, 0), (info.min_port, info.max_port));
    }

    #[test]
    fn binary_form_round_trip() {
        for options in old_combinations() {
            let info: xt_rustmasq_info = options.into();
            assert_eq!(0, info.flags & !XT_RUSTMASQ_FLAGS_ALL);
            assert_eq!(options, info.into());
        }
        for options in combinations() {
            let info: xt_rustmasq_info_v1 = options.into();
            assert_eq!(0, info.flags & !XT_RUSTMASQ_FLAGS_ALL_V1);
            assert_eq!(options, info.into());
        }
    }

    #[test]
    fn binary_form_of_revision_1() {
        let line = [
            ToPorts("258-772,1027"),
            ExceptPorts("259"),
            MaxFlowsPerHost("7"),
            KeepOwn,
        ];
        let info: xt_rustmasq_info_v1 = parse(&line).unwrap().into();
        assert_eq!(XT_RUSTMASQ_KEEP_OWN, info.flags);
        assert_eq!(7, info.max_flows_per_host);
        assert_eq!((2, 1), (info.to_ports_count, info.except_ports_count));
        assert_eq!([1, 2], info.to_ports[0].first.to_ne_bytes());
        assert_eq!([3, 4], info.to_ports[0].last.to_ne_bytes());
        assert_eq!([4, 3], info.to_ports[1].last.to_ne_bytes());
        assert_eq!((0, 0), (info.to_ports[2].first, info.to_ports[2].last));
        assert_eq!([1, 3], info.except_ports[0].first.to_ne_bytes());
        let info: xt_rustmasq_info_v1 = parse(&[Psid("6/8/52")]).unwrap().into();
        assert_eq!((6, 8), (info.psid_offset, info.psid_length));
        assert_eq!([0, 52], info.psid.to_ne_bytes());
        assert_eq!(XT_RUSTMASQ_PSID, info.flags);
    }

    #[test]
    fn wrong_numbers_of_the_binary_form_are_ignored() {
        let mut info: xt_rustmasq_info_v1 = parse(&[ExceptPorts("5")]).unwrap().into();
        info.except_ports[0].first = 1_u16.to_be();
        info.except_ports[0].last = 65535_u16.to_be();
        assert_eq!(Options::default(), info.into());
        info.except_ports_count = 16;
        assert_eq!(Options::default(), info.into());
        let mut info: xt_rustmasq_info_v1 = parse(&[Psid("6/8/52")]).unwrap().into();
        info.psid_length = 7;
        info.psid = 128_u16.to_be();
        assert_eq!(Options::default(), info.into());
    }

    #[test]
    fn lists_and_port_sets_exclude_each_other() {
        assert_eq!(
            parse(&[ToPorts("5"), Psid("6/8/52")]).unwrap_err(),
            "--psid: not allowed after --to-ports; allowed: one of them"
        );
        assert_eq!(
            parse(&[Psid("6/8/52"), ToPorts("5")]).unwrap_err(),
            "--to-ports: not allowed after --psid; allowed: one of them"
        );
    }

    #[test]
    fn exceptions_leave_a_port() {
        for line in [
            [ToPorts("5-9,20"), ExceptPorts("1-10,20")],
            [ExceptPorts("1-10,20"), ToPorts("5-9,20")],
            [Psid("0/8/0"), ExceptPorts("1-255")],
        ] {
            let text = parse(&line).unwrap_err();
            assert!(text.contains("leaves no port; allowed: a list"), "{text}");
            assert!(text.starts_with(line[1].name()), "{text}");
        }
        assert_eq!(
            parse(&[ExceptPorts("1-65535")]).unwrap_err(),
            "--except-ports: --except-ports 1-65535 leaves no port; allowed: a list that leaves one"
        );
        assert!(parse(&[ExceptPorts("1-65534")]).is_ok());
    }

    #[test]
    fn messages_of_lists() {
        let cases = [
            (
                "1-5,3-9",
                "1-5 and 3-9 overlap; allowed: ranges with a port between them",
            ),
            (
                "6-9,1-5",
                "1-5 and 6-9 touch; allowed: 1-9, or ranges with a port between them",
            ),
            (
                "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31",
                "16 ranges are too many; allowed: up to 15",
            ),
        ];
        for (list, text) in cases {
            for option in [ToPorts(list), ExceptPorts(list)] {
                let name = option.name();
                let refusal = refusal(option, false, Family::Ipv4, TCP);
                assert_eq!(refusal, format!("{name}: {text}"));
            }
        }
    }

    #[test]
    fn messages_of_port_sets() {
        let cases = [
            (
                "6/8",
                "\"6/8\" is no port set; allowed: OFFSET/LENGTH/PSID, three numbers in decimal",
            ),
            (
                "9/8/1",
                "\"9/8/1\" has 17 bits; allowed: OFFSET + LENGTH <= 16",
            ),
            (
                "6/8/256",
                "the PSID 256 has more than 8 bits; allowed: 0 to 255",
            ),
            (
                "0/16/0",
                "\"0/16/0\" is port 0 alone; allowed: a set with another port",
            ),
        ];
        for (set, text) in cases {
            let refusal = refusal(Psid(set), false, Family::Ipv4, TCP);
            assert_eq!(refusal, format!("--psid: {text}"));
        }
        let text = refusal(Psid("6/8/1"), false, Family::Ipv4, RuleProtocol::Any);
        assert!(
            text.starts_with("--psid: \"6/8/1\" is allowed only after -p"),
            "{text}"
        );
    }

    #[test]
    fn numbers_of_flows() {
        for text in ["0", "", "01", "+1", "-1", "1 ", "4294967296", "many", "1.5"] {
            assert_eq!(
                refusal(MaxFlowsPerHost(text), false, Family::Ipv4, TCP),
                format!(
                    "--max-flows-per-host: \"{text}\" is no number of flows; \
                     allowed: 1 to 4294967295 in decimal"
                )
            );
        }
        assert!(parse(&[MaxFlowsPerHost("4294967295")]).is_ok());
    }

    #[test]
    fn an_old_module_takes_one_range() {
        let mut options = Options::default();
        let old = Context {
            revision: Revision::Zero,
            ..context(Family::Ipv4, TCP)
        };
        let refusal = options.add(&ToPorts("5,7"), Manner::default(), old, &service);
        assert_eq!(
            refusal.unwrap_err().to_string(),
            "--to-ports: \"5,7\" has several ranges; allowed by this kernel's module: one"
        );
        assert!(options
            .add(&ToPorts("5-7"), Manner::default(), old, &service)
            .is_ok());
    }

    #[test]
    fn translation_has_the_longest_run() {
        let cases: [(&[GivenOption<'_>], _); 5] = [
            (&[ToPorts("7,100-200,300-400")], "masquerade to :100-200"),
            (
                &[ToPorts("7,100-200,300-401"), ExceptPorts("390")],
                "masquerade to :100-200",
            ),
            (&[Psid("6/8/52")], "masquerade to :1232-1235"),
            (
                &[Psid("0/4/15"), Random],
                "masquerade to :61440-65535 random",
            ),
            (&[ExceptPorts("1024-2000"), KeepOwn], "masquerade"),
        ];
        for (line, text) in cases {
            assert_eq!(text, parse(line).unwrap().nft_text());
        }
    }

    #[test]
    fn long_comments_are_cut() {
        let list = (1..=15).map(|n| format!("{}-{}", 1000 * n, 1000 * n + 9));
        let list = list.collect::<Vec<_>>().join(",");
        let comment = parse(&[ToPorts(&list), Random]).unwrap().nft_comment();
        assert_eq!(
            comment,
            "\"translated from -j RUSTMASQ --to-ports 1000-1009,2000-2009,3000-3009,4000-4009,\
             5000-5009,6000-6009,7000-7009,8000-8009 ...\""
        );
        for options in combinations() {
            let comment = options.nft_comment();
            assert!(comment.len() < 128 && comment.ends_with('"'), "{comment}");
        }
    }

    #[test]
    fn kernel_private_is_ignored() {
        let mut info: xt_rustmasq_info = Options::default().into();
        info.kernel_private = [u64::MAX; 4];
        assert_eq!(Options::default(), info.into());
    }

    #[test]
    fn ports_without_their_flag_are_ignored() {
        let mut info: xt_rustmasq_info = parse(&[ToPorts("5")]).unwrap().into();
        info.flags = 0;
        assert_eq!(Options::default(), info.into());
    }

    #[test]
    fn save_text_round_trip() {
        for options in combinations() {
            let text = options.save_text();
            let mut words = text.split_ascii_whitespace();
            let mut line = Vec::new();
            while let Some(word) = words.next() {
                line.push(match word {
                    "--to-ports" => ToPorts(words.next().unwrap()),
                    "--random" => Random,
                    "--random-fully" => RandomFully,
                    "--when-full" => WhenFull(words.next().unwrap()),
                    "--full-cone" => GivenOption::Cone(Cone::Full),
                    "--address-restricted-cone" => GivenOption::Cone(Cone::AddressRestricted),
                    "--port-restricted-cone" => GivenOption::Cone(Cone::PortRestricted),
                    "--psid" => Psid(words.next().unwrap()),
                    "--except-ports" => ExceptPorts(words.next().unwrap()),
                    "--except-reserved" => ExceptReserved,
                    "--max-flows-per-host" => MaxFlowsPerHost(words.next().unwrap()),
                    "--route-source" => RouteSource,
                    "--keep-own" => KeepOwn,
                    _ => panic!("{word}"),
                });
            }
            assert_eq!(Ok(options), parse(&line));
        }
    }
}
