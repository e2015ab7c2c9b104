// SPDX-License-Identifier: GPL-2.0

//! Conntrack helpers, which read a flow's packets and expect the flows that they announce.
//!
//! A rule assigns a helper to a flow (`-j CT --helper`, nftables' `ct helper`), or a hook does
//! ([`ConntrackHelper::attach`]). Conntrack copies what is registered, and entries keep a counted
//! reference to that copy, which can outlive the module. So the copy may point into the module only
//! by `help`, which unregistering clears, and `me`, which is used only while the module is held. `destroy`,
//! `from_nlattr` and `to_nlattr` stay unset for that reason.
//!
//! C header: [`include/net/netfilter/nf_conntrack_helper.h`](srctree/include/net/netfilter/nf_conntrack_helper.h)

use super::{
    conntrack::{
        self,
        Conn,
        NewFlow, //
    },
    segment,
    tuple::Direction,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        skb::Packet,
        Family,
        Ipv4,
        Ipv6, //
    },
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
    },
    task::might_sleep, //
};

/// The protocol that a helper's protocol uses.
#[derive(Clone, Copy)]
pub(crate) enum Transport {
    /// TCP, whose segments are borrowed by [`HelperContext::segment`].
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Returns C's number (`IPPROTO_*`).
    const fn as_raw(self) -> c_uint {
        match self {
            Transport::Tcp => bindings::IPPROTO_TCP,
            Transport::Udp => bindings::IPPROTO_UDP,
        }
    }
}

/// A helper.
pub(crate) trait Helper: 'static {
    /// The protocol below.
    const TRANSPORT: Transport;
    /// The name that rules give, at most 15 bytes long.
    const NAME: &'static CStr;
    /// The number of flows that one flow may expect at a time, from 1 to 255.
    const MAX_EXPECTED: u8;
    /// The lifetime of an expectation, in seconds.
    const TIMEOUT: u32;

    /// Called for each packet of a flow with this helper, right before conntrack confirms the flow.
    ///
    /// Not called for ICMP errors. Returns the packet's verdict. Softirq or process context; must not
    /// sleep.
    fn help<F: Family>(context: &mut HelperContext<'_, F>) -> Verdict;
}

/// The packet that a helper is called for, and its flow.
///
/// # Invariants
///
/// Conntrack is calling a helper for the packet, which holds the entry. The RCU read lock is held for
/// `'hook`, and the entry has an extension for helpers.
pub(crate) struct HelperContext<'hook, F: Family> {
    pub(super) packet: Packet<'hook, F>,
    pub(super) conn: Conn<'hook, F>,
    pub(super) info: bindings::ip_conntrack_info,
    /// The offset of the TCP or UDP header from the packet's data, in bytes.
    pub(super) transport: c_uint,
}

impl<'hook, F: Family> HelperContext<'hook, F> {
    /// Returns the flow's entry, whose tuples do not change any more: NAT is done.
    pub(crate) fn conn(&self) -> &Conn<'hook, F> {
        &self.conn
    }

    /// Returns the packet's direction.
    pub(crate) fn direction(&self) -> Direction {
        Direction::of_info(self.info)
    }

    /// Returns the length of the datagram's payload in bytes, or 0 if the datagram is cut.
    pub(crate) fn payload_len(&self) -> u16 {
        self.packet.udp_payload_len(self.transport).unwrap_or(0)
    }

    /// Returns the first `N` bytes of the datagram's payload, or `None` if it is shorter.
    pub(crate) fn payload_start<const N: usize>(&self) -> Option<[u8; N]> {
        self.packet.udp_payload_start(self.transport)
    }

    /// Counts the packet as dropped and returns that verdict, so that its sender sends it again.
    ///
    /// The reason goes to netfilter's log (`nf_ct_helper_log`).
    pub(crate) fn drop_because(&self, reason: &'static CStr) -> Verdict {
        let ct = self.conn.as_raw();
        // SAFETY: Packet and entry are valid by their types' invariants, and the entry is the packet's.
        // The RCU read lock, under which the function reads the helper's name, is held by the invariant.
        // The format takes one string that ends with NUL, and `reason` is one.
        unsafe {
            bindings::nf_ct_helper_log(
                self.packet.as_raw(),
                ct,
                c"%s".as_char_ptr(),
                reason.as_char_ptr(),
            )
        };
        conntrack::count_drop(self.conn.net());
        Verdict::Drop
    }
}

/// A helper of this module, for statics.
pub(crate) struct ConntrackHelper {
    name: &'static CStr,
    transport: Transport,
    policy: bindings::nf_conntrack_expect_policy,
    /// Conntrack's copy, while the helper is registered.
    registered: Atomic<*mut bindings::nf_conntrack_helper>,
    help: HelpFunction,
}

