// SPDX-License-Identifier: GPL-2.0

//! Readers of what the kernel tells: each parses one source, and needs no kernel for its tests.

pub mod conntrack;
pub mod events;
pub mod mappings;
pub mod namespaces;
pub mod netlink;
pub mod nft;
pub mod ports;
pub mod proc;
pub mod rules;
pub mod tracefs;
