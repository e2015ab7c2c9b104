// SPDX-License-Identifier: GPL-2.0

//! Expressions of nftables' rules that translate a flow's source address, as `masq` does.
//!
//! A statement of nft(8) is a list of expressions, each with attributes of netlink, from which its data are made once.
//!
//! C header: [`include/net/netfilter/nf_tables.h`](srctree/include/net/netfilter/nf_tables.h)

use super::{
    verdict::Verdict,
    xtables::TargetContext, //
};
use crate::{
    bindings,
    net::{
        namespace::Net,
        Family,
        Ipv4,
        Ipv6,
        ProcessContext, //
    },
    LocalModule, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    module::this_module,
    prelude::*,
    sync::SetOnce,
    task::might_sleep,
    types::Opaque, //
};

/// The number of an attribute of an expression.
type AttributeNumber = c_uint;

/// The functions of nf_tables, while an expression is registered.
static API: SetOnce<bindings::rustmasq_nf_tables> = SetOnce::new();

/// The kernel's module nf_tables, which stays loaded until this is dropped.
///
/// The module does not depend on it otherwise: machines without nftables do without.
pub(crate) struct NfTables(bindings::rustmasq_nf_tables);

impl NfTables {
    /// Loads nf_tables, unless it is loaded or built in.
    ///
    /// Returns `None` if there is none. Process context.
    pub(crate) fn load() -> Option<Self> {
        might_sleep();
        let mut api = pin_init::zeroed();
        // SAFETY: The name ends with NUL; the function sleeps. It may fail: what counts is whether the functions are there.
        unsafe { bindings::rustmasq_request_module(c"nf_tables".as_char_ptr()) };
        // SAFETY: The structure is ours. Each function that is found holds nf_tables.
        unsafe { bindings::rustmasq_nf_tables_get(&mut api) };
        let nf_tables = Self(api);
        let is_complete = nf_tables.functions().iter().all(Option::is_some);
        is_complete.then_some(nf_tables)
    }

    /// Returns the addresses of the functions that were found.
    fn functions(&self) -> [Option<*mut c_void>; 6] {
        let api = &self.0;
        // CAST: A function has an address.
        [
            api.register_expr.map(|function| function as *mut c_void),
            api.unregister_expr.map(|function| function as *mut c_void),
            api.parse_register_load
                .map(|function| function as *mut c_void),
            api.dump_register.map(|function| function as *mut c_void),
            api.chain_validate_dependency
                .map(|function| function as *mut c_void),
            api.chain_validate_hooks
                .map(|function| function as *mut c_void),
        ]
    }
}

impl Drop for NfTables {
    fn drop(&mut self) {
        for function in self.functions().into_iter().flatten() {
            // SAFETY: `load` got the function, which is in the kernel or in a module that it holds, and this is the one
            // call that gives it back.
            unsafe { bindings::rustmasq_symbol_put_addr(function) };
        }
    }
}

/// A check of an attribute by netlink, before it is parsed. All attributes are numbers of 32 bits in network order.
#[derive(Clone, Copy)]
pub(crate) enum AttributePolicy {
    /// There is no such attribute.
    Unused,
    /// A number, of which these bits may be set.
    Bits(u32),
    /// The number of a register.
    Register,
}

impl AttributePolicy {
    /// Returns C's form.
    const fn into_raw(self) -> bindings::nla_policy {
        let mut raw: bindings::nla_policy = pin_init::zeroed();
        match self {
            AttributePolicy::Unused => {}
            AttributePolicy::Bits(mask) => {
                raw.type_ = bindings::NLA_BE32 as u8;
                raw.validation_type = bindings::nla_policy_validation_NLA_VALIDATE_MASK as u8;
                raw.__bindgen_anon_1.mask = mask;
            }
            AttributePolicy::Register => {
                raw.type_ = bindings::NLA_U32 as u8;
            }
        }
        raw
    }
}

/// A register that an expression reads, which an earlier expression of the rule has written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Register(u8);

/// The attributes of an expression that is to be added, after netlink has checked them.
pub(crate) struct Attributes<'a> {
    api: &'a bindings::rustmasq_nf_tables,
    ctx: *const bindings::nft_ctx,
    /// An array with a pointer for each number, null where the attribute is missing.
    attributes: *const *const bindings::nlattr,
    count: usize,
    borrow: PhantomData<&'a bindings::nlattr>,
}