/// A function that calls a [`Helper`] with the arguments of [`rustmasq_help`], and under its conditions.
type HelpFunction = unsafe fn(
    NonNull<bindings::sk_buff>,
    c_uint,
    NonNull<bindings::nf_conn>,
    bindings::ip_conntrack_info,
) -> Verdict;

impl ConntrackHelper {
    /// Returns the helper `H`.
    ///
    /// Fails the build if a constant of `H` is out of range.
    pub(crate) const fn new<H: Helper>() -> Self {
        let longest = bindings::NF_CT_HELPER_NAME_LEN as usize;
        assert!(H::NAME.to_bytes_with_nul().len() <= longest);
        // Conntrack takes 0 for the largest number.
        assert!(H::MAX_EXPECTED > 0);
        let mut policy: bindings::nf_conntrack_expect_policy = pin_init::zeroed();
        policy.max_expected = H::MAX_EXPECTED as c_uint;
        policy.timeout = H::TIMEOUT;
        Self {
            name: H::NAME,
            transport: H::TRANSPORT,
            policy,
            registered: Atomic::new(core::ptr::null_mut()),
            help: help::<H>,
        }
    }

    /// Assigns the helper to a flow that has none, if the helper is registered.
    ///
    /// Does nothing if there is no memory. Context: a hook.
    pub(crate) fn attach<F: Family>(&'static self, flow: &NewFlow<'_, F>) {
        let helper = self.registered.load(Acquire);
        if !flow.takes_helper() || helper.is_null() {
            return;
        }
        // SAFETY: The entry is valid, and it was not confirmed a moment ago, so nobody else looks at its
        // extensions, unless a clone of the packet confirms it just now; the function warns then, and C's
        // callers have the same window. It returns null (no memory, or there is such an extension already)
        // or the new, zeroed extension. It does not sleep with GFP_ATOMIC.
        let help = unsafe { bindings::nf_ct_helper_ext_add(flow.as_raw(), bindings::GFP_ATOMIC) };
        // SAFETY: `help` is not null, so it is the entry's new extension, and has no helper yet. `helper` was
        // read in this hook, under the RCU read lock. `unregister` clears the pointer and waits for a grace
        // period before it gives the copy up, so it is valid. The entry owns the reference taken here and
        // gives it back (`nf_ct_help_put`).
        unsafe {
            if !help.is_null() && bindings::rustmasq_nf_ct_helper_get(helper) {
                bindings::rustmasq_nf_conn_help_assign(help, helper);
            }
        }
        if matches!(self.transport, Transport::Tcp) && flow.has_nat() {
            // Where NAT comes later, it adds this by itself (`nf_nat_setup_info`). Without memory for it the helper
            // keeps to texts of the same length.
            // SAFETY: As for the extension above. That may move, and is not used any more.
            unsafe { bindings::rustmasq_nfct_seqadj_ext_add(flow.as_raw()) };
        }
    }

    fn register(&'static self) -> Result {
        let mut template = pin_init::zeroed();
        let mut registered = core::ptr::null_mut();
        // SAFETY: `template` is ours to write. The function copies the name, which `new` has found short
        // enough, and one policy, as the largest class is 0. The shim has the type of a helper's callback and
        // lives as long as the module, which stays loaded until `unregister` has cleared the callback.
        unsafe {
            bindings::nf_ct_helper_init(
                &mut template,
                bindings::NFPROTO_UNSPEC as u8,
                self.transport.as_raw() as u16,
                self.name.as_char_ptr(),
                &self.policy,
                0,
                Some(bindings::rustmasq_help_shim),
                None,
                this_module::<LocalModule>().as_ptr(),
            )
        };
        // SAFETY: `nf_ct_helper_init` initialised the template, which this function copies; it writes null or
        // the copy's address to `registered`. Process context, by `Registration::register`.
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
        // SAFETY: `register` got the pointer from conntrack, and the exchange hands it to one caller, so it is
        // unregistered once. The function clears the callback, waits for a grace period, after which nobody
        // runs `help` or `attach` with this pointer, and removes the helper's expectations. Process context,
        // by `Registration::drop`.
        unsafe { bindings::nf_conntrack_helper_unregister(registered) };
    }
}

/// The module's helpers.
static HELPERS: SetOnce<&'static [&'static ConntrackHelper]> = SetOnce::new();

/// The registration of the module's helpers, which rules can assign until it is dropped.
///
/// A rule with a helper keeps the module loaded. Dropping removes the helpers' expectations.
pub(crate) struct Registration(&'static [&'static ConntrackHelper]);

