// SPDX-License-Identifier: GPL-2.0

//! A target and an expression for the rules of others: with iptables' own MASQUERADE, and nftables' `masquerade`.
//!
//! With the module parameter `masquerade` they take the place of the kernel's `xt_MASQUERADE` and `nft_masq`. Userspace
//! sees no difference: they accept and refuse the same rules, and show them in the same form.

use super::{
    cone,
    mapping::Filtering,
    masquerade_flow,
    options::Options,
    per_net,
    source::SelectSource, //
};
use crate::{
    net::{
        log,
        namespace::Net,
        parameters::masquerade_cone,
        Ipv4,
        Ipv6,
        ProcessContext, //
    },
    netfilter::{
        nat::{
            MasqueradeRule,
            RequestedRange,
            ANY_NAT_FLAGS, //
        },
        nft::{
            self,
            AttributePolicy,
            Attributes,
            Expression,
            Message,
            NfTables,
            Register,
            Registers,
            SourceNatExpression,
            TranslateSource, //
        },
        xtables::{
            MatchedProtocol,
            Precedence,
            SourceNatTarget,
            TargetContext,
            TargetEntry,
            Targets, //
        },
        Verdict, //
    },
    uapi, //
};
use core::marker::PhantomData;
use kernel::prelude::*;

static TARGETS: Targets<2> = Targets::new([
    TargetEntry::new::<Target<Ipv4>>(),
    TargetEntry::new::<Target<Ipv6>>(),
]);

static EXPRESSION: Expression = Expression::new::<Masq>();

/// The target and the expression that take the place of the kernel's.
pub(crate) struct DropIn {
    targets: Pin<KBox<Precedence<2>>>,
    /// The kernel's module, until the expression is registered with it.
    nf_tables: Option<NfTables>,
    expression: Option<nft::Registration>,
}

impl DropIn {
    /// Gets what serving rules takes.
    ///
    /// Without nftables in the kernel it serves rules of iptables alone. Errors: ENOMEM. Process context.
    pub(crate) fn prepare() -> Result<Self> {
        let nf_tables = NfTables::load();
        if nf_tables.is_none() {
            pr_warn!("there is no nf_tables: only MASQUERADE of iptables is served\n");
        }
        Ok(Self {
            targets: Precedence::over(c"xt_MASQUERADE")?,
            nf_tables,
            expression: None,
        })
    }

    /// Serves rules that are added from now on, until the value is dropped.
    ///
    /// Errors: EBUSY if rules are served already. Process context.
    pub(crate) fn register(&mut self) -> Result {
        self.targets.register(&TARGETS)?;
        let nf_tables = self.nf_tables.take();
        self.expression = nf_tables
            .map(|nf_tables| EXPRESSION.register(nf_tables))
            .transpose()?;
        Ok(())
    }
}

/// Returns what the module parameter `masquerade_cone` asks for. Any context.
#[inline(always)]
fn mapping() -> Option<Filtering> {
    match masquerade_cone() {
        1 => Some(Filtering::EndpointIndependent),
        2 => Some(Filtering::AddressDependent),
        3 => Some(Filtering::AddressAndPortDependent),
        _ => None,
    }
}

/// Prepares a namespace for a rule. Errors: ENOMEM. Process context.
fn prepare(net: &Net, context: &mut ProcessContext) -> Result {
    match mapping() {
        Some(_) => cone::enable(net, context),
        None => Ok(()),
    }
}

/// The target MASQUERADE for one family.
struct Target<F>(PhantomData<F>);

impl<F: SelectSource + MasqueradeRule> SourceNatTarget for Target<F> {
    type Family = F;
    type Rule = F::Rule;
    type Options = F::Rule;

    const NAME: &'static CStr = c"MASQUERADE";
    const REVISION: u8 = 0;
    const PRIVATE_OFFSET: usize = 0;

    /// Follows `masquerade_tg_check` and `masquerade_tg6_checkentry`: flags and ports may have any value.
    fn check(rule: &F::Rule, _: MatchedProtocol) -> Result<F::Rule> {
        let reason = if F::range(rule).has_address() {
            c"it names an address"
        } else if F::ranges(rule) != 1 {
            c"it has not exactly one range"
        } else {
            return Ok(*rule);
        };
        if log::rule_rate_permits() {
            pr_warn!("a rule with MASQUERADE was refused: {reason}\n");
        }
        Err(EINVAL)
    }

    fn prepare(_: &F::Rule, net: &Net, context: &mut ProcessContext) -> Result {
        prepare(net, context)
    }

    fn added() {
        per_net::rule_added();
    }

    fn removed() {
        per_net::rule_removed();
    }

    fn target(rule: &F::Rule, context: TargetContext<'_, F>) -> Verdict {
        let options = Options::of_range(F::range(rule), mapping());
        masquerade_flow((&options).into(), context)
    }
}

/// The expression of the statement `masquerade`.
struct Masq;

/// The options of a rule with the expression.
#[derive(Clone, Copy)]
struct MasqData {
    /// NAT's flags.
    flags: u32,
    /// The registers with the first and the last port.
    ports: Option<(Register, Register)>,
}

impl SourceNatExpression for Masq {
    type Data = MasqData;

    const NAME: &'static CStr = c"masq";
    const ATTRIBUTES: &'static [AttributePolicy] = &[
        AttributePolicy::Unused,
        AttributePolicy::Bits(ANY_NAT_FLAGS),
        AttributePolicy::Register,
        AttributePolicy::Register,
    ];

    /// Follows `nft_masq_init`.
    fn init(attributes: &Attributes<'_>) -> Result<MasqData> {
        const PORT_LEN: u32 = 2;
        let flags = attributes.number(uapi::NFTA_MASQ_FLAGS).unwrap_or(0);
        let first = attributes.register(uapi::NFTA_MASQ_REG_PROTO_MIN, PORT_LEN)?;
        let ports = match first {
            Some(first) => {
                let last = attributes.register(uapi::NFTA_MASQ_REG_PROTO_MAX, PORT_LEN)?;
                Some((first, last.unwrap_or(first)))
            }
            None => None,
        };
        Ok(MasqData { flags, ports })
    }

    fn prepare(net: &Net, context: &mut ProcessContext) -> Result {
        prepare(net, context)
    }

    /// Follows `nft_masq_dump`.
    fn dump(data: &MasqData, message: &mut Message<'_>) -> Result {
        if data.flags != 0 {
            message.put_number(uapi::NFTA_MASQ_FLAGS, data.flags)?;
        }
        if let Some((first, last)) = data.ports {
            message.put_register(uapi::NFTA_MASQ_REG_PROTO_MIN, first)?;
            message.put_register(uapi::NFTA_MASQ_REG_PROTO_MAX, last)?;
        }
        Ok(())
    }

    fn added() {
        per_net::rule_added();
    }

    fn removed() {
        per_net::rule_removed();
    }
}

impl<F: SelectSource> TranslateSource<F> for Masq {
    fn translate(
        data: &MasqData,
        registers: &Registers<'_>,
        context: TargetContext<'_, F>,
    ) -> Verdict {
        let (first, last) = match data.ports {
            Some((first, last)) => (registers.number16(first), registers.number16(last)),
            None => (0, 0),
        };
        let range = RequestedRange::new(data.flags, first, last);
        let options = Options::of_range(range, mapping());
        masquerade_flow((&options).into(), context)
    }
}