impl Attributes<'_> {
    fn find(&self, number: AttributeNumber) -> Option<NonNull<bindings::nlattr>> {
        // CAST: It widens.
        let place = number as usize;
        if place >= self.count {
            return None;
        }
        // SAFETY: The array has `count` pointers, and they are valid for the call or null.
        NonNull::new(unsafe { *self.attributes.add(place) }.cast_mut())
    }

    /// Returns a number in host order.
    pub(crate) fn number(&self, number: AttributeNumber) -> Option<u32> {
        let attribute = self.find(number)?;
        // SAFETY: The attribute is valid, and its policy, which is not `Unused`, makes netlink refuse a shorter one than
        // four bytes. An `Unused` one is never given.
        Some(unsafe { bindings::rustmasq_nla_get_be32(attribute.as_ptr()) })
    }

    /// Returns a register from which `len` bytes can be read, or `None` if the attribute is missing.
    ///
    /// Errors: EINVAL, ERANGE, ENODATA as `nft_parse_register_load`.
    pub(crate) fn register(&self, number: AttributeNumber, len: u32) -> Result<Option<Register>> {
        let Some(attribute) = self.find(number) else {
            return Ok(None);
        };
        let mut register = 0;
        // SAFETY: The context and the attribute are valid for the call, and the attribute has four bytes by its policy.
        to_result(unsafe {
            bindings::rustmasq_nft_parse_register_load(
                self.api,
                self.ctx,
                attribute.as_ptr(),
                &mut register,
                len,
            )
        })?;
        Ok(Some(Register(register)))
    }
}

/// A message that an expression is written to.
pub(crate) struct Message<'a> {
    api: &'a bindings::rustmasq_nf_tables,
    skb: *mut bindings::sk_buff,
    borrow: PhantomData<&'a mut bindings::sk_buff>,
}

impl Message<'_> {
    /// Adds a number, in host order. Errors: EMSGSIZE.
    pub(crate) fn put_number(&mut self, number: AttributeNumber, value: u32) -> Result {
        // SAFETY: The message is ours for the call. CAST: A small number.
        to_result(unsafe { bindings::rustmasq_nla_put_be32(self.skb, number as c_int, value) })
    }

    /// Adds a register. Errors: EMSGSIZE.
    pub(crate) fn put_register(&mut self, number: AttributeNumber, register: Register) -> Result {
        // SAFETY: The message is ours for the call.
        to_result(unsafe {
            bindings::rustmasq_nft_dump_register(self.api, self.skb, number, register.0.into())
        })
    }
}

/// The registers while a rule is evaluated.
pub(crate) struct Registers<'a>(&'a bindings::nft_regs);

impl Registers<'_> {
    /// Returns the number of 16 bits in network order that a register holds, in host order.
    pub(crate) fn number16(&self, register: Register) -> u16 {
        // SAFETY: The registers are valid, and `nft_parse_register_load` has found this one among them.
        unsafe { bindings::rustmasq_nft_reg_load_be16(self.0, register.0) }
    }
}

