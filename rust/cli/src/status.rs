// SPDX-License-Identifier: GPL-2.0

//! `rustmasq status`: tells whether it works, and if not, why, and what to do.

use crate::{
    arguments, flows, json,
    output::{reason, screen_width},
    readers::{
        namespaces::{self, Namespaces},
        nft::{self, HelperObject, MasqueradeChain},
        proc::{parse_conntrack_counters, parse_netstat, ConntrackCounters},
        rules::{Rule as SavedRule, Ruleset},
    },
    screen, End, Failure,
};
use nix::sched::{setns, CloneFlags};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    process::Command,
    thread,
};

const TARGET: &str = "RUSTMASQ";
/// The kernel's target, which the module serves with its parameter `masquerade`.
const KERNEL_TARGET: &str = "MASQUERADE";
/// The kernel's own modules for rules that masquerade.
const KERNEL_MODULES: [&str; 2] = ["xt_MASQUERADE", "nft_masq"];
/// The module's helpers, each with what a filter must let in for it.
const HELPERS: [(&str, &str); 2] = [
    ("rustmasq-ftp", "data connections of FTP"),
    ("rustmasq-tftp", "answers of TFTP servers"),
];
/// The front ends, with the file that lists the tables that a legacy one would make anew if there were none.
const FRONT_ENDS: [(&str, Option<&str>); 4] = [
    ("iptables-legacy", Some("ip_tables_names")),
    ("ip6tables-legacy", Some("ip6_tables_names")),
    ("iptables-nft", None),
    ("ip6tables-nft", None),
];

/// A fault and its cure.
#[derive(Debug, PartialEq, Serialize)]
pub struct Fault {
    /// The network namespace, if it is in one.
    pub namespace: Option<String>,
    /// A description of the fault.
    pub fault: String,
    /// The command or change that removes it.
    pub cure: String,
}

/// A rule that names the target or a helper.
#[derive(Debug, PartialEq, Serialize)]
pub struct Rule {
    /// The front end that lists it.
    pub program: String,
    /// The rule.
    pub rule: String,
}

/// Facts of conntrack in a namespace.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Conntrack {
    /// The number of flows.
    pub flows: Option<u64>,
    /// The largest number of them.
    pub max: Option<u64>,
    /// Its counters.
    pub counters: Option<ConntrackCounters>,
}

/// A network namespace with rules of ours.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Place {
    /// Its inode number.
    pub netns: u64,
    /// Its name, or the number.
    pub namespace: String,
    /// The rules that name the target or the helper.
    pub rules: Vec<Rule>,
    /// The addresses of the devices that they name.
    pub devices: BTreeMap<String, Vec<String>>,
    /// The objects of nftables that stand for the helper.
    pub nft_helpers: Vec<HelperObject>,
    /// The chains of nftables with a rule that the module may serve, once for each rule.
    pub nft_masquerades: Vec<MasqueradeChain>,
    /// The number of flows of each helper that a rule names or a flow has.
    pub helpers: BTreeMap<String, Option<u64>>,
    /// Conntrack's table.
    pub conntrack: Conntrack,
}

/// All that the command tells.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The kernel's release.
    pub kernel: String,
    /// The module's version, if it is loaded.
    pub module: Option<String>,
    /// The module's parameter `masquerade` is on: it serves rules of MASQUERADE that are added.
    pub masquerade: bool,
    /// The trace events that are on, each with its trace instance.
    pub events: Vec<String>,
    /// The namespaces with rules of ours.
    pub namespaces: Vec<Place>,
    /// The faults.
    pub faults: Vec<Fault>,
    /// The parts that could not be seen.
    pub unseen: BTreeSet<String>,
}

/// Tells the status. Fails with 1 if something is to cure, and with 2 if something could not be seen.
pub fn run(options: &arguments::Status) -> Result<u8, End> {
    let status = look();
    let mut text = Vec::new();
    if options.json {
        json::append_line(&mut text, &status).map_err(|error| Failure::io("JSON", &error))?;
    } else {
        text = screen::show(&status, screen_width()).into_bytes();
    }
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::io("standard output", &error).into());
        }
        _ => {}
    }
    Ok(match (status.faults.is_empty(), status.unseen.is_empty()) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 0,
    })
}

