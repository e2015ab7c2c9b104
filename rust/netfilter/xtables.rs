// SPDX-License-Identifier: GPL-2.0

//! Targets of iptables rules (`-j NAME`) that translate a flow's source address.
//!
//! C header: [`include/linux/netfilter/x_tables.h`](srctree/include/linux/netfilter/x_tables.h)

use super::{
    conntrack::UnsettledFlow,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        device::Device,
        namespace::Net,
        skb::Packet,
        Family,
        Ipv6,
        ProcessContext, //
    },
    LocalModule, //
};
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    module::this_module,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
            Full,
            Release, //
        },
        Mutex, //
    },
    task::might_sleep,
    transmute::FromBytes,
    types::Opaque, //
};

/// The packet that a target is called for: the first of a flow, as it leaves.
pub(crate) struct TargetContext<'hook, F: Family> {
    /// The packet.
    pub(crate) packet: Packet<'hook, F>,
    /// Its flow, if the source NAT of that is still to be set up.
    pub(crate) flow: Option<UnsettledFlow<'hook, F>>,
    /// The input device. Without one, this host sent the packet, or it is a multicast packet that is forwarded.
    pub(crate) input: Option<&'hook Device>,
    /// The output device.
    pub(crate) out: &'hook Device,
}

impl<'hook, F: Family> TargetContext<'hook, F> {
    /// Returns the context of a packet at POST_ROUTING.
    ///
    /// # Safety
    ///
    /// The caller must be a target or an expression in a chain of NAT at POST_ROUTING, called for `skb`, a packet of
    /// `F`, and must call this once. `state` is the hook's state. The result must not outlive the call.
    #[inline(always)]
    pub(super) unsafe fn of_hook(
        skb: NonNull<bindings::sk_buff>,
        state: *const bindings::nf_hook_state,
    ) -> Self {
        // SAFETY: The caller guarantees the hook's state, which is valid for the call.
        let (mut input, out) = unsafe { ((*state).in_, (*state).out) };
        // A packet that this host sends by a VRF comes with the VRF's device, but nobody has received it.
        // SAFETY: The caller guarantees that the packet is ours for the call.
        if !input.is_null() && unsafe { bindings::rustmasq_skb_iif(skb.as_ptr()) } == 0 {
            input = ptr::null_mut();
        }
        // SAFETY: The caller guarantees that the packet is ours for the call, and of `F`.
        // Its network header is complete and linear: it was checked when the packet was received
        // (`ip_rcv_core`, `ip6_rcv_core`, `br_validate_ipv4`, `br_validate_ipv6`), sent by a raw socket
        // (`raw_send_hdrinc`, `rawv6_send_hdrinc`) or changed by an NFQUEUE program
        // (`nfqnl_validate_write`); in all other packets of this host the kernel wrote it.
        let packet = unsafe { Packet::from_raw(skb) };
        Self {
            // SAFETY: The caller guarantees that it is such a target or expression, and the only call. Every caller of
            // POST_ROUTING names an output device, which is valid for the call.
            flow: unsafe {
                let forwarded_by = (!input.is_null()).then(|| Device::from_raw(out).index());
                UnsettledFlow::of_packet(&packet, forwarded_by)
            },
            packet,
            // SAFETY: Every caller of POST_ROUTING names an output device, which is valid for the call. The
            // hook holds the RCU read lock, and `'hook` ends before the call does.
            out: unsafe { Device::from_raw(out) },
            // SAFETY: If there is an input device, the same is true of it.
            input: (!input.is_null()).then(|| unsafe { Device::from_raw(input) }),
        }
    }
}

/// The protocol that a rule matches (`-p`): its number, or 0 for all; and whether the match is inverted (`! -p`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct MatchedProtocol {
    number: u16,
    inverted: bool,
}

