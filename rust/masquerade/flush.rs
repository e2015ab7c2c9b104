// SPDX-License-Identifier: GPL-2.0

//! The flush: removes flows that were masqueraded to an address, or by a device, that is gone.
//!
//! Events are collected, and after a pause one worker walks conntrack's table for all of them. A fixed
//! number of events is kept. If there are more, nothing is skipped: the worker then checks for every
//! masqueraded flow whether its address and device still exist.
//!
//! A device that comes up again has new flows at once. They are not affected by the earlier event, but
//! nothing distinguishes them from older flows. So the worker does not wait for a pause in that case; it
//! walks at once, as the kernel's own masquerading does. A second walk finds flows that were confirmed
//! later, by packets that had not seen the change; it checks what exists by then.

use crate::{
    net::{
        namespace::{
            Net,
            NetId, //
        },
        notifier::{
            self,
            Event,
            EventHandler, //
        },
        AnyAddress,
        ProcessContext, //
    },
    netfilter::conntrack::{
        self,
        ConfirmedConn, //
    },
};
use core::mem;
use kernel::{
    prelude::*,
    sync::{
        new_spinlock,
        SpinLock, //
    },
    time::{
        Instant,
        Monotonic,
        Msecs, //
    }, //
};

/// The number of events that are kept one by one.
const CAPACITY: usize = 32;
/// The time without events after which the walk begins.
const PAUSE: Msecs = 50;
/// The time after the first event at which the walk begins at the latest.
const LIMIT: Msecs = 500;

/// The events since the last walk: devices that went down and addresses that were removed.
pub(crate) struct Pending {
    events: [Option<Event>; CAPACITY],
    /// There were more events than `events` can hold.
    overflow: bool,
    /// The time of the first event.
    since: Option<Instant<Monotonic>>,
}

/// The properties of a masqueraded flow that a walk looks at.
struct MasqueradedFlow {
    /// The index of the device that the flow left by.
    device: c_int,
    /// The address that the flow left with.
    address: AnyAddress,
}

impl Pending {
    const NONE: Self = Self {
        events: [None; CAPACITY],
        overflow: false,
        since: None,
    };

    fn add(&mut self, event: Event) {
        let slot = self
            .events
            .iter_mut()
            .find(|slot| slot.is_none_or(|known| known == event));
        match slot {
            Some(slot) => *slot = Some(event),
            None => self.overflow = true,
        }
    }

    fn contains(&self, event: Event) -> bool {
        self.events.contains(&Some(event))
    }

    /// Returns whether a walk of the namespace's flows can find one to remove.
    fn affects(&self, net: NetId) -> bool {
        self.overflow || self.events.iter().flatten().any(|event| event.net() == net)
    }

    /// Returns whether one of the events concerns a flow of the namespace.
    ///
    /// `is_local` returns whether the flow's address exists now.
    fn matches(&self, net: NetId, flow: &MasqueradedFlow, is_local: impl Fn() -> bool) -> bool {
        self.events.iter().flatten().any(|event| {
            event.net() == net
                && match *event {
                    Event::Device { device, .. } => device == flow.device,
                    // The flow may have left by a device without an address of its own, with that of
                    // another; or two devices may have the same address.
                    Event::Address {
                        device, address, ..
                    } => address == flow.address && (device == flow.device || !is_local()),
                }
        })
    }

    /// Returns whether an event, kept or not, took away a flow's address or device for good.
    ///
    /// `is_local` and `is_up` return whether they exist now.
    fn is_orphaned(
        &self,
        net: NetId,
        flow: &MasqueradedFlow,
        is_local: impl Fn() -> bool,
        is_up: impl Fn() -> bool,
    ) -> bool {
        (self.overflow || self.matches(net, flow, &is_local)) && !(is_local() && is_up())
    }

    /// Removes the masqueraded flows that are stale, in all namespaces that are affected.
    fn walk(
        &self,
        context: &mut ProcessContext,
        is_stale: impl Fn(&Net, &MasqueradedFlow) -> bool,
    ) {
        let mut last = None;
        while let Some(net) = Net::next_after(last, |id| self.affects(id), context) {
            let is_stale = |conn: &ConfirmedConn<'_>| {
                let Some(device) = conn.masqueraded_to() else {
                    return false;
                };
                let address = conn.reply_destination();
                is_stale(&net, &MasqueradedFlow { device, address })
            };
            conntrack::cleanup(&net, is_stale, context);
            last = Some(net.id());
        }
    }
}

/// Returns the delay until the walk, `waited` milliseconds after the first event.
fn delay(waited: i64) -> Msecs {
    let left = i64::from(LIMIT).saturating_sub(waited);
    // CAST: The value is between 0 and PAUSE.
    left.clamp(0, i64::from(PAUSE)) as Msecs
}

/// The flush, to be registered with a [`Notifier`](crate::net::notifier::Notifier).
#[pin_data]
pub(crate) struct Flush {
    #[pin]
    pending: SpinLock<Pending>,
}

impl Flush {
    /// Returns an initialiser.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pending <- new_spinlock!(Pending::NONE),
        })
    }
}

impl EventHandler for Flush {
    fn on_down(&self, event: Event) -> Msecs {
        let mut pending = self.pending.lock();
        pending.add(event);
        let now = Instant::now();
        let since = *pending.since.get_or_insert(now);
        delay((now - since).as_millis())
    }

    fn on_up(&self, event: Event) -> bool {
        // The lock must not be waited for here. If another event is being added right now, an immediate
        // walk is right or does no harm.
        self.pending
            .try_lock()
            .is_none_or(|pending| pending.contains(event))
    }