fn look() -> Status {
    let mut status = Status {
        kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_default(),
        module: trimmed("/sys/module/rustmasq/version"),
        masquerade: parameter("masquerade").is_some_and(|value| value == "Y"),
        events: Vec::new(),
        namespaces: Vec::new(),
        faults: Vec::new(),
        unseen: BTreeSet::new(),
    };
    look_at_events(&mut status);
    look_at_extension(&mut status);
    let names = Namespaces::find();
    let own = namespaces::own();
    if !nix::unistd::geteuid().is_root() {
        status
            .unseen
            .insert("the network namespaces of other users: run it as root".to_owned());
    }
    for (inode, file) in namespaces::find_all() {
        let name = names.name(inode).map_or(inode.to_string(), str::to_owned);
        let enter = (own != Some(inode)).then_some(file);
        let (loaded, masquerade) = (status.module.is_some(), status.masquerade);
        let seen = thread::spawn(move || Seen::look(enter, loaded, masquerade));
        match seen.join() {
            Ok(Ok(seen)) => status.add(inode, name, seen),
            Ok(Err(error)) => drop(
                status
                    .unseen
                    .insert(format!("network namespace {name}: {}", reason(&error))),
            ),
            Err(_) => drop(status.unseen.insert(format!("network namespace {name}"))),
        }
    }
    if status.module.is_none() {
        status.fault(
            None,
            "the module rustmasq is not loaded",
            "modprobe rustmasq",
        );
    }
    if status.masquerade {
        look_at_older_rules(&mut status);
    }
    let is_attached = ["ftp_port", "tftp_port"]
        .into_iter()
        .any(|name| parameter(name).is_some_and(|port| port != "0"));
    let waits_for_rules = is_attached || status.masquerade;
    if status.unseen.is_empty() && status.namespaces.is_empty() && !waits_for_rules {
        status.fault(
            None,
            "no rule names RUSTMASQ or a helper of it",
            "iptables -t nat -A POSTROUTING -o DEVICE -j RUSTMASQ",
        );
    }
    status
}

/// Returns whether a helper is one of the module's.
fn is_helper(name: &str) -> bool {
    HELPERS.iter().any(|(helper, _)| *helper == name)
}

impl Status {
    fn fault(
        &mut self,
        namespace: Option<&str>,
        fault: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.faults.push(Fault {
            namespace: namespace.map(str::to_owned),
            fault: fault.into(),
            cure: cure.into(),
        });
    }

    /// Adds what was seen in a namespace, if it has rules of ours or rules that iptables cannot list.
    fn add(&mut self, netns: u64, namespace: String, seen: Seen) {
        self.unseen.extend(
            seen.unseen
                .iter()
                .map(|what| format!("{what}, in namespace {namespace}")),
        );
        for (fault, cure) in seen.faults() {
            self.fault(Some(&namespace), fault, cure);
        }
        if seen.is_ours() {
            self.namespaces.push(Place {
                netns,
                namespace,
                rules: seen.rules(),
                devices: seen.devices,
                nft_helpers: seen.nft_helpers,
                nft_masquerades: seen.nft_masquerades,
                helpers: seen.helpers,
                conntrack: seen.conntrack,
            });
        }
    }
}