impl MatchedProtocol {
    /// Returns the protocol of a rule's entry.
    ///
    /// # Safety
    ///
    /// The entry must be valid, a `struct ipt_entry` or `struct ip6t_entry` as `F` says.
    unsafe fn of_entry<F: Family>(entry: *const c_void) -> Self {
        // SAFETY: The caller guarantees the entry, of which the addresses and the protocol are the first member.
        let (number, inverse_flags) = unsafe {
            if F::NFPROTO == Ipv6::NFPROTO {
                let ip = entry.cast::<bindings::ip6t_ip6>();
                ((*ip).proto, (*ip).invflags)
            } else {
                let ip = entry.cast::<bindings::ipt_ip>();
                ((*ip).proto, (*ip).invflags)
            }
        };
        Self {
            number,
            inverted: c_uint::from(inverse_flags) & bindings::XT_INV_PROTO != 0,
        }
    }
}

/// A target in the table `nat`, chain POSTROUTING.
///
/// The last part of a rule's binary form, `Rule`, is private to the kernel. The abstraction stores there
/// the `Options` that [`check`](Self::check) returned, so nothing is parsed for a packet. They are dropped when the rule is
/// removed. While a rule exists, conntrack is enabled in its namespace.
///
/// A form without a private part has the offset 0. Then the options take the place of the whole rule, and userspace
/// reads them back: [`check`](Self::check) returns the rule itself.
pub(crate) trait SourceNatTarget: 'static {
    /// The family of the packets.
    type Family: Family;
    /// A rule's binary form (`targinfo`), as userspace sends it.
    type Rule: FromBytes;
    /// A rule's options, checked.
    type Options: StoredOptions;

    /// The name after `-j`.
    const NAME: &'static CStr;
    /// The revision of the binary form.
    const REVISION: u8;
    /// The offset of the kernel's private part in `Rule`; userspace sees only the bytes before it.
    const PRIVATE_OFFSET: usize;

    /// Checks a rule that is to be added, and that matches packets of a protocol.
    ///
    /// Returns the rule's options, or the error that userspace gets. Process context.
    fn check(rule: &Self::Rule, protocol: MatchedProtocol) -> Result<Self::Options>;

    /// Prepares the namespace for a rule with these options.
    ///
    /// Returns the error that userspace gets. Process context.
    fn prepare(options: &Self::Options, net: &Net, context: &mut ProcessContext) -> Result;

    /// Notes that a rule that was checked is going to exist. Process context.
    fn added();

    /// Notes that such a rule exists no more. Process context.
    fn removed();

    /// Sets up source NAT for the flow of a packet, or leaves the flow alone.
    ///
    /// Returns the packet's verdict. Context: a hook; must not sleep.
    fn target(options: &Self::Options, context: TargetContext<'_, Self::Family>) -> Verdict;
}

/// Options that a rule can store.
///
/// # Safety
///
/// nftables copies the bytes of a rule, its options among them, for packets to use (`nf_tables_commit_chain_prepare`); it
/// destroys one copy alone, when no packet can reach the rule any more. So a byte-wise copy must be as good as the value
/// itself, for shared references, until the value is dropped: nothing in its own bytes changes through a shared reference,
/// and its address has no meaning.
#[allow(
    dead_code,
    reason = "Rust 1.85 takes a trait without functions for unused"
)]
pub(crate) unsafe trait StoredOptions: Send + Sync + 'static {}

// SAFETY: A copy of a `Copy` value is as good as the value. There are no cells among them, and nothing is dropped.
unsafe impl<T: Copy + Send + Sync + 'static> StoredOptions for T {}

/// Options that may own more of them on the heap.
pub(crate) struct OwningOptions<T, M> {
    options: T,
    more: Option<KBox<M>>,
}

impl<T, M> OwningOptions<T, M> {
    /// Returns the options, with what they own.
    pub(crate) fn new(options: T, more: Option<KBox<M>>) -> Self {
        Self { options, more }
    }

    /// Returns those that are stored in the rule.
    pub(crate) fn options(&self) -> &T {
        &self.options
    }

    /// Returns those on the heap.
    pub(crate) fn more(&self) -> Option<&M> {
        self.more.as_deref()
    }
}

// SAFETY: A copy of the bytes is a copy of a `Copy` value and of a pointer. The memory that it points to stays where it is
// until the value is dropped, and a `KBox` lets references to it come from several copies of its pointer: its type says
// nothing of aliasing. No part of the value's own bytes is a cell.
unsafe impl<T: Copy + Send + Sync + 'static, M: Send + Sync + 'static> StoredOptions
    for OwningOptions<T, M>
{
}

