// SPDX-License-Identifier: GPL-2.0

//! Forgetting flows that were masqueraded to an address, or by a device, that is gone.
//!
//! Each change is marked, and when the changes pause one worker walks the table for all marks. There
//! is room for a fixed number of them. Beyond it nothing is skipped: the worker then asks of every
//! masqueraded flow whether its address and its device are still there.
//!
//! What comes back, a device that goes up again, gets flows anew at once. Those are none of the
//! change's, but nothing tells them from older ones; so the worker does not wait for a pause then,
//! and walks before anything else, as the kernel's masquerading does. What is confirmed later by
//! packets that did not know of the change is left to a second walk, which looks at what is there.

use crate::netfilter::{
    change::{
        self,
        Change,
        Handler, //
    },
    conntrack::{
        self,
        Tracked, //
    },
    net::{
        Net,
        NetId, //
    },
    AnyAddress,
    ProcessContext, //
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

/// Changes that are known one by one.
const ROOM: usize = 32;
/// The walk begins when no change came for so long ...
const PAUSE: Msecs = 50;
/// ... or so long after the first, if they never pause.
const LIMIT: Msecs = 500;

/// What changed since the last walk.
pub(crate) struct Marks {
    changes: [Option<Change>; ROOM],
    /// More changed than there was room for.
    overflow: bool,
    /// When the first change came.
    since: Option<Instant<Monotonic>>,
}

/// A masqueraded flow, as far as a walk looks at it.
struct Flow {
    /// The index of the device that it left by.
    device: c_int,
    /// The address that it left with.
    address: AnyAddress,
}

impl Marks {
    const NONE: Self = Self {
        changes: [None; ROOM],
        overflow: false,
        since: None,
    };

    fn add(&mut self, change: Change) {
        let slot = self
            .changes
            .iter_mut()
            .find(|slot| slot.is_none_or(|known| known == change));
        match slot {
            Some(slot) => *slot = Some(change),
            None => self.overflow = true,
        }
    }

    fn know(&self, change: Change) -> bool {
        self.changes.contains(&Some(change))
    }

    /// Whether anything is marked in the namespace.
    fn concern(&self, net: NetId) -> bool {
        self.overflow
            || self
                .changes
                .iter()
                .flatten()
                .any(|change| change.net() == net)
    }

    /// Whether one of the changes hits a flow of the namespace. `is_local` tells whether the flow's
    /// address is there now.
    fn hit(&self, net: NetId, flow: &Flow, is_local: impl Fn() -> bool) -> bool {
        self.changes.iter().flatten().any(|change| {
            change.net() == net
                && match *change {
                    Change::DeviceDown { device, .. } => device == flow.device,
                    // An address of another device may have been lent, or be there twice.
                    Change::AddressGone {
                        device, address, ..
                    } => address == flow.address && (device == flow.device || !is_local()),
                }
        })
    }

    /// Whether a change, known or not, took a flow's address or device and did not give it back.
    /// `is_local` and `is_up` tell whether they are there now.
    fn strand(
        &self,
        net: NetId,
        flow: &Flow,
        is_local: impl Fn() -> bool,
        is_up: impl Fn() -> bool,
    ) -> bool {
        (self.overflow || self.hit(net, flow, &is_local)) && !(is_local() && is_up())
    }

    /// Walks the tables of the namespaces that are concerned, and forgets the masqueraded flows that
    /// `is_stale`.
    fn walk(&self, context: &mut ProcessContext, is_stale: impl Fn(&Net, &Flow) -> bool) {
        let mut last = None;
        while let Some(net) = Net::next(last, |id| self.concern(id), context) {
            let forget = |entry: &Tracked<'_>| {
                let Some(device) = entry.masqueraded_to() else {
                    return false;
                };
                let address = entry.reply_destination();
                is_stale(&net, &Flow { device, address })
            };
            conntrack::forget(&net, forget, context);
            last = Some(net.id());
        }
    }
}

/// In how many milliseconds to walk, `waited` milliseconds after the first change.
fn delay(waited: i64) -> Msecs {
    let left = i64::from(LIMIT).saturating_sub(waited);
    // In range: between 0 and PAUSE.
    left.clamp(0, i64::from(PAUSE)) as Msecs
}

/// The flush, to be registered with [`Watch`](crate::netfilter::change::Listener).
#[pin_data]
pub(crate) struct Flush {
    #[pin]
    marks: SpinLock<Marks>,
}

impl Flush {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            marks <- new_spinlock!(Marks::NONE),
        })
    }
}

impl Handler for Flush {
    fn note(&self, change: Change) -> Msecs {
        let mut marks = self.marks.lock();
        marks.add(change);
        let now = Instant::now();
        let since = *marks.since.get_or_insert(now);
        delay((now - since).as_millis())
    }

    fn undone(&self, change: Change) -> bool {
        // Where somebody marks just now, to walk at once is right, or does no harm.
        self.marks.try_lock().is_none_or(|marks| marks.know(change))
    }

