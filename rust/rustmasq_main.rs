// SPDX-License-Identifier: GPL-2.0

//! rustmasq: masquerading for iptables, in Rust.
//!
//! ```text
//! packet ──> netfilter/       safe abstractions over the C API
//!               ├──> masquerade/   the RUSTMASQ target, and the flush when addresses change
//!               ├──> tftp.rs       the TFTP helper
//!               └──> watch.rs      the flow watch: trace events from hooks around conntrack
//! ```
//!
//! `unsafe` is confined to [`bindings`] and [`netfilter`]; all else is built on them without.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the C side")]
mod bindings;
mod masquerade;
#[expect(unsafe_code, reason = "makes the C side safe")]
mod netfilter;
mod tftp;
mod watch;

/// A rule's binary form, shared with the userspace extension: plain data.
mod uapi {
    pub(crate) use crate::bindings::{
        xt_rustmasq_info,
        XT_RUSTMASQ_FLAGS_ALL,
        XT_RUSTMASQ_RANDOM,
        XT_RUSTMASQ_RANDOM_FULLY,
        XT_RUSTMASQ_TO_PORTS, //
    };
}

use kernel::prelude::*;
use masquerade::{
    Flush,
    Masquerade, //
};
use netfilter::{
    change::Listener,
    helper::{
        self,
        ConntrackHelper, //
    },
    hook::{
        self,
        Hook, //
    },
    xtables::{
        self,
        Entry,
        Targets, //
    },
    Ipv4,
    Ipv6, //
};

module! {
    type: Rustmasq,
    name: "rustmasq",
    authors: ["The rustmasq developers"],
    description: "Masquerading for iptables (RUSTMASQ), a flow watch and a TFTP helper, in Rust",
    license: "GPL",
    alias: ["ipt_RUSTMASQ", "ip6t_RUSTMASQ", "nfct-helper-rustmasq-tftp"],
    params: {
        tftp_port: u16 {
            default: 0,
            description: "UDP port of TFTP servers whose flows get the helper without a rule (0: none)",
        },
    },
}

static TARGETS: Targets<2> = Targets::new([
    Entry::new::<Masquerade<Ipv4>>(),
    Entry::new::<Masquerade<Ipv6>>(),
]);

static HELPERS: [&ConntrackHelper; 1] = [&tftp::HELPER];

static HOOKS: [&[Hook]; 2] = [&watch::HOOKS, &tftp::HOOKS];

/// What is registered while the module is loaded. Fields are dropped in their order: first no rule
/// can be there any more, then nothing needs flushing, and no hook attaches a helper any more.
struct Rustmasq {
    _targets: xtables::Registration<2>,
    _flush: Pin<KBox<Listener<Flush>>>,
    _hooks: hook::Registration,
    _helpers: helper::Registration,
}

impl kernel::Module for Rustmasq {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let hooks = hook::Registration::register(&HOOKS)?;
        tftp::attach_if_asked()?;
        // The flush before the targets: no flow of a rule's is to miss it.
        let flush = Listener::register(Flush::new())?;
        // Rules can name helpers and targets from here on, and hold the module: it must not fail any
        // more, and the targets cannot.
        let helpers = helper::Registration::register(&HELPERS)?;
        Ok(Self {
            _targets: TARGETS.register()?,
            _flush: flush,
            _hooks: hooks,
            _helpers: helpers,
        })
    }
}