/// An expression in chains of type `nat` at the hook `postrouting`.
///
/// The abstraction stores the `Data` that [`init`](Self::init) returned in the rule. nftables copies rules, so they are
/// `Copy`, and their address has no meaning. While a rule exists, conntrack is enabled in its namespace. In other chains
/// a rule with the expression is refused.
pub(crate) trait SourceNatExpression: 'static {
    /// The options of a rule.
    type Data: Copy + Send + Sync + 'static;

    /// The name in netlink's messages.
    const NAME: &'static CStr;
    /// The attributes by number; the one with number 0 does not exist.
    const ATTRIBUTES: &'static [AttributePolicy];

    /// Parses the attributes of a rule that is to be added.
    ///
    /// Returns the error that userspace gets. Process context.
    fn init(attributes: &Attributes<'_>) -> Result<Self::Data>;

    /// Prepares the namespace for a rule that was parsed.
    ///
    /// Returns the error that userspace gets. Process context.
    fn prepare(net: &Net, context: &mut ProcessContext) -> Result;

    /// Writes the attributes of a rule. Process context.
    fn dump(data: &Self::Data, message: &mut Message<'_>) -> Result;

    /// Notes that a rule that was parsed is going to exist. Process context.
    fn added();

    /// Notes that such a rule exists no more. Process context.
    fn removed();
}

/// An expression that can translate flows of the family `F`.
pub(crate) trait TranslateSource<F: Family>: SourceNatExpression {
    /// Sets up source NAT for the flow of a packet, or leaves the flow alone.
    ///
    /// Returns the packet's verdict. Context: a hook; must not sleep.
    fn translate(
        data: &Self::Data,
        registers: &Registers<'_>,
        context: TargetContext<'_, F>,
    ) -> Verdict;
}

/// The callbacks of an expression in tables of the family `NFPROTO`.
struct Callbacks<E, const NFPROTO: u8>(PhantomData<E>);

impl<E, const NFPROTO: u8> Callbacks<E, NFPROTO>
where
    E: TranslateSource<Ipv4> + TranslateSource<Ipv6>,
{
    /// The size of an expression with its data, aligned (`NFT_EXPR_SIZE`).
    const SIZE: usize = {
        assert!(align_of::<E::Data>() <= align_of::<u64>());
        size_of::<bindings::nft_expr>() + size_of::<E::Data>().next_multiple_of(align_of::<u64>())
    };

    /// Returns the place of an expression's data.
    ///
    /// # Safety
    ///
    /// `expr` must point to an expression with room for `SIZE` bytes.
    unsafe fn data(expr: *const bindings::nft_expr) -> *mut E::Data {
        // SAFETY: The caller guarantees an expression with room for the data, which are behind its only field and are
        // aligned for a u64.
        unsafe { expr.cast_mut().add(1).cast() }
    }

    /// Parses an expression that is to be added, and stores its data in it.
    ///
    /// # Safety
    ///
    /// Called by nftables in process context, with a valid context, an expression of `SIZE` bytes that nobody else uses
    /// yet, and an array of the attributes that the policy allows.
    unsafe extern "C" fn init(
        ctx: *const bindings::nft_ctx,
        expr: *const bindings::nft_expr,
        attributes: *const *const bindings::nlattr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The caller, nftables, guarantees a valid context and namespace for the call.
            let (net, family) = unsafe { ((*ctx).net, (*ctx).family) };
            // While the expression is registered, it can be found in tables of other families for a moment.
            if family != NFPROTO {
                return Err(ENOENT);
            }
            let data = E::init(&Attributes {
                api: API.as_ref().ok_or(ENOENT)?,
                ctx,
                attributes,
                count: E::ATTRIBUTES.len(),
                borrow: PhantomData,
            })?;
            // SAFETY: nftables calls in process context, outside any atomic section, and the namespace is valid for the
            // call.
            unsafe { E::prepare(Net::from_raw(net), &mut ProcessContext::new()) }?;
            // SAFETY: The namespace is valid, and the call is in process context, so the function may sleep. `destroy`
            // gives the reference back; nothing fails after this line.
            to_result(unsafe { bindings::nf_ct_netns_get(net, NFPROTO) })?;
            // SAFETY: The expression has room for the data, and nobody else uses it yet.
            unsafe { Self::data(expr).write(data) };
            E::added();
            Ok(0)
        })
    }

    /// Releases what `init` took for an expression.
    ///
    /// # Safety
    ///
    /// Called by nftables in process context, once for each expression that `init` accepted, when no packet can reach it
    /// any more.
    unsafe extern "C" fn destroy(ctx: *const bindings::nft_ctx, _: *const bindings::nft_expr) {
        // SAFETY: `init` took a reference for this namespace and family, and this is the one call that gives it back. The
        // caller, nftables, guarantees a valid context for the call, in process context. The data are `Copy` and need no
        // destructor.
        unsafe { bindings::nf_ct_netns_put((*ctx).net, NFPROTO) };
        E::removed();
    }

    /// Writes an expression to a message.
    ///
    /// # Safety
    ///
    /// Called by nftables with a message, and an expression that `init` accepted.
    unsafe extern "C" fn dump(
        skb: *mut bindings::sk_buff,
        expr: *const bindings::nft_expr,
        _: bool,
    ) -> c_int {
        // SAFETY: `init` wrote the data, and nobody writes to them any more.
        let data = unsafe { &*Self::data(expr) };
        // Any negative number tells nftables that the message is full.
        from_result(|| {
            let mut message = Message {
                api: API.as_ref().ok_or(ENOENT)?,
                skb,
                borrow: PhantomData,
            };
            E::dump(data, &mut message).map(|()| 0)
        })
    }

    /// Checks the chains from which an expression can be reached.
    ///
    /// # Safety
    ///
    /// Called by nftables with a valid context, whose chain is one of them.
    unsafe extern "C" fn validate(
        ctx: *const bindings::nft_ctx,
        _: *const bindings::nft_expr,
    ) -> c_int {
        from_result(|| {
            let nat = bindings::nft_chain_types_NFT_CHAIN_T_NAT;
            let hooks = 1 << bindings::nf_inet_hooks_NF_INET_POST_ROUTING;
            let api = API.as_ref().ok_or(ENOENT)?;
            // SAFETY: The caller, nftables, guarantees that context and chain are valid for the call.
            unsafe {
                let chain = (*ctx).chain;
                to_result(bindings::rustmasq_nft_chain_validate_dependency(
                    api, chain, nat,
                ))?;
                to_result(bindings::rustmasq_nft_chain_validate_hooks(
                    api, chain, hooks,
                ))?;
            }
            Ok(0)
        })
    }

    /// Evaluates an expression for a packet.
    ///
    /// # Safety
    ///
    /// Called by nftables for an expression that `init` and `validate` accepted, in a chain of type `nat` at the hook
    /// POST_ROUTING, with registers and a packet's information that are valid for the call.
    unsafe extern "C" fn eval(
        expr: *const bindings::nft_expr,
        registers: *mut bindings::nft_regs,
        packet: *const bindings::nft_pktinfo,
    ) {
        // SAFETY: The rule is a copy of one in which `init` wrote the data, and nobody writes to it.
        let data = unsafe { &*Self::data(expr) };
        // SAFETY: The caller, nftables, guarantees the packet's information, its packet, and the hook's state.
        let (skb, state) = unsafe { (NonNull::new_unchecked((*packet).skb), (*packet).state) };
        // SAFETY: As above; the state's family is that of the packet.
        let family = c_uint::from(unsafe { (*state).pf });
        // SAFETY: The registers are valid, and nobody else uses them during the call.
        let read = Registers(unsafe { &*registers });
        let verdict = if family == bindings::NFPROTO_IPV4 {
            // SAFETY: By `validate` the chain is one of NAT at POST_ROUTING, which NAT calls with IPv4's packets here. This
            // is the only place that asks for the context, once for a call.
            E::translate(data, &read, unsafe {
                TargetContext::<Ipv4>::of_hook(skb, state)
            })
        } else if family == bindings::NFPROTO_IPV6 {
            // SAFETY: As above, with IPv6's packets.
            E::translate(data, &read, unsafe {
                TargetContext::<Ipv6>::of_hook(skb, state)
            })
        } else {
            // There is no NAT of other families.
            return;
        };
        // SAFETY: The registers are ours for the call, and the borrow has ended.
        unsafe { bindings::rustmasq_nft_set_verdict(registers, verdict.into_raw()) };
    }

    /// Returns the operations, without their type.
    const fn ops() -> bindings::nft_expr_ops {
        let mut raw: bindings::nft_expr_ops = pin_init::zeroed();
        raw.eval = Some(Self::eval);
        raw.size = Self::SIZE as c_uint;
        raw.init = Some(Self::init);
        raw.destroy = Some(Self::destroy);
        raw.dump = Some(Self::dump);
        raw.validate = Some(Self::validate);
        raw
    }
}

