// SPDX-License-Identifier: GPL-2.0

//! Conntrack helpers: they read what a flow says, and expect the flows that it announces.
//!
//! Users assign a helper by a rule (`-j CT --helper`, nftables' `ct helper`), or we do
//! ([`ConntrackHelper::attach`]). Conntrack copies what is registered: entries keep a counted
//! reference to the copy, which outlives the module, so nothing in it may point here but `help`, which
//! unregistering clears, and `me`, which is for those who hold the module. That is why `destroy`,
//! `from_nlattr` and `to_nlattr` are left unset.
//!
//! C header: [`include/net/netfilter/nf_conntrack_helper.h`](srctree/include/net/netfilter/nf_conntrack_helper.h)

use super::{
    conntrack::{
        self,
        Entry,
        NewFlow, //
    },
    skb::{
        Packet,
        Payload, //
    },
    tuple::Direction,
    Family,
    Ipv4,
    Ipv6,
    Verdict, //
};
use crate::{
    bindings,
    LocalModule, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    module::this_module,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        SetOnce, //
    }, //
};

/// A helper for a protocol over UDP.
pub(crate) trait Helper: 'static {
    /// Its name, as rules give it; 15 bytes at most.
    const NAME: &'static CStr;
    /// How many flows it may expect of one flow at a time; from 1 to 255.
    const MAX_EXPECTED: u8;
    /// How long an expectation lives, in seconds.
    const TIMEOUT: u32;

    /// Called for each datagram of a flow with this helper, ICMP errors excluded, right before
    /// conntrack confirms it; in softirq or process context, it must not sleep.
    fn help<F: Family>(exchange: &Exchange<'_, F>) -> Verdict;
}

/// What a helper gets: a datagram of a flow.
pub(crate) struct Exchange<'hook, F: Family> {
    packet: Packet<'hook, F>,
    entry: Entry<'hook, F>,
    direction: Direction,
    payload: Payload,
}

impl<'hook, F: Family> Exchange<'hook, F> {
    /// The flow's entry. NAT is done: its tuples are settled.
    pub(crate) fn entry(&self) -> &Entry<'hook, F> {
        &self.entry
    }

    /// The direction in which the datagram goes.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Calls `f` with what the datagram holds after the UDP header. None: that is more than `N`
    /// bytes, and `f` was not called.
    pub(crate) fn with_payload<const N: usize, R>(&self, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.packet.with_bytes::<N, R>(self.payload, f)
    }

    /// Drops the datagram, so that the client repeats it; counts that, and tells the log that
    /// netfilter keeps (`nf_log`) why.
    pub(crate) fn drop_because(&self, reason: &'static CStr) -> Verdict {
        let ct = self.entry.as_raw();
        // SAFETY: packet and entry are valid by their invariants, and belong together; the format
        // takes one string.
        unsafe {
            bindings::nf_ct_helper_log(
                self.packet.as_raw(),
                ct,
                c"%s".as_char_ptr(),
                reason.as_char_ptr(),
            )
        };
        conntrack::count_drop(self.entry.net());
        Verdict::Drop
    }
}

/// A helper of the module's, for a static.
pub(crate) struct ConntrackHelper {
    name: &'static CStr,
    policy: bindings::nf_conntrack_expect_policy,
    /// Conntrack's copy, while it is registered.
    registered: Atomic<*mut bindings::nf_conntrack_helper>,
    help: unsafe fn(Raw) -> Option<Verdict>,
}

impl ConntrackHelper {
    /// The helper `H`.
    pub(crate) const fn new<H: Helper>() -> Self {
        let room = bindings::NF_CT_HELPER_NAME_LEN as usize;
        assert!(H::NAME.to_bytes_with_nul().len() <= room);
        // More would be refused, none would be taken for the most.
        assert!(H::MAX_EXPECTED > 0);
        let mut policy: bindings::nf_conntrack_expect_policy = pin_init::zeroed();
        policy.max_expected = H::MAX_EXPECTED as c_uint;
        policy.timeout = H::TIMEOUT;
        Self {
            name: H::NAME,
            policy,
            registered: Atomic::new(core::ptr::null_mut()),
            help: Raw::help::<H>,
        }
    }

    /// Attaches the helper to a flow, unless it has one already.
    pub(crate) fn attach<F: Family>(&'static self, flow: &NewFlow<'_, F>) {
        let helper = self.registered.load(Acquire);
        if !flow.takes_helper() || helper.is_null() {
            return;
        }
        // SAFETY: the entry is valid, and was not confirmed a moment ago: unless a clone of its packet
        // led to that since (conntrack warns then, and C's own callers have the same window), nobody
        // else looks at its extensions. What comes back is null or lives as long as the entry.
        let help = unsafe { bindings::nf_ct_helper_ext_add(flow.as_raw(), bindings::GFP_ATOMIC) };
        // SAFETY: the copy is there: `unregister` clears the pointer to it, then waits for a grace
        // period before it gives it up, and we are in a hook. The entry owns the reference that is
        // taken here (`nf_ct_help_put`).
        unsafe {
            if !help.is_null() && bindings::rustmasq_nf_ct_helper_get(helper) {
                bindings::rustmasq_nf_conn_help_assign(help, helper);
            }
        }
    }

