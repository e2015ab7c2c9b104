// SPDX-License-Identifier: GPL-2.0

//! Targets of iptables rules (`-j NAME`) that translate a flow's source address.
//!
//! C header: [`include/linux/netfilter/x_tables.h`](srctree/include/linux/netfilter/x_tables.h)

use super::{
    conntrack::Flow,
    net::Device,
    skb::Packet,
    Family,
    Verdict, //
};
use crate::{
    bindings,
    LocalModule, //
};
use core::ptr::NonNull;
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    module::this_module,
    prelude::*,
    sync::atomic::{
        AtomicFlag,
        Full,
        Release, //
    },
    transmute::FromBytes,
    types::Opaque, //
};

/// What a target gets of a packet: the first one of a flow, as it leaves.
pub(crate) struct Leaving<'hook, F: Family> {
    /// The packet.
    pub(crate) packet: Packet<'hook, F>,
    /// Its flow. A flow that was confirmed before NAT was on comes here with each packet until an
    /// answer is seen.
    pub(crate) flow: Flow<'hook, F>,
    /// The device that it leaves by.
    pub(crate) out: &'hook Device,
}

/// A target in the table `nat`, chain POSTROUTING.
///
/// A rule's binary form is `Rule`, whose last part is the kernel's own. There the abstraction keeps
/// the `Options` that [`check`](Self::check) read from the rest, so that packets need no parsing.
/// nftables copies a rule and its options with it: they are `Copy`, and where they lie says nothing.
/// While a rule exists, connection tracking is on in its namespace.
pub(crate) trait SourceNatTarget: 'static {
    /// The family of the packets.
    type Family: Family;
    /// A rule's binary form, `targinfo`, as userspace sends it.
    type Rule: FromBytes;
    /// What a rule says, checked.
    type Options: Copy + Send + Sync + 'static;

    /// The name after `-j`.
    const NAME: &'static CStr;
    /// The revision of the binary form.
    const REVISION: u8;
    /// Where in `Rule` the kernel's own part begins; userspace sees what is before it alone.
    const PRIVATE_OFFSET: usize;

    /// Reads a rule that is to be added; process context.
    fn check(rule: &Self::Rule) -> Result<Self::Options>;

    /// Sets up a flow's NAT; called for its first packet, in a hook.
    fn target(options: &Self::Options, leaving: &Leaving<'_, Self::Family>) -> Verdict;
}

/// The callbacks of a target, and the facts about its types that they rely on.
struct Callbacks<T>(core::marker::PhantomData<T>);

impl<T: SourceNatTarget> Callbacks<T> {
    /// The options fit in the rule's private part. Evaluated wherever the private part is used.
    const OPTIONS_FIT: () = {
        assert!(T::PRIVATE_OFFSET + size_of::<T::Options>() <= size_of::<T::Rule>());
        // To x_tables, a user's part of size 0 is the whole.
        assert!(T::PRIVATE_OFFSET > 0);
        assert!(T::PRIVATE_OFFSET % align_of::<T::Options>() == 0);
        // x_tables aligns `targinfo` for a u64, XT_ALIGN.
        assert!(align_of::<T::Options>() <= align_of::<u64>());
        assert!(align_of::<T::Rule>() <= align_of::<u64>());
    };

    /// The place of a rule's options.
    ///
    /// # Safety
    ///
    /// `targinfo` must point to a `T::Rule`.
    unsafe fn options(targinfo: *const c_void) -> *mut T::Options {
        const { Self::OPTIONS_FIT };
        // SAFETY: inside the rule, as `OPTIONS_FIT` says, and the caller vouches for the rule.
        unsafe { targinfo.byte_add(T::PRIVATE_OFFSET) }
            .cast::<T::Options>()
            .cast_mut()
    }