/// The callbacks of a target, with the facts about its types that they rely on.
struct Callbacks<T>(core::marker::PhantomData<T>);

impl<T: SourceNatTarget> Callbacks<T> {
    /// Asserts, wherever it is used, that the options fit into the rule's private part.
    const OPTIONS_FIT: () = {
        assert!(T::PRIVATE_OFFSET + size_of::<T::Options>() <= size_of::<T::Rule>());
        // x_tables takes a `usersize` of 0 for the whole size, which userspace sees then: no byte may be padding.
        assert!(T::PRIVATE_OFFSET > 0 || size_of::<T::Options>() == size_of::<T::Rule>());
        assert!(T::PRIVATE_OFFSET % align_of::<T::Options>() == 0);
        // x_tables aligns `targinfo` for a u64 (XT_ALIGN).
        assert!(align_of::<T::Options>() <= align_of::<u64>());
        assert!(align_of::<T::Rule>() <= align_of::<u64>());
    };

    /// Returns the place of a rule's options.
    ///
    /// # Safety
    ///
    /// `targinfo` must point to a `T::Rule`.
    unsafe fn options(targinfo: *const c_void) -> *mut T::Options {
        const { Self::OPTIONS_FIT };
        // SAFETY: The caller guarantees a `T::Rule`, and by `OPTIONS_FIT` the offset lies inside it, so the
        // result is in the same object.
        unsafe { targinfo.byte_add(T::PRIVATE_OFFSET) }
            .cast::<T::Options>()
            .cast_mut()
    }

    /// Checks a rule and stores its options in it.
    ///
    /// # Safety
    ///
    /// Called by x_tables for a rule with this target that is to be added: `param` is valid, and its
    /// `targinfo` points to `targetsize` bytes that nobody else uses yet.
    unsafe extern "C" fn check(param: *const bindings::xt_tgchk_param) -> c_int {
        from_result(|| {
            // SAFETY: The caller, x_tables, guarantees that `param` is valid for the call; it only reads it.
            let param = unsafe { &*param };
            // SAFETY: x_tables and nftables set the entry that the rule is of, for the family that the target is registered
            // for.
            let protocol = unsafe { MatchedProtocol::of_entry::<T::Family>(param.entryinfo) };
            // SAFETY: `targetsize` is the size of `T::Rule`, and x_tables has compared it with the rule's
            // (`xt_check_target`). x_tables and nftables align a rule's data for a u64, and by `OPTIONS_FIT`
            // that suffices. Any bytes are a value of `T::Rule` (`FromBytes`), and nobody writes to them
            // meanwhile.
            let options = T::check(unsafe { &*param.targinfo.cast::<T::Rule>() }, protocol)?;
            // SAFETY: x_tables and nftables call in process context, outside any atomic section, and the namespace is valid
            // for the call.
            unsafe {
                let mut context = ProcessContext::new();
                T::prepare(&options, Net::from_raw(param.net), &mut context)?;
            }
            // SAFETY: The rule's namespace is valid for the call, which is in process context, so the
            // function may sleep. `destroy` gives the reference back; nothing fails after this line.
            to_result(unsafe { bindings::nf_ct_netns_get(param.net, param.family) })?;
            // SAFETY: `targinfo` is a `T::Rule` that nobody else uses until this function has returned, and
            // the borrow for `T::check` has ended, so its private part may be written to. By `OPTIONS_FIT`
            // the options fit there and are aligned. What is overwritten are bytes of userspace. As nothing fails from here
            // on, `destroy` is called for this rule, and drops the options.
            unsafe { Self::options(param.targinfo).write(options) };
            T::added();
            Ok(0)
        })
    }