/// The most attributes that an expression may have, the missing one with number 0 included.
const MAX_ATTRIBUTES: usize = 16;

/// Returns C's form of the policies. Fails the build if there are too many.
const fn policies(attributes: &[AttributePolicy]) -> [bindings::nla_policy; MAX_ATTRIBUTES] {
    assert!(!attributes.is_empty() && attributes.len() <= MAX_ATTRIBUTES);
    let mut raw = [AttributePolicy::Unused.into_raw(); MAX_ATTRIBUTES];
    let mut number = 0;
    while number < attributes.len() {
        raw[number] = attributes[number].into_raw();
        number += 1;
    }
    raw
}

/// An expression in the tables of one family.
struct Entry {
    family: u8,
    kind: Opaque<bindings::nft_expr_type>,
    ops: Opaque<bindings::nft_expr_ops>,
}

impl Entry {
    const fn new<E, const NFPROTO: u8>() -> Self
    where
        E: TranslateSource<Ipv4> + TranslateSource<Ipv6>,
    {
        let mut kind: bindings::nft_expr_type = pin_init::zeroed();
        kind.name = E::NAME.to_bytes_with_nul().as_ptr();
        kind.owner = this_module::<LocalModule>().as_ptr();
        kind.policy = const { &policies(E::ATTRIBUTES) }.as_ptr();
        kind.maxattr = (E::ATTRIBUTES.len() - 1) as c_uint;
        Self {
            family: NFPROTO,
            kind: Opaque::new(kind),
            ops: Opaque::new(Callbacks::<E, NFPROTO>::ops()),
        }
    }
}

