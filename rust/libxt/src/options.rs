// SPDX-License-Identifier: GPL-2.0

//! The options of a rule: parsing, the binary form, and the text for `-L`, `-S`, `-h` and nftables.

use std::fmt;

use crate::bindings::{
    xt_rustmasq_info,
    XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE,
    XT_RUSTMASQ_FULL_CONE,
    XT_RUSTMASQ_PORT_RESTRICTED_CONE,
    XT_RUSTMASQ_RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY,
    XT_RUSTMASQ_TO_PORTS,
    XT_RUSTMASQ_WHEN_FULL_REJECT, //
};
use crate::place::WrongPlace;
use crate::ports::PortRange;
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
        }
    }
}

/// Writes the option as on a command line, with control characters in its argument escaped.
impl fmt::Display for GivenOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::ToPorts(argument) | Self::WhenFull(argument) => {
                write!(f, " {}", argument.escape_debug())
            }
            Self::Random | Self::RandomFully | Self::Cone(_) => Ok(()),
        }
    }
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
    to_ports: Option<PortRange>,
    random: bool,
    random_fully: bool,
    reject_when_full: bool,
    cone: Option<Cone>,
}

impl Options {
    /// Adds one option.
    ///
    /// `protocol` is what the rule matches according to the command line so far: iptables parses it
    /// from left to right. `service` returns the port, in host order, of a service that is given by
    /// name.
    ///
    /// Returns a [`Refusal`] if the option is inverted or repeated, if its argument is none of
    /// those allowed, or if packets of `protocol` may have no ports for `--to-ports`. The options
    /// are as before then.
    pub(crate) fn add(
        &mut self,
        option: &GivenOption<'_>,
        manner: Manner,
        family: Family,
        protocol: RuleProtocol,
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
        match option {
            GivenOption::ToPorts(argument) => {
                let range = PortRange::parse(argument, service).map_err(|_| {
                    Refusal(format!(
                        "{name}: {argument:?} is no port range; allowed: PORT or PORT-PORT \
                         with 1 <= PORT <= 65535 in decimal or the name of a known service, \
                         the lower one first"
                    ))
                })?;
                if !protocol.has_ports(family) {
                    return Err(Refusal(format!(
                        "{name}: {argument:?} is allowed only after -p {}; \
                         so far this rule takes {protocol}",
                        family.protocols_with_ports()
                    )));
                }
                self.to_ports = Some(range);
            }
            GivenOption::Cone(cone) => match self.cone {
                Some(other) => {
                    return Err(Refusal(format!(
                        "{name}: not allowed after --{}; allowed: one of them",
                        other.word()
                    )))
                }
                None => self.cone = Some(*cone),
            },
            GivenOption::Random => self.random = true,
            GivenOption::RandomFully => self.random_fully = true,
            GivenOption::WhenFull(argument) => {
                self.reject_when_full = match *argument {
                    "drop" => false,
                    "reject" => true,
                    _ => {
                        return Err(Refusal(format!(
                            "{name}: {argument:?} is unknown; allowed: drop or reject"
                        )))
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the text that `iptables -j RUSTMASQ -h` prints after the help of iptables itself.
    pub(crate) fn help_text(family: Family) -> String {
        format!(
            "\
RUSTMASQ target options:
 --to-ports PORT[-PORT]   Ports (for ICMP: query identifiers) to map to, from 1
                          to 65535 or names of services; only after
                          -p {}
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
",
            family.protocols_with_ports()
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

    fn text(&self, before_ports: &str, before_flag: &str) -> String {
        let mut text = String::new();
        if let Some(ports) = self.to_ports {
            text += &format!("{before_ports}{ports}");
        }
        for flag in self.flags("random-fully") {
            text += before_flag;
            text += flag;
        }
        if self.reject_when_full {
            text += before_flag;
            text += "when-full reject";
        }
        if let Some(cone) = self.cone {
            text += before_flag;
            text += cone.word();
        }
        text
    }

    /// Returns nftables' statement that masquerades with the same options.
    ///
    /// It has no equal of `--when-full reject` and of the mappings, which the comment names. Follows the `xlate` callback of
    /// MASQUERADE's extension.
    pub(crate) fn nft_text(&self) -> String {
        let mut text = String::from("masquerade");
        if let Some(ports) = self.to_ports {
            text += &format!(" to :{ports}");
        }
        let flags: Vec<_> = self.flags("fully-random").collect();
        if !flags.is_empty() {
            text += " ";
            text += &flags.join(",");
        }
        text
    }

    /// Returns the comment, in quotes, that tells which rule nftables' statement is a translation of.
    ///
    /// It is less than 128 bytes long, as nftables requires.
    pub(crate) fn nft_comment(&self) -> String {
        format!("\"translated from -j RUSTMASQ{}\"", self.save_text())
    }

    /// Returns the names of the flags that are set. iptables and nftables have different names for
    /// the second one.
    fn flags(&self, random_fully: &'static str) -> impl Iterator<Item = &'static str> {
        [(self.random, "random"), (self.random_fully, random_fully)]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
    }
}

/// Reads a rule's binary form: a new rule, which is zero, or one that the kernel has checked.
///
/// Unknown flags are ignored, since the kernel accepts no rule with any.
impl From<xt_rustmasq_info> for Options {
    fn from(info: xt_rustmasq_info) -> Self {
        let has = |flag: u32| info.flags & flag != 0;
        let range = PortRange::new(u16::from_be(info.min_port), u16::from_be(info.max_port));
        Self {
            to_ports: range.filter(|_| has(XT_RUSTMASQ_TO_PORTS)),
            random: has(XT_RUSTMASQ_RANDOM),
            random_fully: has(XT_RUSTMASQ_RANDOM_FULLY),
            reject_when_full: has(XT_RUSTMASQ_WHEN_FULL_REJECT),
            cone: CONES.into_iter().find(|cone| has(cone.flag())),
        }
    }
}

/// Writes a rule's binary form for the kernel, which requires that the reserved bytes are zero.
impl From<Options> for xt_rustmasq_info {
    fn from(options: Options) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let (first, last) = options
            .to_ports
            .map_or((0, 0), |range| (range.first(), range.last()));
        Self {
            flags: flag(options.to_ports.is_some(), XT_RUSTMASQ_TO_PORTS)
                | flag(options.random, XT_RUSTMASQ_RANDOM)
                | flag(options.random_fully, XT_RUSTMASQ_RANDOM_FULLY)
                | flag(options.reject_when_full, XT_RUSTMASQ_WHEN_FULL_REJECT)
                | options.cone.map_or(0, Cone::flag),
            min_port: first.to_be(),
            max_port: last.to_be(),
            reserved: [0; 8],
            kernel_private: [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::XT_RUSTMASQ_FLAGS_ALL;
    use GivenOption::{Random, RandomFully, ToPorts, WhenFull};

    const TCP: RuleProtocol = RuleProtocol::Only(6);

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
                .add(option, manner, Family::Ipv4, TCP, &service)
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
            .add(&option, manner, family, protocol, &service)
            .unwrap_err();
        assert_eq!(
            Options::default(),
            options,
            "a refused option changes nothing"
        );
        refusal.to_string()
    }

    /// Returns every combination of options.
    fn combinations() -> impl Iterator<Item = Options> {
        let ranges = [None, PortRange::new(80, 80), PortRange::new(100, 200)];
        ranges.into_iter().flat_map(|to_ports| {
            (0..32).map(move |bits| Options {
                to_ports,
                random: bits & 1 != 0,
                random_fully: bits & 2 != 0,
                reject_when_full: bits & 4 != 0,
                cone: [None]
                    .into_iter()
                    .chain(CONES.map(Some))
                    .nth(bits / 8)
                    .unwrap(),
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
                    Family::Ipv6,
                    RuleProtocol::Any,
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
            let help = Options::help_text(family);
            let mut options = vec![ToPorts("5"), Random, RandomFully, WhenFull("drop")];
            options.extend(CONES.map(GivenOption::Cone));
            for option in options {
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
        for options in combinations() {
            let info: xt_rustmasq_info = options.into();
            assert_eq!(0, info.flags & !XT_RUSTMASQ_FLAGS_ALL);
            assert_eq!(options, info.into());
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
                    _ => panic!("{word}"),
                });
            }
            assert_eq!(Ok(options), parse(&line));
        }
    }
}