    fn work(&self, context: &mut ProcessContext) {
        let pending = mem::replace(&mut *self.pending.lock(), Pending::NONE);
        pending.walk(context, |net, flow| {
            pending.matches(net.id(), flow, || net.is_local(flow.address))
        });
        notifier::synchronize(context);
        pending.walk(context, |net, flow| {
            let is_local = || net.is_local(flow.address);
            pending.is_orphaned(net.id(), flow, is_local, || net.is_up(flow.device))
        });
    }
}

#[kunit_tests(rustmasq_flush)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const HERE: NetId = NetId::for_test(1);
    const ELSEWHERE: NetId = NetId::for_test(2);

    const FLOW: MasqueradedFlow = MasqueradedFlow {
        device: 7,
        address: address(1),
    };

    const fn address(last: u8) -> AnyAddress {
        AnyAddress::V4(Ipv4Addr::new(203, 0, 113, last))
    }

    fn address_event(device: c_int, last: u8) -> Event {
        Event::Address {
            net: HERE,
            device,
            address: address(last),
        }
    }

    fn device_event(device: c_int) -> Event {
        Event::Device { net: HERE, device }
    }

    fn pending(events: &[Event]) -> Pending {
        let mut pending = Pending::NONE;
        events.iter().for_each(|event| pending.add(*event));
        pending
    }

    /// Returns whether the events match `FLOW`.
    fn matches(pending: &Pending, net: NetId, local: bool) -> bool {
        pending.matches(net, &FLOW, || local)
    }

    /// Returns whether the events orphaned `FLOW`.
    fn is_orphaned(pending: &Pending, net: NetId, local: bool, up: bool) -> bool {
        pending.is_orphaned(net, &FLOW, || local, || up)
    }

    #[test]
    fn no_event_removes_nothing() {
        assert!(!matches(&pending(&[]), HERE, false));
        assert!(!is_orphaned(&pending(&[]), HERE, false, false));
        assert!(!pending(&[]).affects(HERE));
    }

    #[test]
    fn address_of_the_flows_device() {
        // An address that exists again by now matches, too.
        assert!(matches(&pending(&[address_event(7, 1)]), HERE, true));
        assert!(!matches(&pending(&[address_event(7, 2)]), HERE, false));
    }

    #[test]
    fn address_borrowed_from_another_device() {
        assert!(matches(&pending(&[address_event(8, 1)]), HERE, false));
    }

    #[test]
    fn address_that_two_devices_have() {
        assert!(!matches(&pending(&[address_event(8, 1)]), HERE, true));
    }

    #[test]
    fn device_that_went_down() {
        assert!(matches(&pending(&[device_event(7)]), HERE, true));
        assert!(!matches(&pending(&[device_event(8)]), HERE, true));
    }

    #[test]
    fn flow_is_orphaned_if_its_address_or_device_is_still_gone() {
        let address_gone = pending(&[address_event(7, 1)]);
        assert!(is_orphaned(&address_gone, HERE, false, true));
        let device_gone = pending(&[device_event(7)]);
        assert!(is_orphaned(&device_gone, HERE, true, false));
        let other_address_gone = pending(&[address_event(7, 2)]);
        assert!(!is_orphaned(&other_address_gone, HERE, false, true));
        let other_device_gone = pending(&[device_event(8)]);
        assert!(!is_orphaned(&other_device_gone, HERE, true, false));
    }

    #[test]
    fn flow_is_not_orphaned_if_both_are_back() {
        let address_back = pending(&[address_event(7, 1)]);
        assert!(!is_orphaned(&address_back, HERE, true, true));
        let device_back = pending(&[device_event(7)]);
        assert!(!is_orphaned(&device_back, HERE, true, true));
    }

    #[test]
    fn kept_events_are_found() {
        let pending = pending(&[address_event(7, 1), device_event(8)]);
        assert!(pending.contains(device_event(8)));
        assert!(!pending.contains(device_event(7)));
    }

    #[test]
    fn other_namespaces_are_not_affected() {
        let pending = pending(&[address_event(7, 1)]);
        assert!(!matches(&pending, ELSEWHERE, false));
        assert!(!is_orphaned(&pending, ELSEWHERE, false, false));
        assert!(pending.affects(HERE));
        assert!(!pending.affects(ELSEWHERE));
    }

    #[test]
    fn repeated_event_takes_one_slot() {
        let mut pending = Pending::NONE;
        (0..1000).for_each(|_| pending.add(address_event(7, 1)));
        assert!(!pending.overflow);
        assert_eq!(pending.events.iter().flatten().count(), 1);
    }

    #[test]
    fn full_list_of_events_is_exact() {
        let mut pending = Pending::NONE;
        (0..CAPACITY as u8).for_each(|n| pending.add(address_event(7, n)));
        assert!(!pending.overflow);
        assert!(matches(&pending, HERE, true));
        assert!(!pending.affects(ELSEWHERE));
    }

    #[test]
    fn overflow_skips_nothing() {
        let mut pending = Pending::NONE;
        (100..=100 + CAPACITY as u8).for_each(|n| pending.add(address_event(7, n)));
        assert!(pending.overflow);
        assert!(pending.affects(ELSEWHERE));
        assert!(is_orphaned(&pending, HERE, false, true));
        assert!(is_orphaned(&pending, HERE, true, false));
        assert!(!is_orphaned(&pending, HERE, true, true));
    }

    #[test]
    fn delay_ends_with_a_pause_or_at_the_limit() {
        assert_eq!(delay(0), PAUSE);
        assert_eq!(delay(449), PAUSE);
        assert_eq!(delay(480), 20);
        assert_eq!(delay(500), 0);
        assert_eq!(delay(1 << 40), 0);
    }
}
