// SPDX-License-Identifier: GPL-2.0

//! The ends of flows, from conntrack's netlink messages in every network namespace.

use crate::{
    filter::protocol_name,
    output::{reason, say},
    readers::{
        conntrack::{self, Counters, Ended},
        events::{Icmp, Tuple, Zones},
        namespaces::{self, Namespaces},
    },
    Failure,
};
use nix::{
    errno::Errno,
    sched::{setns, CloneFlags},
    sys::socket::{
        self, sockopt, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
    },
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// The bit of the group of ends (`NFNLGRP_CONNTRACK_DESTROY`).
const DESTROY: u32 = 1 << 2;
/// 8 MB hold the ends of some 10,000 flows.
const BUFFER: usize = 8 << 20;
/// New namespaces are looked for as often.
const SEARCH: Duration = Duration::from_secs(1);
/// The settings of conntrack that ends need, below /proc/sys/net/netfilter, and what is missing without them.
const SETTINGS: [(&str, &str); 3] = [
    ("nf_conntrack_events", "no end of a flow is shown"),
    ("nf_conntrack_acct", "packets and bytes are not known"),
    ("nf_conntrack_timestamp", "duration and begin are not known"),
];

/// A number for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Both {
    /// The original direction.
    pub original: u64,
    /// The reply direction.
    pub reply: u64,
}

/// A flow that ended. Its fields are the keys of the JSON object, which rustmasq-watch(8) describes.
#[derive(Debug, PartialEq, Serialize)]
pub struct FlowEnd<'a> {
    /// "end".
    pub event: &'static str,
    /// Seconds since 1970.
    pub time: f64,
    /// The inode number of the network namespace.
    pub netns: u64,
    /// The namespace's name.
    pub namespace: Option<&'a str>,
    /// The flow's id.
    pub id: u32,
    /// The protocol: its name or its hexadecimal number.
    pub proto: String,
    /// The flow's packets before NAT.
    pub original: Tuple,
    /// The replies before NAT translates them back.
    pub reply: Tuple,
    /// The parts that NAT changed.
    pub moved: Vec<&'static str>,
    /// The flow's mark.
    pub mark: u32,
    /// The type and code of the first packet of an ICMP flow.
    pub icmp: Icmp,
    /// The conntrack zones.
    pub zone: Zones,
    /// The time at which the flow began, in seconds since 1970.
    pub begin: Option<f64>,
    /// Its duration in seconds.
    pub duration: Option<f64>,
    /// The number of its packets.
    pub packets: Option<Both>,
    /// The number of their bytes, from the IP header on.
    pub bytes: Option<Both>,
}

impl<'a> FlowEnd<'a> {
    /// Returns the end of a flow. `now` is when its message came, in seconds since 1970.
    pub fn new(ended: &Ended, netns: u64, namespaces: &'a Namespaces, now: f64) -> Self {
        let seconds = |nanoseconds: u64| (nanoseconds / 1000) as f64 / 1e6;
        let both = |part: fn(&Counters) -> u64| {
            ended.counters.map(|(original, reply)| Both {
                original: part(&original),
                reply: part(&reply),
            })
        };
        Self {
            event: "end",
            time: ended.times.map_or(now, |(_, stop)| seconds(stop)),
            netns,
            namespace: namespaces.name(netns),
            id: ended.id,
            proto: protocol_name(ended.protocol),
            original: ended.original,
            reply: ended.reply,
            moved: moved(ended.original, ended.reply),
            mark: ended.mark,
            icmp: ended.icmp,
            zone: ended.zone,
            begin: ended.times.map(|(start, _)| seconds(start)),
            // The clock may have been set back meanwhile.
            duration: ended
                .times
                .map(|(start, stop)| seconds(stop.saturating_sub(start))),
            packets: both(|counters| counters.packets),
            bytes: both(|counters| counters.bytes),
        }
    }
}

/// Returns the parts that NAT changed, by the names that the event has for them.
fn moved(original: Tuple, reply: Tuple) -> Vec<&'static str> {
    let parts = [
        (
            original.source.address != reply.destination.address,
            "source-address",
        ),
        (
            original.source.port != reply.destination.port,
            "source-port",
        ),
        (
            original.destination.address != reply.source.address,
            "destination-address",
        ),
        (
            original.destination.port != reply.source.port,
            "destination-port",
        ),
    ];
    let mut names: Vec<_> = parts
        .iter()
        .filter(|(moved, _)| *moved)
        .map(|(_, name)| *name)
        .collect();
    if names.contains(&"source-port") && !names.contains(&"source-address") {
        names.push("source-port-alone");
    }
    names
}