    fn register(&'static self) -> Result {
        let mut template = pin_init::zeroed();
        let mut registered = core::ptr::null_mut();
        // SAFETY: initialises the template, from a name and a policy that it copies.
        unsafe {
            bindings::nf_ct_helper_init(
                &mut template,
                bindings::NFPROTO_UNSPEC as u8,
                bindings::IPPROTO_UDP as u16,
                self.name.as_char_ptr(),
                &self.policy,
                0,
                Some(bindings::rustmasq_help_shim),
                None,
                this_module::<LocalModule>().as_ptr(),
            )
        };
        // SAFETY: the template is initialised, and copied; process context.
        to_result(unsafe {
            bindings::nf_conntrack_helper_register(&mut template, &mut registered)
        })?;
        self.registered.store(registered, Release);
        Ok(())
    }

    fn unregister(&'static self) {
        let registered = self.registered.xchg(core::ptr::null_mut(), Full);
        if registered.is_null() {
            return;
        }
        // SAFETY: `register` got it from conntrack; this waits until nobody runs `help` or `attach`
        // any more and removes the helper's expectations. Process context.
        unsafe { bindings::nf_conntrack_helper_unregister(registered) };
    }
}

/// The module's helpers.
static HELPERS: SetOnce<&'static [&'static ConntrackHelper]> = SetOnce::new();

/// While it lives, rules can assign the helpers; one that does keeps the module loaded. Dropping it
/// removes what they expect.
pub(crate) struct Registration(&'static [&'static ConntrackHelper]);

impl Registration {
    /// Registers the module's helpers. EBUSY: a name is taken, or the module registered some already.
    pub(crate) fn register(helpers: &'static [&'static ConntrackHelper]) -> Result<Self> {
        if !HELPERS.populate(helpers) {
            return Err(EBUSY);
        }
        // From here on dropping it unregisters those that are registered.
        let registration = Self(helpers);
        helpers.iter().try_for_each(|helper| helper.register())?;
        Ok(registration)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.iter().for_each(|helper| helper.unregister());
    }
}

/// What conntrack calls a helper with.
struct Raw {
    skb: NonNull<bindings::sk_buff>,
    /// Where the UDP header begins, from the packet's data on.
    transport: c_uint,
    ct: NonNull<bindings::nf_conn>,
    info: bindings::ip_conntrack_info,
}

/// Conntrack's call, for all helpers of the module: the shim's in C, for CFI compares the types of
/// functions, and Rust has none that is C's enum.
///
/// # Safety
///
/// Called in an RCU read-side section (a hook's, or that of tc or Open vSwitch), with a packet, its
/// entry, and what conntrack says of both, for a helper of ours.
#[no_mangle]
unsafe extern "C" fn rustmasq_help(
    skb: *mut bindings::sk_buff,
    transport: c_uint,
    ct: *mut bindings::nf_conn,
    info: bindings::ip_conntrack_info,
) -> c_uint {
    let (Some(skb), Some(ct)) = (NonNull::new(skb), NonNull::new(ct)) else {
        return Verdict::Accept.into_raw();
    };
    // SAFETY: the entry is valid and has a helper, by the contract. The pointer is compared with ours
    // alone; ours are not null while packets come to them.
    let assigned = unsafe { bindings::rustmasq_nf_ct_helper(ct.as_ptr()) };
    let raw = Raw {
        skb,
        transport,
        ct,
        info,
    };
    let helpers = HELPERS.as_ref().copied().unwrap_or_default();
    let helper = helpers
        .iter()
        .find(|helper| !assigned.is_null() && helper.registered.load(Relaxed) == assigned);
    // SAFETY: by the contract.
    let verdict = helper.and_then(|helper| unsafe { (helper.help)(raw) });
    verdict.unwrap_or(Verdict::Accept).into_raw()
}

impl Raw {
    /// None: not a whole UDP datagram, or none of its flow's family.
    ///
    /// # Safety
    ///
    /// As for [`rustmasq_help`].
    unsafe fn help<H: Helper>(self) -> Option<Verdict> {
        // SAFETY: entry and packet are valid, by the contract, and the packet's network header is
        // one of IPv4 or IPv6, which both begin with their version.
        let (family, version) = unsafe {
            (
                bindings::rustmasq_nf_ct_l3num(self.ct.as_ptr()),
                *bindings::rustmasq_skb_network_header(self.skb.as_ptr()) >> 4,
            )
        };
        // SAFETY: by the contract. tc and BPF can make an IPv4 packet of an IPv6 one and leave it its
        // entry, hence the packet itself says what it is.
        unsafe {
            match (u8::try_from(family).ok()?, version) {
                (Ipv4::NFPROTO, 4) => Some(H::help(&self.exchange::<Ipv4>()?)),
                (Ipv6::NFPROTO, 6) => Some(H::help(&self.exchange::<Ipv6>()?)),
                _ => None,
            }
        }
    }

    /// # Safety
    ///
    /// As for [`rustmasq_help`]; the packet is of the family `F`.
    unsafe fn exchange<'hook, F: Family>(self) -> Option<Exchange<'hook, F>> {
        // SAFETY: by the contract. The network header is whole: hooks before this one read it.
        let (packet, entry) = unsafe {
            (
                Packet::<F>::from_raw(self.skb),
                Entry::<F>::from_raw(self.ct),
            )
        };
        Some(Exchange {
            // An ICMP error belongs to the flow that it is about.
            payload: packet
                .is_udp()
                .then(|| packet.udp_payload(self.transport))??,
            packet,
            entry,
            direction: Direction::of_info(self.info),
        })
    }
}