    /// # Safety
    ///
    /// Called by x_tables for a rule with this target that is to be added: `param` is valid, and
    /// its `targinfo` points to `targetsize` bytes that nobody else uses yet.
    unsafe extern "C" fn check(param: *const bindings::xt_tgchk_param) -> c_int {
        from_result(|| {
            // SAFETY: valid for the call, by the contract.
            let param = unsafe { &*param };
            // SAFETY: `targetsize` is the size of `T::Rule`, which x_tables compared with the
            // rule's; any bytes are a valid `T::Rule` (`FromBytes`); nobody writes to it meanwhile.
            let options = T::check(unsafe { &*param.targinfo.cast::<T::Rule>() })?;
            // SAFETY: process context; the namespace is that of the rule and valid for the call.
            to_result(unsafe { bindings::nf_ct_netns_get(param.net, param.family) })?;
            // SAFETY: `targinfo` is a `T::Rule`, ours alone until this function has returned, so
            // its private part can be written.
            unsafe { Self::options(param.targinfo).write(options) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by x_tables, in the hook POST_ROUTING of table nat, for a rule that `check` accepted:
    /// `param` is valid, its state has an outgoing device, and `skb` is a packet of `T::Family`.
    unsafe extern "C" fn target(
        skb: *mut bindings::sk_buff,
        param: *const bindings::xt_action_param,
    ) -> c_uint {
        // SAFETY: valid for the call, by the contract, as is the hook's state in it. The union's
        // two members are the same pointer.
        let (targinfo, out) =
            unsafe { ((*param).__bindgen_anon_2.targinfo, (*(*param).state).out) };
        // SAFETY: a packet is there, by the contract.
        let skb = unsafe { NonNull::new_unchecked(skb) };
        // SAFETY: `check` wrote the options to this rule, or to the one that nftables copied it
        // from, and nobody writes to a rule that packets see.
        let options = unsafe { &*Self::options(targinfo) };
        // SAFETY: x_tables lends us the packet for this call. It is of `T::Family`, as the target's
        // registration is, and its network header was checked and pulled when it was received
        // (`ip_rcv_core`, `ip6_rcv_core`, `br_validate_ipv4`) or made by the kernel itself.
        let packet = unsafe { Packet::from_raw(skb) };
        let leaving = Leaving {
            flow: Flow::of_packet(&packet),
            packet,
            // SAFETY: every caller of POST_ROUTING names an outgoing device; it outlives the hook.
            out: unsafe { Device::from_raw(out) },
        };
        T::target(options, &leaving).into_raw()
    }

    /// # Safety
    ///
    /// Called by x_tables, once, for a rule that `check` accepted and no packet sees any more.
    unsafe extern "C" fn destroy(param: *const bindings::xt_tgdtor_param) {
        // SAFETY: valid for the call, by the contract.
        let param = unsafe { &*param };
        // SAFETY: gives back what `check` took, in process context. The options are `Copy`: there
        // is nothing else to give back.
        unsafe { bindings::nf_ct_netns_put(param.net, param.family) };
    }
}

/// One entry of a table of targets.
#[repr(transparent)]
pub(crate) struct Entry(bindings::xt_target);

impl Entry {
    /// The entry of the target `T`.
    pub(crate) const fn new<T: SourceNatTarget>() -> Self {
        let mut raw: bindings::xt_target = pin_init::zeroed();
        raw.name = padded_name(T::NAME);
        raw.revision = T::REVISION;
        raw.target = Some(Callbacks::<T>::target);
        raw.checkentry = Some(Callbacks::<T>::check);
        raw.destroy = Some(Callbacks::<T>::destroy);
        raw.me = this_module::<LocalModule>().as_ptr();
        raw.table = c"nat".to_bytes_with_nul().as_ptr();
        raw.targetsize = size_of::<T::Rule>() as c_uint;
        raw.usersize = T::PRIVATE_OFFSET as c_uint;
        raw.hooks = 1 << bindings::nf_inet_hooks_NF_INET_POST_ROUTING;
        raw.family = T::Family::NFPROTO as c_ushort;
        Self(raw)
    }
}

/// The name in x_tables' form: the rest of the array is NUL. Fails the build if it is too long.
const fn padded_name<const N: usize>(name: &CStr) -> [c_char; N] {
    let bytes = name.to_bytes_with_nul();
    assert!(bytes.len() <= N);
    let mut padded = [0; N];
    let mut i = 0;
    while i < bytes.len() {
        padded[i] = bytes[i] as c_char;
        i += 1;
    }
    padded
}

/// The targets of a module. x_tables links them into its lists where they lie: hence for statics.
pub(crate) struct Targets<const N: usize> {
    entries: Opaque<[Entry; N]>,
    registered: AtomicFlag,
}

// SAFETY: x_tables guards its lists, and thus what it changes in a registered target, with a mutex
// of its own; `registered` is atomic.
unsafe impl<const N: usize> Sync for Targets<N> {}

impl<const N: usize> Targets<N> {
    /// A table of `entries`.
    pub(crate) const fn new(entries: [Entry; N]) -> Self {
        Self {
            entries: Opaque::new(entries),
            registered: AtomicFlag::new(false),
        }
    }

    fn as_raw(&self) -> *mut bindings::xt_target {
        // CAST: `Entry` is a transparent wrapper of `xt_target`.
        self.entries.get().cast()
    }

    /// Makes the targets known, from now until the answer is dropped. EBUSY: they are already.
    pub(crate) fn register(&'static self) -> Result<Registration<N>> {
        if self.registered.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: the array is static, thus neither moves nor goes; it is in no list yet, by
        // `registered`. Process context.
        to_result(unsafe { bindings::xt_register_targets(self.as_raw(), N as c_uint) })
            .inspect_err(|_| self.registered.store(false, Release))?;
        Ok(Registration(self))
    }
}

/// While it lives, rules can use the targets. A rule that does keeps the module loaded.
pub(crate) struct Registration<const N: usize>(&'static Targets<N>);

impl<const N: usize> Drop for Registration<N> {
    fn drop(&mut self) {
        // SAFETY: `register` registered exactly these. They are static, so that unlinking them is
        // all there is to do: a rule that uses one keeps this module, and with it the entry.
        unsafe { bindings::xt_unregister_targets(self.0.as_raw(), N as c_uint) };
        self.0.registered.store(false, Release);
    }
}
