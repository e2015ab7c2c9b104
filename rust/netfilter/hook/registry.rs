// SPDX-License-Identifier: GPL-2.0

//! The registry that keeps the module's hooks registered in every network namespace.
//!
//! The module has one static table of hooks ([`Registration::register`]). Each hook has a [`Switch`];
//! while it is off, the hook is registered nowhere and costs nothing. Callbacks of trace events turn
//! switches on and off. They can come before module init and after module exit, so all they touch is
//! initialised at compile time and empty after exit: a mutex, the switches, and the registry's own list
//! of namespaces. The kernel's list would not do: it lacks a namespace that is being set up.
//!
//! C headers: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h),
//! [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::atomic::{
        AtomicFlag,
        Relaxed, //
    },
    task::might_sleep,
    types::Opaque, //
};

/// A hook in a static table.
pub(crate) struct Hook {
    /// C's form of the hook.
    pub(super) ops: bindings::nf_hook_ops,
    /// The switch that decides whether the hook is registered.
    pub(super) switch: &'static Switch,
}

// SAFETY: Nothing writes to a hook: netfilter takes the operations of a registered hook as const and leaves
// the fields `list` and `rcu` to their owner. Everything that a hook points to is static.
unsafe impl Sync for Hook {}

/// A switch that decides whether hooks are registered, for statics.
///
/// Only the holder of the registry's lock changes it.
pub(crate) struct Switch(AtomicFlag);

impl Switch {
    /// Returns a switch that is off.
    pub(crate) const fn new() -> Self {
        Self(AtomicFlag::new(false))
    }

    fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Registers the switch's hooks in every network namespace, including future ones.
    ///
    /// Before module init, registration is deferred until then. Errors: ENOMEM; E2BIG if a hook point has
    /// 1024 hooks (`nf_register_net_hook`). The switch stays off then. Process context; sleeps.
    pub(crate) fn turn_on(&'static self) -> Result {
        with_registry(|registry| {
            if self.is_on() {
                return Ok(());
            }
            registry.add_everywhere(self)?;
            self.0.store(true, Relaxed);
            Ok(())
        })
    }

    /// Unregisters the switch's hooks, which may still run when this returns.
    ///
    /// Process context; sleeps.
    pub(crate) fn turn_off(&'static self) {
        with_registry(|registry| {
            if self.is_on() {
                self.0.store(false, Relaxed);
                registry.remove_everywhere(self);
            }
        });
    }
}

/// The module's hooks and the namespaces that they are registered in.
///
/// # Invariants
///
/// `namespaces` holds each namespace for which [`net_init`] succeeded and [`net_pre_exit`] was not
/// called yet; each of them is valid. In each of them exactly those hooks of `tables` are registered
/// whose switch is on. `tables` is `None` while there is no [`Registration`]; there is no namespace then.
struct Registry {
    tables: Option<&'static [&'static [Hook]]>,
    namespaces: KVec<NonNull<bindings::net>>,
}

struct Global(UnsafeCell<Registry>);

// SAFETY: Only `with_registry` reaches the registry, under a mutex. Any thread may use it then: it consists
// of statics, and of pointers to namespaces that are valid for every thread.
unsafe impl Sync for Global {}

static REGISTRY: Global = Global(UnsafeCell::new(Registry {
    tables: None,
    namespaces: KVec::new(),
}));

/// Calls `f` with exclusive access to the registry. Process context; sleeps.
fn with_registry<R>(f: impl FnOnce(&mut Registry) -> R) -> R {
    might_sleep();
    // SAFETY: The mutex is initialised at compile time. All callers are in process context, and none holds
    // it already: module init and exit, pernet operations, and the callbacks of trace events; no closure
    // given to this function leads to one of them.
    unsafe { bindings::rustmasq_hooks_lock() };
    // SAFETY: The mutex is held, so no other reference to the registry exists, and the closure's
    // signature does not let it keep this one.
    let result = f(unsafe { &mut *REGISTRY.0.get() });
    // SAFETY: This function took the mutex in this thread, and no reference to the registry is left.
    unsafe { bindings::rustmasq_hooks_unlock() };
    result
}