    /// Calls the target for a packet.
    ///
    /// # Safety
    ///
    /// Called by x_tables in the table `nat`, hook POST_ROUTING, for a rule that `check` accepted: `param`
    /// is valid, its state has an output device, and `skb` is a packet of `T::Family`.
    unsafe extern "C" fn target(
        skb: *mut bindings::sk_buff,
        param: *const bindings::xt_action_param,
    ) -> c_uint {
        // SAFETY: The caller, x_tables or nftables, guarantees that `param` is valid for the call. Both members of the
        // union are a pointer to the rule's data.
        let (targinfo, state) = unsafe { ((*param).__bindgen_anon_2.targinfo, (*param).state) };
        // SAFETY: x_tables calls a target with a packet, so the pointer is not null.
        let skb = unsafe { NonNull::new_unchecked(skb) };
        // SAFETY: `check` wrote the options into this rule, or into the one that nftables copied it from
        // (`nf_tables_commit_chain_prepare`); such a copy is as good (`StoredOptions`). Nobody writes to a rule that packets
        // can reach. The rule is destroyed, and then freed, after a grace period (`nf_tables_trans_destroy_work`) or, by
        // iptables, when no packet is in the table any more (`xt_replace_table`), so the options are not dropped before this
        // call has ended.
        let options = unsafe { &*Self::options(targinfo) };
        // SAFETY: The target is registered for `T::Family`, the table `nat` and POST_ROUTING alone, which x_tables and
        // nftables check. This is the only place that asks for the context, once for a call.
        let context = unsafe { TargetContext::of_hook(skb, state) };
        T::target(options, context).into_raw()
    }

    /// Releases what `check` took for a rule.
    ///
    /// # Safety
    ///
    /// Called by x_tables once for each rule that `check` accepted, when no packet can reach it any more.
    unsafe extern "C" fn destroy(param: *const bindings::xt_tgdtor_param) {
        // SAFETY: The caller, x_tables or nftables, guarantees that `param` is valid for the call; it only
        // reads it.
        let param = unsafe { &*param };
        // SAFETY: `targinfo` is the rule that `check` wrote the options into: iptables and nftables (`nft_target_destroy`)
        // destroy the rule that they checked, once, and no packet is in it or in a copy of it. So this drops the options
        // once, and nobody uses them any more.
        unsafe { Self::options(param.targinfo).drop_in_place() };
        // SAFETY: `check` took a reference for this namespace and family, and this is the one call that
        // gives it back. The call is in process context, so the function may sleep.
        unsafe { bindings::nf_ct_netns_put(param.net, param.family) };
        T::removed();
    }
}

/// An entry in a table of targets.
#[repr(transparent)]
pub(crate) struct TargetEntry(bindings::xt_target);

impl TargetEntry {
    /// Returns the entry of the target `T`.
    ///
    /// Fails the build if the name is too long.
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

/// Returns the name padded with NUL to the size of C's array. Fails the build if it is too long.
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

/// A table of targets, for statics: x_tables links the entries into its lists in place.
pub(crate) struct Targets<const N: usize> {
    entries: Opaque<[TargetEntry; N]>,
    registered: AtomicFlag,
}

// SAFETY: x_tables changes a registered target only under a mutex of its own; `registered` is atomic.
unsafe impl<const N: usize> Sync for Targets<N> {}

impl<const N: usize> Targets<N> {
    /// Returns a table of `entries`.
    pub(crate) const fn new(entries: [TargetEntry; N]) -> Self {
        Self {
            entries: Opaque::new(entries),
            registered: AtomicFlag::new(false),
        }
    }

    fn as_raw(&self) -> *mut bindings::xt_target {
        // CAST: `TargetEntry` is a transparent wrapper of `xt_target`.
        self.entries.get().cast()
    }

    /// Registers the targets until the returned registration is dropped.
    ///
    /// Errors: EBUSY if they are registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<N>> {
        might_sleep();
        if self.registered.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: The array is static, so it neither moves nor ends, and by `registered` it is in no list.
        // It has `N` entries, each of which `TargetEntry::new` made. Process context.
        to_result(unsafe { bindings::xt_register_targets(self.as_raw(), N as c_uint) })
            .inspect_err(|_| self.registered.store(false, Release))?;
        Ok(Registration(self))
    }
}