/// The sockets that receive ends, one in each network namespace.
pub struct Ends {
    sockets: BTreeMap<u64, OwnedFd>,
    /// The namespaces where none could be made.
    refused: BTreeSet<u64>,
    searched: Instant,
    /// The settings that were reported.
    reported: BTreeSet<&'static str>,
}

impl Ends {
    /// Opens a socket in each namespace that there is.
    pub fn new() -> Result<Self, Failure> {
        let mut ends = Self {
            sockets: BTreeMap::new(),
            refused: BTreeSet::new(),
            searched: Instant::now(),
            reported: BTreeSet::new(),
        };
        ends.search();
        if ends.sockets.is_empty() {
            return Err(Failure::new(
                "there is no network namespace whose flows' ends can be received",
            ));
        }
        Ok(ends)
    }

    /// Looks for new namespaces, if the last time was a while ago.
    pub fn search_again(&mut self) {
        if self.searched.elapsed() >= SEARCH {
            self.search();
        }
    }

    /// Opens a socket in each new namespace, and closes those of namespaces that nobody else uses any more: a socket
    /// keeps its namespace.
    fn search(&mut self) {
        self.searched = Instant::now();
        let found = namespaces::find_all();
        self.sockets.retain(|inode, _| found.contains_key(inode));
        self.refused.retain(|inode| found.contains_key(inode));
        for (inode, file) in found {
            if self.sockets.contains_key(&inode) || self.refused.contains(&inode) {
                continue;
            }
            match thread::spawn(move || open_in(&file)).join() {
                Ok(Ok((socket, missing))) => {
                    self.sockets.insert(inode, socket);
                    missing
                        .iter()
                        .for_each(|setting| self.report(inode, setting));
                }
                Ok(Err(error)) => {
                    say(&format!(
                        "the ends of flows of network namespace {inode} are not shown: {}",
                        reason(&error)
                    ));
                    self.refused.insert(inode);
                }
                Err(_) => drop(self.refused.insert(inode)),
            }
        }
    }

    /// Reports a setting that is off, once.
    fn report(&mut self, inode: u64, (name, lost): &(&'static str, &'static str)) {
        if self.reported.insert(name) {
            let namespaces = Namespaces::find();
            let place = namespaces
                .name(inode)
                .map_or(inode.to_string(), str::to_owned);
            say(&format!(
                "net.netfilter.{name} is 0 in namespace {place} and perhaps in others: {lost}"
            ));
        }
    }

    /// Returns the sockets, to wait for messages.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.values().map(AsFd::as_fd)
    }

    /// Calls the function for each message that has come, with the namespace's inode number. Returns whether some were
    /// lost.
    pub fn receive(&self, mut show: impl FnMut(u64, &Ended)) -> bool {
        let mut are_lost = false;
        let mut datagram = vec![0; 1 << 16];
        for (inode, socket) in &self.sockets {
            loop {
                match socket::recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut datagram) {
                    // Only the kernel has the port 0.
                    Ok((length, Some(sender))) if sender.pid() == 0 => {
                        for ended in conntrack::parse_ended(&datagram[..length]) {
                            match ended {
                                Some(ended) => show(*inode, &ended),
                                None => say("the end of a flow cannot be understood"),
                            }
                        }
                    }
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(Errno::ENOBUFS) => are_lost = true,
                    Err(_) => break,
                }
            }
        }
        are_lost
    }
}

type Setting = (&'static str, &'static str);

/// Opens a socket in the namespace, and returns it with the settings that are off there.
///
/// The thread stays in the namespace.
fn open_in(namespace: &File) -> io::Result<(OwnedFd, Vec<Setting>)> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    // A smaller buffer does, if it must.
    let _ = socket::setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, DESTROY))?;
    // The kernel loads the module of conntrack's messages for a request; the answer is passed over.
    socket::sendto(
        socket.as_raw_fd(),
        &statistics_request(),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let is_off = |(name, _): &Setting| {
        // The file is that of the thread's namespace.
        let value = fs::read(format!("/proc/sys/net/netfilter/{name}"));
        value.is_ok_and(|value| value.starts_with(b"0"))
    };
    Ok((socket, SETTINGS.into_iter().filter(is_off).collect()))
}

/// Returns a request for conntrack's statistics (`IPCTNL_MSG_CT_GET_STATS`).
fn statistics_request() -> [u8; 20] {
    let mut message = [0; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&(1_u16 << 8 | 5).to_ne_bytes());
    // NLM_F_REQUEST
    message[6] = 1;
    message
}
