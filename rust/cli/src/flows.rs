// SPDX-License-Identifier: GPL-2.0

//! The flows of a network namespace, which conntrack dumps.

use crate::readers::conntrack::{parse_dump, Dumped};
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};
use std::{collections::BTreeMap, io, os::fd::AsRawFd};

/// Returns how many flows of this thread's namespace have each helper.
pub fn count_by_helper() -> io::Result<BTreeMap<String, u64>> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let kernel = NetlinkAddr::new(0, 0);
    socket::sendto(
        socket.as_raw_fd(),
        &dump_request(),
        &kernel,
        MsgFlags::empty(),
    )?;
    let mut counts = BTreeMap::new();
    let mut datagram = vec![0; 1 << 16];
    loop {
        let length = match socket::recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut datagram) {
            // Only the kernel has the port 0.
            Ok((length, Some(sender))) if sender.pid() == 0 => length,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for message in parse_dump(&datagram[..length]) {
            match message {
                Dumped::Flow(Some(helper)) => *counts.entry(helper).or_insert(0) += 1,
                Dumped::Flow(None) => {}
                Dumped::End(None) => return Ok(counts),
                Dumped::End(Some(number)) => return Err(io::Error::from_raw_os_error(number)),
            }
        }
    }
}

/// Returns a request for all flows of all families (`IPCTNL_MSG_CT_GET`).
fn dump_request() -> [u8; 20] {
    let mut message = [0; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&(1_u16 << 8 | 1).to_ne_bytes());
    // NLM_F_REQUEST and NLM_F_DUMP
    message[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
    message
}
