// SPDX-License-Identifier: GPL-2.0

//! The source port that a flow leaves with.
//!
//! The choice is the kernel's (`nf_nat_l4proto_unique_tuple`): this module tells it what the rule
//! asks for. An allocator of our own has its place here.

use super::options::Options;
use crate::netfilter::nat::PortChoice;

/// What a rule with `options` asks of the kernel's choice.
pub(super) fn choose(options: &Options) -> PortChoice {
    PortChoice::new(options.to_ports, options.random, options.random_fully)
}