    fn work(&self, context: &mut ProcessContext) {
        let marks = mem::replace(&mut *self.marks.lock(), Marks::NONE);
        marks.walk(context, |net, flow| {
            marks.hit(net.id(), flow, || net.is_local(flow.address))
        });
        change::complete(context);
        marks.walk(context, |net, flow| {
            let is_local = || net.is_local(flow.address);
            marks.strand(net.id(), flow, is_local, || net.is_up(flow.device))
        });
    }
}

#[kunit_tests(rustmasq_flush)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const HERE: NetId = NetId::for_test(1);
    const THERE: NetId = NetId::for_test(2);

    const FLOW: Flow = Flow {
        device: 7,
        address: address(1),
    };

    const fn address(last: u8) -> AnyAddress {
        AnyAddress::V4(Ipv4Addr::new(203, 0, 113, last))
    }

    fn gone(device: c_int, last: u8) -> Change {
        Change::AddressGone {
            net: HERE,
            device,
            address: address(last),
        }
    }

    fn down(device: c_int) -> Change {
        Change::DeviceDown { net: HERE, device }
    }

    fn marks(changes: &[Change]) -> Marks {
        let mut marks = Marks::NONE;
        changes.iter().for_each(|change| marks.add(*change));
        marks
    }

    /// Whether a flow by device 7 with address 1 is hit.
    fn hits(marks: &Marks, net: NetId, local: bool) -> bool {
        marks.hit(net, &FLOW, || local)
    }

    /// Whether such a flow is stranded.
    fn strands(marks: &Marks, net: NetId, local: bool, up: bool) -> bool {
        marks.strand(net, &FLOW, || local, || up)
    }

    #[test]
    fn nothing_marked_nothing_forgotten() {
        assert!(!hits(&marks(&[]), HERE, false));
        assert!(!strands(&marks(&[]), HERE, false, false));
        assert!(!marks(&[]).concern(HERE));
    }

    #[test]
    fn address_of_the_same_device() {
        // Even if it is back by now.
        assert!(hits(&marks(&[gone(7, 1)]), HERE, true));
        assert!(!hits(&marks(&[gone(7, 2)]), HERE, false));
    }

    #[test]
    fn address_that_another_device_lent() {
        assert!(hits(&marks(&[gone(8, 1)]), HERE, false));
    }

    #[test]
    fn address_that_is_there_twice() {
        assert!(!hits(&marks(&[gone(8, 1)]), HERE, true));
    }

    #[test]
    fn device_that_went_down() {
        assert!(hits(&marks(&[down(7)]), HERE, true));
        assert!(!hits(&marks(&[down(8)]), HERE, true));
    }

    #[test]
    fn who_came_late_is_stranded_by_what_is_still_gone() {
        assert!(strands(&marks(&[gone(7, 1)]), HERE, false, true));
        assert!(strands(&marks(&[down(7)]), HERE, true, false));
        assert!(!strands(&marks(&[gone(7, 2)]), HERE, false, true));
        assert!(!strands(&marks(&[down(8)]), HERE, true, false));
    }

    #[test]
    fn who_came_when_it_was_back_stays() {
        assert!(!strands(&marks(&[gone(7, 1)]), HERE, true, true));
        assert!(!strands(&marks(&[down(7)]), HERE, true, true));
    }

    #[test]
    fn what_comes_back_is_known() {
        assert!(marks(&[gone(7, 1), down(8)]).know(down(8)));
        assert!(!marks(&[gone(7, 1), down(8)]).know(down(7)));
    }

    #[test]
    fn other_namespaces_stay() {
        assert!(!hits(&marks(&[gone(7, 1)]), THERE, false));
        assert!(!strands(&marks(&[gone(7, 1)]), THERE, false, false));
        assert!(marks(&[gone(7, 1)]).concern(HERE));
        assert!(!marks(&[gone(7, 1)]).concern(THERE));
    }

    #[test]
    fn the_same_change_takes_one_place() {
        let mut marks = Marks::NONE;
        (0..1000).for_each(|_| marks.add(gone(7, 1)));
        assert!(!marks.overflow);
        assert_eq!(marks.changes.iter().flatten().count(), 1);
    }

    #[test]
    fn a_full_table_of_marks_is_exact() {
        let mut marks = Marks::NONE;
        (0..ROOM as u8).for_each(|n| marks.add(gone(7, n)));
        assert!(!marks.overflow);
        assert!(hits(&marks, HERE, true));
        assert!(!marks.concern(THERE));
    }

    #[test]
    fn beyond_the_room_nothing_is_skipped() {
        let mut marks = Marks::NONE;
        (100..=100 + ROOM as u8).for_each(|n| marks.add(gone(7, n)));
        assert!(marks.overflow);
        assert!(marks.concern(THERE));
        assert!(strands(&marks, HERE, false, true));
        assert!(strands(&marks, HERE, true, false));
        assert!(!strands(&marks, HERE, true, true));
    }

    #[test]
    fn delays_wait_for_a_pause_but_not_for_ever() {
        assert_eq!(delay(0), PAUSE);
        assert_eq!(delay(449), PAUSE);
        assert_eq!(delay(480), 20);
        assert_eq!(delay(500), 0);
        assert_eq!(delay(1 << 40), 0);
    }
}
