// SPDX-License-Identifier: GPL-2.0

//! The flush: removes flows that were masqueraded to an address, or by a device, that is gone, and those with
//! another device's address whose own device has got one since.
//!
//! Events are collected, and after a pause one worker walks conntrack's table for all of them. A fixed
//! number of events is kept. If there are more, nothing is skipped: the worker then checks for every
//! masqueraded flow whether its address and device still exist.
//!
//! A device that comes up again has new flows at once. They are not affected by the earlier event, but
//! nothing distinguishes them from older flows. So the worker does not wait for a pause in that case; it
//! walks at once, as the kernel's own masquerading does. A second walk finds flows that were confirmed
//! later, by packets that had not seen the change; it checks what exists by then.
//!
//! Mappings go after the second walk, by what exists by then. One stays whose address and device are back: new flows may
//! have it already, and unlike a flow it depends on nothing else that was down.
//!
//! A device without an address of its own borrows one of another device. When it gets its first, the second
//! walk checks for each flow that left by it with an address which is none of its own whether it would leave
//! with one now. An address that a route has named is not borrowed (route_sources.rs). An IPv6 address can be
//! used only after duplicate address detection, which ends without an event, so the worker runs again from
//! time to time while that is in progress.

use super::{
    counters::{
        self,
        Counter, //
    },
    per_net::State,
    route_sources::RouteSources, //
};
use crate::{
    net::{
        device::{
            Device,
            Readiness, //
        },
        namespace::{
            Net,
            NetId, //
        },
        notifier::{
            self,
            Arrival,
            Event,
            EventHandler, //
        },
        AnyAddress,
        AnyFamily,
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
        atomic::{
            AtomicFlag,
            Full,
            Release, //
        },
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
/// The number of arrivals that are kept one by one.
const ARRIVALS: usize = 16;
/// The time after which the worker looks again for the end of duplicate address detection.
const RECHECK: Msecs = 200;
/// The same, if there are so many devices that each run of the worker has to walk.
const RECHECK_ALL: Msecs = 500;
/// The time without events after which the walk begins.
const PAUSE: Msecs = 50;
/// The time after the first event at which the walk begins at the latest.
const LIMIT: Msecs = 500;

/// The events since the last walk: devices that went down, addresses that were removed, and arrivals.
pub(crate) struct Pending {
    events: [Option<Event>; CAPACITY],
    /// There were more events than `events` can hold.
    overflow: bool,
    arrivals: Arrivals,
    /// The time of the first event.
    since: Option<Instant<Monotonic>>,
}

/// The devices that have got, or are about to get, their first address since the last walk.
struct Arrivals {
    devices: [Option<Arrival>; ARRIVALS],
    /// There were more than `devices` can hold.
    overflow: bool,
}

impl Arrivals {
    const NONE: Self = Self {
        devices: [None; ARRIVALS],
        overflow: false,
    };

    fn add(&mut self, arrival: Arrival) {
        let slot = self
            .devices
            .iter_mut()
            .find(|slot| slot.is_none_or(|known| known == arrival));
        match slot {
            Some(slot) => *slot = Some(arrival),
            None => self.overflow = true,
        }
    }

    fn merge(&mut self, others: &Self) {
        others
            .devices
            .iter()
            .flatten()
            .for_each(|arrival| self.add(*arrival));
        self.overflow |= others.overflow;
    }

    fn is_empty(&self) -> bool {
        !self.overflow && self.devices.iter().all(Option::is_none)
    }

    /// Returns whether a walk of the namespace's flows can find one to remove.
    fn affects(&self, net: NetId) -> bool {
        self.overflow
            || self
                .devices
                .iter()
                .flatten()
                .any(|arrival| arrival.net == net)
    }

    /// Returns whether a flow of the namespace left by one of the devices, in the address's family.
    fn matches(&self, net: NetId, flow: &MasqueradedFlow) -> bool {
        let arrival = Arrival {
            net,
            device: flow.device,
            family: flow.address.family(),
        };
        self.overflow || self.devices.contains(&Some(arrival))
    }

    /// Keeps the devices of the namespace that now have an address, and moves those that may get one later to
    /// `waiting`.
    ///
    /// `readiness` returns to what extent a device has one.
    fn settle(
        &mut self,
        net: NetId,
        waiting: &mut Self,
        readiness: impl Fn(&Arrival) -> Readiness,
    ) {
        for slot in &mut self.devices {
            let Some(arrival) = slot.take_if(|arrival| arrival.net == net) else {
                continue;
            };
            match readiness(&arrival) {
                Readiness::Ready | Readiness::Deprecated => *slot = Some(arrival),
                Readiness::Tentative => waiting.add(arrival),
                Readiness::Absent => (),
            }
        }
    }

    /// Does the same for all namespaces, and returns the devices that may get an address later.
    ///
    /// If there were more arrivals than are kept, these are all devices that may.
    fn settle_all(&mut self, context: &mut ProcessContext) -> Self {
        let mut waiting = Self::NONE;
        let mut last = None;
        while let Some(net) = Net::next_after(last, |net| self.affects(net.id()), context) {
            let id = net.id();
            self.settle(id, &mut waiting, |arrival| {
                net.with_device(arrival.device, |device| device.readiness(arrival.family))
                    .unwrap_or(Readiness::Absent)
            });
            if self.overflow {
                net.for_each_device(|device| {
                    if device.readiness(AnyFamily::V6) == Readiness::Tentative {
                        waiting.add(Arrival::at(device, AnyFamily::V6));
                    }
                });
            }
            last = Some(id);
        }
        waiting
    }

    /// Returns the delay until the worker looks again, if it has to.
    fn recheck(&self) -> Option<Msecs> {
        if self.overflow {
            Some(RECHECK_ALL)
        } else {
            (!self.is_empty()).then_some(RECHECK)
        }
    }
}

/// The properties of a masqueraded flow that a walk looks at.
struct MasqueradedFlow {
    /// The index of the device that the flow left by.
    device: c_int,
    /// The address that the flow left with.
    address: AnyAddress,
    /// The address that the flow went to.
    destination: AnyAddress,
}

impl Pending {
    const NONE: Self = Self {
        events: [None; CAPACITY],
        overflow: false,
        arrivals: Arrivals::NONE,
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

    /// Returns whether something came down.
    fn has_events(&self) -> bool {
        self.overflow || self.events.iter().any(Option::is_some)
    }

    /// Returns whether a walk of the namespace's flows can find one to remove.
    fn affects(&self, net: NetId) -> bool {
        self.overflow
            || self.events.iter().flatten().any(|event| event.net() == net)
            || self.arrivals.affects(net)
    }

    /// Returns the delay until the walk after another event, which comes now.
    fn postpone(&mut self) -> Msecs {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        delay((now - since).as_millis())
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

    /// Returns whether an event took away a mapping's address or device, and that is not back.
    ///
    /// `is_own`, `is_local` and `is_up` return whether the device has the address now, whether any has it, and whether the
    /// device is up.
    fn ends(
        &self,
        net: NetId,
        mapping: &MasqueradedFlow,
        is_own: impl Fn() -> bool,
        is_local: impl Fn() -> bool,
        is_up: impl Fn() -> bool,
    ) -> bool {
        let is_gone = |event: &Event| match *event {
            Event::Device { device, .. } => device == mapping.device && !is_up(),
            Event::Address {
                device, address, ..
            } => {
                address == mapping.address
                    && !(is_local() && (device != mapping.device || is_own()))
            }
        };
        let mut events = self.events.iter().flatten();
        events.any(|event| event.net() == net && is_gone(event))
            || self.overflow && !(is_local() && is_up())
    }

    /// Forgets that routes have named addresses which are gone.
    fn forget_route_sources(&self, net: &Net, named: &RouteSources) {
        for event in self.events.iter().flatten() {
            match *event {
                Event::Address {
                    device, address, ..
                } if event.net() == net.id() && !is_local(net, device, address) => {
                    named.remove(address.words());
                }
                _ => {}
            }
        }
    }

    /// Removes the masqueraded flows that are stale, in all namespaces that are affected.
    fn walk(
        &self,
        context: &mut ProcessContext,
        is_stale_flow: impl Fn(&Net, &MasqueradedFlow) -> bool,
    ) {
        let mut last = None;
        while let Some(net) = Net::next_after(last, |net| self.affects(net.id()), context) {
            let is_stale = |conn: &ConfirmedConn<'_>| {
                let Some(device) = conn.masqueraded_to() else {
                    return false;
                };
                let ends = conn.reply_ends();
                let flow = MasqueradedFlow {
                    device,
                    address: ends.destination.address,
                    destination: ends.source.address,
                };
                let stale = is_stale_flow(&net, &flow);
                if stale {
                    counters::count(&net, Counter::Flushed);
                }
                stale
            };
            conntrack::cleanup(&net, is_stale, context);
            if let Some(state) = State::of(&net) {
                self.forget_route_sources(&net, &state.route_sources);
            }
            last = Some(net.id());
        }
    }

    /// Removes the mappings that have lost their address or device, in all namespaces that are affected.
    fn end_mappings(&self, context: &mut ProcessContext) {
        let mut last = None;
        while let Some(net) = Net::next_after(last, |net| self.affects(net.id()), context) {
            let id = net.id();
            if let Some(State { mappings, .. }) = State::of(&net) {
                mappings.remove(|mapping, outside| {
                    let (device, address) = (mapping.device, outside.address());
                    let flow = MasqueradedFlow {
                        device,
                        address,
                        // It has many destinations. This one is near.
                        destination: address,
                    };
                    let is_own = || {
                        net.with_device(device, |device| device.has_address(address))
                            .unwrap_or(false)
                    };
                    let is_local = || is_local(&net, device, address);
                    self.ends(id, &flow, is_own, is_local, || net.is_up(device))
                        || (self.arrivals.matches(id, &flow) && has_own_address(&net, &flow))
                });
            }
            last = Some(id);
        }
    }
}

/// Returns whether an address is one of the machine's, where the namespace's device with this index is.
fn is_local(net: &Net, device: c_int, address: AnyAddress) -> bool {
    net.with_device(device, |device| device.is_local_address(address))
        .unwrap_or(false)
}

/// Returns whether a route has named the address for flows of the namespace.
fn is_route_source(net: &Net, address: AnyAddress) -> bool {
    State::of(net).is_some_and(|state| state.route_sources.has(address.words()))
}

/// Returns whether the flow's device would now use an address of its own instead of the flow's, which is not.
fn has_own_address(net: &Net, flow: &MasqueradedFlow) -> bool {
    let would_replace = |device: &Device| device.would_replace(flow.address, flow.destination);
    !is_route_source(net, flow.address)
        && net.with_device(flow.device, would_replace).unwrap_or(false)
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
    /// There was an arrival while `pending` was locked.
    missed: AtomicFlag,
}

impl Flush {
    /// Returns an initialiser.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pending <- new_spinlock!(Pending::NONE),
            missed: AtomicFlag::new(false),
        })
    }
}