impl Registry {
    fn hooks(&self, wanted: impl Fn(&Switch) -> bool) -> impl Iterator<Item = &'static Hook> {
        let tables = self.tables.unwrap_or_default();
        tables
            .iter()
            .copied()
            .flatten()
            .filter(move |hook| wanted(hook.switch))
    }

    /// Registers the wanted hooks in a namespace: all of them or, on an error, none.
    fn add(&self, net: NonNull<bindings::net>, wanted: impl Fn(&Switch) -> bool + Copy) -> Result {
        for (count, hook) in self.hooks(wanted).enumerate() {
            // SAFETY: The namespace is valid: it is in the registry, or `net_init` is called for it. The
            // operations are static and name a hook point that their family has. Process context; nobody
            // takes our mutex under the one that the function takes.
            let added =
                to_result(unsafe { bindings::nf_register_net_hook(net.as_ptr(), &hook.ops) });
            if added.is_err() {
                for hook in self.hooks(wanted).take(count) {
                    // SAFETY: The first `count` hooks were registered in this namespace just now, and nobody
                    // else can have unregistered them: our mutex is held. Process context.
                    unsafe { bindings::nf_unregister_net_hook(net.as_ptr(), &hook.ops) };
                }
                return added;
            }
        }
        Ok(())
    }

    fn remove(&self, net: NonNull<bindings::net>, wanted: impl Fn(&Switch) -> bool) {
        for hook in self.hooks(wanted) {
            // SAFETY: By the invariant the namespace is valid and the hook is registered in it: callers ask
            // for hooks whose switch is on, or was until now. Process context.
            unsafe { bindings::nf_unregister_net_hook(net.as_ptr(), &hook.ops) };
        }
    }

    fn add_everywhere(&self, switch: &'static Switch) -> Result {
        let wanted = |other: &Switch| core::ptr::eq(other, switch);
        for (count, net) in self.namespaces.iter().enumerate() {
            self.add(*net, wanted).inspect_err(|_| {
                for net in self.namespaces.iter().take(count) {
                    self.remove(*net, wanted);
                }
            })?;
        }
        Ok(())
    }

    fn remove_everywhere(&self, switch: &'static Switch) {
        for net in &self.namespaces {
            self.remove(*net, |other| core::ptr::eq(other, switch));
        }
    }
}

/// Adds a namespace to the registry and registers the hooks in it.
///
/// # Safety
///
/// Called as `pernet_operations::init`: for a namespace that is being set up or, when the operations are
/// registered, for an existing one.
unsafe extern "C" fn net_init(net: *mut bindings::net) -> c_int {
    let Some(net) = NonNull::new(net) else {
        return 0;
    };
    from_result(|| {
        with_registry(|registry| {
            registry.namespaces.reserve(1, GFP_KERNEL)?;
            registry.add(net, Switch::is_on)?;
            Ok(registry.namespaces.push(net, GFP_KERNEL).map(|()| 0)?)
        })
    })
}

/// Unregisters the hooks in a namespace and removes it from the registry.
///
/// # Safety
///
/// Called as `pernet_operations::pre_exit`: for a namespace that `net_init` accepted, when it is removed
/// or the operations are unregistered.
unsafe extern "C" fn net_pre_exit(net: *mut bindings::net) {
    let Some(net) = NonNull::new(net) else {
        return;
    };
    with_registry(|registry| {
        registry.remove(net, Switch::is_on);
        registry.namespaces.retain(|other| *other != net);
    });
}

/// The callbacks for namespaces that are created and removed.
struct PernetOperations(Opaque<bindings::pernet_operations>);

// SAFETY: After construction only the kernel writes to the operations, under `pernet_ops_rwsem`.
unsafe impl Sync for PernetOperations {}

static PERNET_OPERATIONS: PernetOperations = {
    let mut raw: bindings::pernet_operations = pin_init::zeroed();
    raw.init = Some(net_init);
    // `pre_exit`, not `exit`: the kernel waits for a grace period between the two, so no hook runs any
    // more when the namespace is torn down.
    raw.pre_exit = Some(net_pre_exit);
    PernetOperations(Opaque::new(raw))
};

/// The registration of the module's hooks, which stay registered as their switches say until it is dropped.
///
/// Dropping waits until no hook runs any more.
pub(crate) struct Registration(());

impl Registration {
    /// Registers `tables` as the module's hooks in every network namespace.
    ///
    /// Errors: EBUSY if there is a registration already; ENOMEM; E2BIG if a hook point has 1024 hooks
    /// (`nf_register_net_hook`). Process context; sleeps.
    pub(crate) fn register(tables: &'static [&'static [Hook]]) -> Result<Self> {
        with_registry(|registry| {
            if registry.tables.is_some() {
                return Err(EBUSY);
            }
            registry.tables = Some(tables);
            Ok(())
        })?;
        let raw = PERNET_OPERATIONS.0.get();
        // A device's operations are called after those of all subsystems, so a namespace in the
        // registry is complete: `nf_unregister_net_hook` needs nfnetlink_queue's part of it.
        // SAFETY: The operations are static, and in no list: `tables` was `None`. Process context, and our
        // mutex, which `net_init` takes, is not held. On an error the function calls `net_pre_exit` for each
        // namespace that `net_init` accepted, so the registry is empty again.
        to_result(unsafe { bindings::register_pernet_device(raw) })
            .inspect_err(|_| Self::clear())?;
        Ok(Self(()))
    }

    /// Clears the registry, which holds no namespace any more.
    fn clear() {
        with_registry(|registry| {
            registry.tables = None;
            registry.namespaces = KVec::new();
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: `register` registered the operations, and they are unregistered once: a registration is
        // dropped once, and there is one at a time. Process context, and our mutex is not held. The function
        // calls `net_pre_exit` for each namespace and waits for a grace period, after which no hook of ours
        // runs, nor a probe of a trace event that a hook called.
        unsafe { bindings::unregister_pernet_device(PERNET_OPERATIONS.0.get()) };
        Self::clear();
    }
}
