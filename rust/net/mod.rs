// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel's network core: namespaces, devices, packets and addresses.
//!
//! [`netfilter`](crate::netfilter) builds on this layer; nothing here imports from it. Both layers
//! contain `unsafe`; `rust/README.md` lists the obligations behind it.
//!
//! The accessors `from_raw` and `as_raw` serve [`netfilter`](crate::netfilter). They are visible to
//! the whole crate, but code that denies `unsafe` can do nothing with a raw pointer.

pub(crate) mod address;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod log;
pub(crate) mod namespace;
pub(crate) mod notifier;
pub(crate) mod parameters;
pub(crate) mod percpu;
pub(crate) mod pernet;
pub(crate) mod proc;
pub(crate) mod random;
pub(crate) mod rcu;
pub(crate) mod reserved;
pub(crate) mod route;
pub(crate) mod skb;
pub(crate) mod socket;
pub(crate) mod work;

pub(crate) use address::{
    AnyAddress,
    AnyFamily,
    Family,
    Ipv4,
    Ipv6, //
};
pub(crate) use context::ProcessContext;