/// The findings in a namespace.
#[derive(Debug, Default)]
struct Seen {
    /// The module serves rules of MASQUERADE, too.
    masquerade: bool,
    rulesets: Vec<(&'static str, Ruleset)>,
    devices: BTreeMap<String, Vec<String>>,
    nft_helpers: Vec<HelperObject>,
    nft_masquerades: Vec<MasqueradeChain>,
    helpers: BTreeMap<String, Option<u64>>,
    conntrack: Conntrack,
    /// Packets of IPv4 are forwarded, and those of IPv6.
    forwards: [bool; 2],
    /// The devices with strict reverse path filtering, and how many packets it dropped.
    strict: Vec<String>,
    reverse_path_drops: u64,
    unseen: Vec<String>,
}

impl Seen {
    /// Enters the namespace, unless the thread is in it, and looks. `loaded` tells whether the module is, and `masquerade`
    /// whether it serves rules of MASQUERADE, too.
    fn look(enter: Option<File>, loaded: bool, masquerade: bool) -> io::Result<Self> {
        if let Some(file) = enter {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
        }
        let mut seen = Self {
            masquerade,
            ..Self::default()
        };
        for (program, tables) in FRONT_ENDS {
            let needed = tables.is_none_or(|tables| {
                trimmed(&format!("/proc/thread-self/net/{tables}"))
                    .is_none_or(|tables| !tables.is_empty())
            });
            if needed {
                seen.read_rules(program);
            }
        }
        let flag = |path: &str| trimmed(path).is_some_and(|value| value != "0");
        seen.forwards = [
            flag("/proc/sys/net/ipv4/ip_forward"),
            flag("/proc/sys/net/ipv6/conf/all/forwarding"),
        ];
        let count = |name: &str| {
            trimmed(&format!("/proc/sys/net/netfilter/{name}"))?
                .parse()
                .ok()
        };
        seen.conntrack = Conntrack {
            flows: count("nf_conntrack_count"),
            max: count("nf_conntrack_max"),
            counters: trimmed("/proc/thread-self/net/stat/nf_conntrack")
                .and_then(|text| parse_conntrack_counters(&text)),
        };
        let netstat = trimmed("/proc/thread-self/net/netstat").unwrap_or_default();
        seen.reverse_path_drops = parse_netstat(&netstat, "IPReversePathFilter").unwrap_or(0);
        seen.look_at_devices();
        seen.read_nft();
        seen.count_flows(loaded);
        Ok(seen)
    }

    fn read_rules(&mut self, program: &'static str) {
        match Command::new(format!("{program}-save")).output() {
            Ok(output) if output.status.success() => {
                self.rulesets.push((
                    program,
                    Ruleset::parse(&String::from_utf8_lossy(&output.stdout)),
                ));
            }
            Ok(output) => {
                self.unseen
                    .push(format!("{program}-save: {}", first_line(&output.stderr)));
            }
            // A machine has one front end or both.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self
                .unseen
                .push(format!("{program}-save: {}", reason(&error))),
        }
    }

    /// Finds the objects of nftables that stand for our helpers, and its rules that the module serves.
    fn read_nft(&mut self) {
        let read = match Command::new("nft").args(["-j", "list", "ruleset"]).output() {
            Ok(output) if output.status.success() => nft::Ruleset::parse(&output.stdout, is_helper)
                .map_err(|error| format!("its JSON cannot be understood: {error}")),
            Ok(output) => Err(first_line(&output.stderr)),
            // A machine need not have it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(reason(&error)),
        };
        match read {
            Ok(ruleset) => {
                self.nft_helpers = ruleset.helpers;
                if self.masquerade {
                    self.nft_masquerades = ruleset.masquerades;
                }
            }
            Err(why) => self.unseen.push(format!("nft: {why}")),
        }
    }

    /// Counts the flows of each helper, where a rule names one or a flow may have ours.
    fn count_flows(&mut self, loaded: bool) {
        let rules = self.rulesets.iter().flat_map(|(_, ruleset)| &ruleset.rules);
        let mut named: BTreeSet<_> = rules
            .filter_map(|rule| rule.option("--helper").map(str::to_owned))
            .collect();
        named.extend(self.nft_helpers.iter().map(|object| object.helper.clone()));
        // Conntrack is not loaded, or nothing uses it.
        let is_empty = self.conntrack.flows.unwrap_or(0) == 0;
        let counted = if is_empty || named.is_empty() && !loaded {
            Ok(BTreeMap::new())
        } else {
            flows::count_by_helper()
        };
        match counted {
            Ok(counted) => {
                self.helpers = named.into_iter().map(|name| (name, Some(0))).collect();
                let counted = counted.into_iter().map(|(name, count)| (name, Some(count)));
                self.helpers.extend(counted);
            }
            Err(error) => {
                self.helpers = named.into_iter().map(|name| (name, None)).collect();
                self.unseen
                    .push(format!("the helpers of flows: {}", reason(&error)));
            }
        }
    }

