// SPDX-License-Identifier: GPL-2.0

//! rustmasq: masquerading for iptables, a flow watch, and helpers for FTP and TFTP, in Rust.
//!
//! ```text
//! masquerade/  ftp/  tftp.rs  watch.rs  the target RUSTMASQ, the two helpers, the flow watch
//!        |      |      |        |
//!        netfilter/                     hooks, conntrack, NAT, helpers, x_tables, trace events
//!            |
//!          net/                         namespaces, devices, packets, addresses, notifiers
//!            |
//!        bindings/                      the kernel's C, as bindgen reads it
//! ```
//!
//! Imports point downwards. Only the lower three layers contain `unsafe`. `rust/README.md` walks a packet
//! through the code.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "FFI")]
mod bindings;
mod ftp;
mod masquerade;
#[expect(unsafe_code, reason = "FFI")]
mod net;
#[expect(unsafe_code, reason = "FFI")]
mod netfilter;
mod tftp;
mod watch;

/// The binary forms of rules: of RUSTMASQ's, plain data that the iptables extension shares, and of nftables' `masq`.
mod uapi {
    pub(crate) use crate::bindings::{
        nft_masq_attributes_NFTA_MASQ_FLAGS as NFTA_MASQ_FLAGS,
        nft_masq_attributes_NFTA_MASQ_REG_PROTO_MAX as NFTA_MASQ_REG_PROTO_MAX,
        nft_masq_attributes_NFTA_MASQ_REG_PROTO_MIN as NFTA_MASQ_REG_PROTO_MIN,
        xt_rustmasq_info,
        xt_rustmasq_info_v1,
        xt_rustmasq_ports,
        XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE,
        XT_RUSTMASQ_CONES,
        XT_RUSTMASQ_EXCEPT_RESERVED,
        XT_RUSTMASQ_FLAGS_ALL,
        XT_RUSTMASQ_FLAGS_ALL_V1,
        XT_RUSTMASQ_FULL_CONE,
        XT_RUSTMASQ_KEEP_OWN,
        XT_RUSTMASQ_PORT_RESTRICTED_CONE,
        XT_RUSTMASQ_PSID,
        XT_RUSTMASQ_RANDOM,
        XT_RUSTMASQ_RANDOM_FULLY,
        XT_RUSTMASQ_RANGES_MAX,
        XT_RUSTMASQ_ROUTE_SOURCE,
        XT_RUSTMASQ_TO_PORTS,
        XT_RUSTMASQ_WHEN_FULL_REJECT, //
    };
}

use ftp::Ftp;
use kernel::prelude::*;
use masquerade::{
    drop_in::DropIn,
    Flush,
    Masquerade, //
};
use net::{
    notifier::Notifier,
    parameters::serves_masquerade,
    Ipv4,
    Ipv6, //
};
use netfilter::{
    attach,
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
        TargetEntry,
        Targets, //
    },
};
use tftp::Tftp;

module! {
    type: Rustmasq,
    name: "rustmasq",
    authors: ["The rustmasq developers"],
    description: "Masquerading for iptables (RUSTMASQ), a flow watch, and helpers for FTP and TFTP, in Rust",
    license: "GPL",
    alias: ["ipt_RUSTMASQ", "ip6t_RUSTMASQ", "nfct-helper-rustmasq-ftp", "nfct-helper-rustmasq-tftp"],
    params: {
        ftp_port: u16 {
            default: 0,
            description: "TCP port of FTP servers whose flows get the helper without a rule (0: none)",
        },
        tftp_port: u16 {
            default: 0,
            description: "UDP port of TFTP servers whose flows get the helper without a rule (0: none)",
        },
    },
}

static TARGETS: Targets<4> = Targets::new([
    TargetEntry::new::<Masquerade<Ipv4, uapi::xt_rustmasq_info>>(),
    TargetEntry::new::<Masquerade<Ipv6, uapi::xt_rustmasq_info>>(),
    TargetEntry::new::<Masquerade<Ipv4, uapi::xt_rustmasq_info_v1>>(),
    TargetEntry::new::<Masquerade<Ipv6, uapi::xt_rustmasq_info_v1>>(),
]);

static HELPERS: [&ConntrackHelper; 2] = [&tftp::HELPER, &ftp::HELPER];

static HOOKS: [&[Hook]; 3] = [&watch::HOOKS, &ftp::HOOKS, &tftp::HOOKS];

/// The module's registrations.
///
/// Fields are dropped in their order. First the targets: no rule is left then, so nothing needs the
/// flush any more. The hooks go before the helpers, which they attach.
struct Rustmasq {
    _targets: xtables::Registration<4>,
    _drop_in: Option<DropIn>,
    _flush: Pin<KBox<Notifier<Flush>>>,
    _masquerade: masquerade::Registrations,
    _hooks: hook::Registration,
    _helpers: helper::Registration,
}

impl kernel::Module for Rustmasq {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let hooks = hook::Registration::register(&HOOKS)?;
        attach::enable::<Ftp>(&ftp::ATTACH)?;
        attach::enable::<Tftp>(&tftp::ATTACH)?;
        let masquerade = masquerade::register()?;
        // The flush comes before the targets, so that it sees every event of a rule's flow.
        let flush = Notifier::register(Flush::new())?;
        let mut drop_in = serves_masquerade().then(DropIn::prepare).transpose()?;
        // From here on rules can name helpers and targets, and hold the module. Init must not fail after
        // that, and registering the targets does not.
        let helpers = helper::Registration::register(&HELPERS)?;
        let targets = TARGETS.register()?;
        if let Some(drop_in) = &mut drop_in {
            drop_in.register()?;
        }
        Ok(Self {
            _targets: targets,
            _drop_in: drop_in,
            _flush: flush,
            _masquerade: masquerade,
            _hooks: hooks,
            _helpers: helpers,
        })
    }
}
