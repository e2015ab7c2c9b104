// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over netfilter, connection tracking, NAT, x_tables and nftables.
//!
//! They build on [`net`](crate::net). The two layers and [`bindings`](crate::bindings) are the only parts
//! of the module that contain `unsafe`; `rust/README.md` lists the obligations behind it. Code outside of
//! them uses neither raw pointers nor types of C's.
//!
//! A callback converts C's pointers into borrowed types, once, for the duration of the call; it calls safe
//! code and translates the result. The lifetime `'hook` of these types belongs to the callback, so nothing
//! borrowed outlives the call (`tests/compile-fail`).

pub(crate) mod attach;
pub(crate) mod conntrack;
pub(crate) mod expect;
pub(crate) mod flow_end;
pub(crate) mod helper;
pub(crate) mod hook;
pub(crate) mod nat;
pub(crate) mod nat_function;
pub(crate) mod nft;
pub(crate) mod reject;
pub(crate) mod segment;
pub(crate) mod trace;
pub(crate) mod tuple;
mod verdict;
pub(crate) mod xtables;

pub(crate) use verdict::Verdict;