    /// Returns whether a rule, an object of nftables or a flow is of the module.
    fn is_ours(&self) -> bool {
        let mut helpers = self.helpers.iter();
        let has_flow = helpers.any(|(name, flows)| is_helper(name) && flows.is_some_and(|n| n > 0));
        has_flow
            || !self.nft_helpers.is_empty()
            || !self.nft_masquerades.is_empty()
            || self.our_rules().next().is_some()
    }

    /// Returns whether the module serves rules with this target.
    fn serves(&self, rule: &SavedRule) -> bool {
        let target = rule.option("-j");
        target == Some(TARGET) || self.masquerade && target == Some(KERNEL_TARGET)
    }

    fn look_at_devices(&mut self) {
        let named = self
            .rulesets
            .iter()
            .flat_map(|(_, ruleset)| &ruleset.rules)
            .filter(|rule| self.serves(rule));
        let named: BTreeSet<_> = named
            .filter_map(|rule| rule.option("-o").map(str::to_owned))
            .collect();
        self.devices = named.into_iter().map(|name| (name, Vec::new())).collect();
        for each in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            let Some(addresses) = self.devices.get_mut(&each.interface_name) else {
                continue;
            };
            if let Some(address) = each.address.as_ref() {
                let v4 = address.as_sockaddr_in().map(|v4| v4.ip().to_string());
                addresses
                    .extend(v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().to_string())));
            }
        }
        let filter = |name: &str| {
            trimmed(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"))?
                .parse::<u8>()
                .ok()
        };
        for entry in fs::read_dir("/proc/sys/net/ipv4/conf")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The larger value of "all" and the device holds.
            if name != "all" && name != "default" && filter(&name).max(filter("all")) == Some(1) {
                self.strict.push(name);
            }
        }
    }

    /// Returns the rules that name the target or one of our helpers, each with its front end.
    fn our_rules(&self) -> impl Iterator<Item = (&'static str, &SavedRule)> {
        let is_ours =
            |rule: &&SavedRule| self.serves(rule) || rule.option("--helper").is_some_and(is_helper);
        self.rulesets.iter().flat_map(move |(program, ruleset)| {
            let rules = ruleset.rules.iter().filter(is_ours);
            rules.map(|rule| (*program, rule))
        })
    }

    fn rules(&self) -> Vec<Rule> {
        self.our_rules()
            .map(|(program, rule)| Rule {
                program: program.to_owned(),
                rule: rule.text("-A"),
            })
            .collect()
    }

    /// Returns what is wrong, with its cures.
    fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |what: String, cure: String| faults.push((what, cure));
        for (program, ruleset) in &self.rulesets {
            let family = if program.starts_with("ip6") {
                "ip6"
            } else {
                "ip"
            };
            for table in &ruleset.incompatible {
                fault(
                    format!(
                        "{program} cannot list the table {table}, which another program changed"
                    ),
                    format!(
                        "move the rules that iptables does not know from the table: \
                        nft list table {family} {table}"
                    ),
                );
            }
            let program = program.split('-').next().unwrap_or(program);
            if ruleset.rules.iter().any(|rule| self.serves(rule)) {
                let others = ruleset.with_target(KERNEL_TARGET);
                for rule in others.filter(|rule| !self.serves(rule)) {
                    fault(
                        format!(
                            "a rule of MASQUERADE forgets flows of RUSTMASQ, too, \
                            when an address is deleted: {}",
                            rule.text("-A")
                        ),
                        format!(
                            "replace it: {program} {} and the same with -j RUSTMASQ",
                            rule.text("-D")
                        ),
                    );
                }
                let (index, setting) = match family {
                    "ip" => (0, "net.ipv4.ip_forward"),
                    _ => (1, "net.ipv6.conf.all.forwarding"),
                };
                if !self.forwards[index] {
                    fault(
                        format!("{setting} is 0: packets of other hosts are not forwarded"),
                        format!("sysctl {setting}=1"),
                    );
                }
            }
            for (helper, related) in HELPERS {
                if let Some(chain) = ruleset.drops_related(helper) {
                    fault(
                        format!(
                            "{program} drops the {related}: \
                            the chain {chain} accepts no RELATED packets"
                        ),
                        format!(
                            "{program} -A {chain} \
                            -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
                        ),
                    );
                }
            }
        }
        if !self.is_ours() {
            return faults;
        }
        if let Conntrack {
            flows: Some(flows),
            max: Some(max),
            ..
        } = self.conntrack
        {
            // CAST: Conntrack's table is far smaller than 2^57 entries.
            if max > 0 && flows >= max - max / 20 {
                faults.push((
                    format!("conntrack is full: {flows} of {max} flows"),
                    format!(
                        "sysctl net.netfilter.nf_conntrack_max={}",
                        max.saturating_mul(4)
                    ),
                ));
            }
        }
        if self.reverse_path_drops > 0 && !self.strict.is_empty() {
            let cures: Vec<_> = self
                .strict
                .iter()
                .map(|name| format!("net.ipv4.conf.{name}.rp_filter=2"))
                .collect();
            faults.push((
                format!(
                    "rp_filter is strict and dropped {} packets",
                    self.reverse_path_drops
                ),
                format!("sysctl {}", cures.join(" ")),
            ));
        }
        faults
    }
}