impl Registration {
    /// Registers the module's helpers.
    ///
    /// Only the first one can fail this. If another one cannot be registered, which the log tells, the module does without
    /// it.
    ///
    /// Errors: EBUSY if the module has registered helpers before; EEXIST if the name is taken; ENOMEM. Process
    /// context.
    pub(crate) fn register(helpers: &'static [&'static ConntrackHelper]) -> Result<Self> {
        might_sleep();
        if !HELPERS.populate(helpers) {
            return Err(EBUSY);
        }
        // SAFETY: Only the first call gets here.
        unsafe { segment::init_lock() };
        let mut helpers_left = helpers.iter();
        if let Some(first) = helpers_left.next() {
            first.register()?;
        }
        // A rule may name the first one by now and hold the module, whose init must not fail any more.
        for helper in helpers_left {
            if let Err(error) = helper.register() {
                pr_err!(
                    "no helper {}: {error:?}\n",
                    helper.name.to_str().unwrap_or("")
                );
            }
        }
        Ok(Self(helpers))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        might_sleep();
        self.0.iter().for_each(|helper| helper.unregister());
    }
}

/// Calls the helper that the packet's entry has.
///
/// A shim in C calls this for all helpers of the module: kCFI compares the types of functions, and Rust has
/// no type that is C's enum.
///
/// # Safety
///
/// Called in an RCU read-side section (of a hook, tc or Open vSwitch) with a packet, the entry attached to
/// it, which has a helper of this module, and the packet's conntrack information.
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
    // SAFETY: The entry is valid and has an extension for helpers, and the RCU read lock is held; the caller
    // guarantees all three. The pointer read from the extension is only compared.
    let assigned = unsafe { bindings::rustmasq_nf_ct_helper(ct.as_ptr()) };
    let helpers = HELPERS.as_ref().copied().unwrap_or_default();
    let helper = helpers
        .iter()
        .find(|helper| helper.registered.load(Relaxed) == assigned);
    match helper {
        // SAFETY: `helper.help` is `help` (`ConntrackHelper::new` sets nothing else), which needs what this
        // function's caller guarantees, for the same arguments.
        Some(helper) if !assigned.is_null() => unsafe { (helper.help)(skb, transport, ct, info) },
        _ => Verdict::Accept,
    }
    .into_raw()
}

/// Calls the helper `H`, or accepts the packet if it is none of its flow's family and the helper's protocol.
///
/// # Safety
///
/// The same as for [`rustmasq_help`].
unsafe fn help<H: Helper>(
    skb: NonNull<bindings::sk_buff>,
    transport: c_uint,
    ct: NonNull<bindings::nf_conn>,
    info: bindings::ip_conntrack_info,
) -> Verdict {
    const IPV4: u16 = Ipv4::NFPROTO as u16;
    const IPV6: u16 = Ipv6::NFPROTO as u16;
    // SAFETY: The caller guarantees a valid entry and packet. The packet's network header is linear: it is
    // one of IPv4 or IPv6, which was checked before conntrack saw the packet. Both begin with a byte
    // that holds the version.
    let (family, version) = unsafe {
        (
            bindings::rustmasq_nf_ct_l3num(ct.as_ptr()),
            *bindings::rustmasq_skb_network_header(skb.as_ptr()) >> 4,
        )
    };
    // SAFETY: The caller guarantees all but the family, and that is the one which both the entry and the
    // packet itself say. The entry alone would not do: tc and BPF can turn an IPv6 packet into an IPv4
    // one that keeps its entry.
    unsafe {
        match (family, version) {
            (IPV4, 4) => help_with::<H, Ipv4>(skb, transport, ct, info),
            (IPV6, 6) => help_with::<H, Ipv6>(skb, transport, ct, info),
            _ => Verdict::Accept,
        }
    }
}

/// Calls the helper `H` with borrows of the arguments, or accepts the packet if it is none of the helper's protocol.
///
/// # Safety
///
/// The same as for [`rustmasq_help`]; also, the packet must be of the family `F`.
unsafe fn help_with<H: Helper, F: Family>(
    skb: NonNull<bindings::sk_buff>,
    transport: c_uint,
    ct: NonNull<bindings::nf_conn>,
    info: bindings::ip_conntrack_info,
) -> Verdict {
    // SAFETY: Packet and entry are valid for the call, and the packet holds the entry, which is no
    // template: conntrack calls helpers for entries alone. The network header is complete and linear: IP
    // checked it before the hook of `nf_confirm`, tc (`tcf_ct_handle_fragments`) or Open vSwitch
    // (`key_extract_l3l4`) before `nf_ct_helper`. There is no other caller.
    let (packet, conn) = unsafe { (Packet::<F>::from_raw(skb), Conn::<F>::from_raw(ct)) };
    // An ICMP error belongs to the flow that it is about, and is no packet of it.
    if !packet.is_of(H::TRANSPORT.as_raw()) {
        return Verdict::Accept;
    }
    // INVARIANT: The caller guarantees a call of a helper, with what belongs to it.
    let mut context = HelperContext {
        packet,
        conn,
        info,
        transport,
    };
    H::help(&mut context)
}