impl EventHandler for Flush {
    fn on_down(&self, event: Event) -> Msecs {
        let mut pending = self.pending.lock();
        pending.add(event);
        pending.postpone()
    }

    fn on_up(&self, event: Event) -> bool {
        // The lock must not be waited for here. If another event is being added right now, an immediate
        // walk is right or does no harm.
        self.pending
            .try_lock()
            .is_none_or(|pending| pending.contains(event))
    }

    fn on_arrival(&self, arrival: Arrival) -> Msecs {
        // The lock must not be waited for here.
        match self.pending.try_lock() {
            Some(mut pending) => {
                pending.arrivals.add(arrival);
                pending.postpone()
            }
            None => {
                self.missed.store(true, Release);
                0
            }
        }
    }

    fn work(&self, context: &mut ProcessContext) -> Option<Msecs> {
        let mut pending = mem::replace(&mut *self.pending.lock(), Pending::NONE);
        pending.arrivals.overflow |= self.missed.xchg(false, Full);
        let waiting = pending.arrivals.settle_all(context);
        if pending.has_events() {
            pending.walk(context, |net, flow| {
                pending.matches(net.id(), flow, || is_local(net, flow.device, flow.address))
            });
        }
        if pending.has_events() || !pending.arrivals.is_empty() {
            notifier::synchronize(context);
            pending.walk(context, |net, flow| {
                let is_local = || is_local(net, flow.device, flow.address);
                pending.is_orphaned(net.id(), flow, is_local, || net.is_up(flow.device))
                    || (pending.arrivals.matches(net.id(), flow) && has_own_address(net, flow))
            });
            pending.end_mappings(context);
        }
        self.pending.lock().arrivals.merge(&waiting);
        waiting.recheck()
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
        destination: address(9),
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
    fn a_mapping_ends_if_what_it_had_is_not_back() {
        let ends = |event: Event, own: bool, local: bool, up: bool| {
            pending(&[event]).ends(HERE, &FLOW, || own, || local, || up)
        };
        let (address, device) = (address_event(7, 1), device_event(7));
        assert!(ends(address, false, false, true));
        assert!(!ends(address, true, true, true));
        // Another device has got the address.
        assert!(ends(address, false, true, true));
        // It was borrowed.
        assert!(ends(address_event(8, 1), false, false, true));
        assert!(!ends(address_event(8, 1), false, true, true));
        assert!(ends(device, true, true, false));
        assert!(!ends(device, true, true, true));
        for other in [address_event(7, 2), device_event(8)] {
            assert!(!ends(other, false, false, false));
        }
        assert!(!pending(&[device]).ends(ELSEWHERE, &FLOW, || false, || false, || false));
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

    fn arrival(net: NetId, device: c_int, family: AnyFamily) -> Arrival {
        Arrival {
            net,
            device,
            family,
        }
    }

    #[test]
    fn arrivals_match_flows_of_their_device_and_family() {
        let mut arrivals = Arrivals::NONE;
        assert!(arrivals.is_empty());
        assert!(!arrivals.affects(HERE));
        assert!(!arrivals.matches(HERE, &FLOW));
        arrivals.add(arrival(HERE, 7, AnyFamily::V6));
        arrivals.add(arrival(HERE, 8, AnyFamily::V4));
        arrivals.add(arrival(ELSEWHERE, 7, AnyFamily::V4));
        assert!(!arrivals.matches(HERE, &FLOW));
        arrivals.add(arrival(HERE, 7, AnyFamily::V4));
        assert!(arrivals.matches(HERE, &FLOW));
        assert!(arrivals.affects(HERE));
        assert!(!arrivals.affects(NetId::for_test(3)));
        assert!(!arrivals.overflow);
    }

    #[test]
    fn arrivals_are_no_reason_to_remove_other_flows() {
        let mut pending = pending(&[]);
        pending.arrivals.add(arrival(HERE, 7, AnyFamily::V4));
        pending.arrivals.overflow = true;
        assert!(!pending.has_events());
        assert!(pending.affects(HERE));
        assert!(!matches(&pending, HERE, false));
        assert!(!is_orphaned(&pending, HERE, false, false));
    }

    #[test]
    fn repeated_arrival_takes_one_slot() {
        let mut arrivals = Arrivals::NONE;
        (0..1000).for_each(|_| arrivals.add(arrival(HERE, 7, AnyFamily::V6)));
        assert!(!arrivals.overflow);
        assert_eq!(arrivals.devices.iter().flatten().count(), 1);
    }

    #[test]
    fn too_many_arrivals_skip_nothing() {
        let mut arrivals = Arrivals::NONE;
        (100..100 + ARRIVALS as c_int)
            .for_each(|device| arrivals.add(arrival(HERE, device, AnyFamily::V4)));
        assert!(!arrivals.overflow);
        assert!(!arrivals.matches(HERE, &FLOW));
        arrivals.add(arrival(HERE, 99, AnyFamily::V4));
        assert!(arrivals.overflow);
        assert!(arrivals.matches(HERE, &FLOW));
        assert!(arrivals.affects(ELSEWHERE));
        let mut merged = Arrivals::NONE;
        merged.merge(&arrivals);
        assert!(merged.overflow);
    }

    #[test]
    fn arrivals_wait_for_duplicate_address_detection() {
        let readiness = |arrival: &Arrival| match arrival.device {
            1 => Readiness::Absent,
            2 => Readiness::Deprecated,
            3 => Readiness::Tentative,
            _ => Readiness::Ready,
        };
        let mut arrivals = Arrivals::NONE;
        (1..=4).for_each(|device| arrivals.add(arrival(HERE, device, AnyFamily::V6)));
        arrivals.add(arrival(ELSEWHERE, 3, AnyFamily::V6));
        let mut waiting = Arrivals::NONE;
        arrivals.settle(HERE, &mut waiting, readiness);
        let left = |arrivals: &Arrivals, device| {
            arrivals
                .devices
                .contains(&Some(arrival(HERE, device, AnyFamily::V6)))
        };
        assert!(!left(&arrivals, 1) && !left(&waiting, 1));
        assert!(left(&arrivals, 2) && !left(&waiting, 2));
        assert!(!left(&arrivals, 3) && left(&waiting, 3));
        assert!(left(&arrivals, 4) && !left(&waiting, 4));
        assert!(arrivals.affects(ELSEWHERE) && !waiting.affects(ELSEWHERE));
        assert_eq!(waiting.recheck(), Some(RECHECK));
        waiting.overflow = true;
        assert_eq!(waiting.recheck(), Some(RECHECK_ALL));
        assert_eq!(Arrivals::NONE.recheck(), None);
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