/// The registration of a table of targets, which rules can use until it is dropped.
///
/// A rule with a target keeps the module loaded.
pub(crate) struct Registration<const N: usize>(&'static Targets<N>);

impl<const N: usize> Registration<N> {
    /// Registers the targets anew, so that they are the newest ones.
    ///
    /// Rules that are added meanwhile may find other targets of the same names, or none. Process context.
    fn renew(&mut self) {
        // SAFETY: The entries are registered, and only taken off their lists: rules that use them may exist. Then they are
        // in no list. The second function does not fail for entries that it has taken before. Process context.
        unsafe {
            bindings::xt_unregister_targets(self.0.as_raw(), N as c_uint);
            bindings::xt_register_targets(self.0.as_raw(), N as c_uint);
        }
    }
}

impl<const N: usize> Drop for Registration<N> {
    fn drop(&mut self) {
        might_sleep();
        // SAFETY: `register` registered exactly these entries, and `self` is their only registration. A rule
        // that uses an entry points to it and keeps this module loaded, and with it the static entries; so
        // unlinking them suffices. Process context.
        unsafe { bindings::xt_unregister_targets(self.0.as_raw(), N as c_uint) };
        self.0.registered.store(false, Release);
    }
}

/// A registration of targets that stay before those of the same names that another module registers.
///
/// x_tables takes the newest target of a name. So these are registered anew when that module has been loaded.
///
/// # Invariants
///
/// The notifier block is initialised. C's list may point to it, so the structure is pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct Precedence<const N: usize> {
    /// The registration, once [`register`](Self::register) has been called.
    #[pin]
    targets: Mutex<Option<Registration<N>>>,
    /// The name of the other module.
    other: &'static CStr,
    #[pin]
    block: Opaque<bindings::notifier_block>,
}

// SAFETY: C's notifier block is not bound to a thread, and the rest may be sent.
unsafe impl<const N: usize> Send for Precedence<N> {}

// SAFETY: Only C functions that do their own locking touch the notifier block, and the rest may be shared.
unsafe impl<const N: usize> Sync for Precedence<N> {}

impl<const N: usize> Precedence<N> {
    /// Prepares to register targets with precedence over those of the module `other`.
    ///
    /// Errors: ENOMEM. Process context.
    pub(crate) fn over(other: &'static CStr) -> Result<Pin<KBox<Self>>> {
        let precedence = KBox::pin_init(
            pin_init!(Self {
                targets <- new_mutex!(None),
                other,
                block: Opaque::new(bindings::notifier_block {
                    notifier_call: Some(Self::module_event),
                    ..pin_init::zeroed()
                }),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The block is initialised and pinned, and `drop` takes it off the chain before the memory is freed, also
        // if this fails. The function takes the chain's semaphore: process context.
        to_result(unsafe { bindings::register_module_notifier(precedence.block.get()) })?;
        Ok(precedence)
    }

    /// Registers the targets until the structure is dropped.
    ///
    /// Errors: EBUSY if they are registered already. Process context.
    pub(crate) fn register(&self, targets: &'static Targets<N>) -> Result {
        *self.targets.lock() = Some(targets.register()?);
        Ok(())
    }

    /// Receives the events of modules.
    ///
    /// # Safety
    ///
    /// Called by the chain of modules, in process context, with the block of a registered `Precedence`, and a module.
    unsafe extern "C" fn module_event(
        block: *mut bindings::notifier_block,
        state: c_ulong,
        module: *mut c_void,
    ) -> c_int {
        const LIVE: c_ulong = bindings::module_state_MODULE_STATE_LIVE as c_ulong;
        // SAFETY: The block is the field of a `Precedence`, whose `drop` waits for this call before the memory is freed.
        let precedence = unsafe { &*kernel::container_of!(Opaque::cast_from(block), Self, block) };
        // SAFETY: The module is valid for the call, and its name ends with NUL.
        let name = unsafe { CStr::from_char_ptr(bindings::rustmasq_module_name(module.cast())) };
        if state == LIVE && name == precedence.other {
            if let Some(targets) = &mut *precedence.targets.lock() {
                targets.renew();
            }
        }
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<const N: usize> PinnedDrop for Precedence<N> {
    fn drop(self: Pin<&mut Self>) {
        might_sleep();
        // SAFETY: The block is initialised. The function waits until no call of ours runs, and returns ENOENT for a block
        // that is not on the chain. Process context. The targets are dropped afterwards.
        unsafe { bindings::unregister_module_notifier(self.block.get()) };
    }
}