/// Finds the kernel's own modules that serve rules from before the module was loaded.
fn look_at_older_rules(status: &mut Status) {
    for module in KERNEL_MODULES {
        let rules = trimmed(&format!("/sys/module/{module}/refcnt"));
        if let Some(rules) = rules.filter(|rules| rules != "0") {
            status.fault(
                None,
                format!(
                    "{module} of the kernel serves {rules} rules that are older than the module"
                ),
                "restart the tool that wrote them, or: iptables-save | iptables-restore",
            );
        }
    }
}

/// Returns the value of a parameter of the module, or `None` if it is not loaded.
fn parameter(name: &str) -> Option<String> {
    trimmed(&format!("/sys/module/rustmasq/parameters/{name}"))
}

/// Finds the events that are on.
fn look_at_events(status: &mut Status) {
    let root = "/sys/kernel/tracing";
    let instances = match fs::read_dir(format!("{root}/instances")) {
        Ok(instances) => instances
            .flatten()
            .map(|entry| entry.path().display().to_string()),
        Err(error) => {
            status
                .unseen
                .insert(format!("the trace events: {}", reason(&error)));
            return;
        }
    };
    for folder in std::iter::once(root.to_owned()).chain(instances) {
        for event in ["flow_new", "flow_confirm", "packet"] {
            if trimmed(&format!("{folder}/events/rustmasq/{event}/enable"))
                .is_some_and(|state| state.starts_with('1'))
            {
                status.events.push(format!("{event} in {folder}"));
            }
        }
    }
}

/// Asks iptables for the help of the target, which it has from the extension.
fn look_at_extension(status: &mut Status) {
    match Command::new("iptables").args(["-j", TARGET, "-h"]).output() {
        Ok(output)
            if String::from_utf8_lossy(&output.stdout).contains("RUSTMASQ target options") => {}
        Ok(_) => status.fault(
            None,
            "iptables does not find its extension libxt_RUSTMASQ.so",
            "make install, or set XTABLES_LIBDIR to its folder",
        ),
        Err(error) => drop(
            status
                .unseen
                .insert(format!("iptables: {}", reason(&error))),
        ),
    }
}

/// Returns the content of a file without the line's end, or `None` if it cannot be read.
fn trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim_end().to_owned())
}

/// Returns the first line of what a program said when it failed.
fn first_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().next().unwrap_or("it failed").to_owned()
}