/// An expression in tables of the families ip, ip6 and inet, for statics: nftables links the entries into its list.
///
/// It has precedence over another one of its name, whichever is registered first: nftables takes the last one in its
/// list that fits the table's family, and puts those without a family last.
pub(crate) struct Expression {
    entries: [Entry; 3],
}

// SAFETY: nftables changes a registered entry only under a mutex of its own.
unsafe impl Sync for Expression {}

impl Expression {
    /// Returns the expression `E`.
    pub(crate) const fn new<E>() -> Self
    where
        E: TranslateSource<Ipv4> + TranslateSource<Ipv6>,
    {
        Self {
            entries: [
                Entry::new::<E, { bindings::NFPROTO_IPV4 as u8 }>(),
                Entry::new::<E, { bindings::NFPROTO_IPV6 as u8 }>(),
                Entry::new::<E, { bindings::NFPROTO_INET as u8 }>(),
            ],
        }
    }

    /// Registers the expression until the returned registration is dropped.
    ///
    /// Errors: EBUSY if an expression was registered before. Process context.
    pub(crate) fn register(&'static self, nf_tables: NfTables) -> Result<Registration> {
        might_sleep();
        // From here on callbacks find nf_tables, which the registration holds.
        if !API.populate(nf_tables.0) {
            return Err(EBUSY);
        }
        for entry in &self.entries {
            let (kind, ops) = (entry.kind.get(), entry.ops.get());
            // SAFETY: The entry is static, and by `API` in no list, so nobody else uses it yet. nftables knows its family
            // afterwards alone, so it comes last; who looks for an expression meanwhile reads either family, and `init`
            // refuses the wrong one. The function fails for more attributes than `policies` allows alone.
            unsafe {
                (*kind).ops = ops;
                (*ops).type_ = kind;
                bindings::rustmasq_nft_register_expr(&nf_tables.0, kind);
                (&raw mut (*kind).family).write_volatile(entry.family);
            }
        }
        Ok(Registration {
            expression: self,
            nf_tables,
        })
    }
}

/// The registration of an expression, which rules can use until it is dropped.
///
/// A rule with the expression keeps the module loaded.
pub(crate) struct Registration {
    expression: &'static Expression,
    nf_tables: NfTables,
}

impl Drop for Registration {
    fn drop(&mut self) {
        might_sleep();
        for entry in &self.expression.entries {
            // SAFETY: `register` registered the entry. A rule that uses it points to it and keeps this module loaded, and
            // with it the static entry. A reader that has found it and does not hold the module yet is in an RCU read-side
            // section, which the end of a module waits for. Process context.
            unsafe {
                bindings::rustmasq_nft_unregister_expr(&self.nf_tables.0, entry.kind.get());
            }
        }
        // It is not registered again: its entries have a family now.
    }
}

#[kunit_tests(rustmasq_nft)]
mod tests {
    use super::*;

    #[test]
    fn policies_follow_the_numbers() {
        let raw = policies(&[
            AttributePolicy::Unused,
            AttributePolicy::Bits(0x7f),
            AttributePolicy::Register,
        ]);
        let kinds = raw.map(|policy| c_uint::from(policy.type_));
        assert_eq!(kinds[..3], [0, bindings::NLA_BE32, bindings::NLA_U32]);
        // SAFETY: `into_raw` wrote the member.
        assert_eq!(unsafe { raw[1].__bindgen_anon_1.mask }, 0x7f);
        assert!(kinds[3..].iter().all(|&kind| kind == 0));
    }
}
