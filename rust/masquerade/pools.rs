// SPDX-License-Identifier: GPL-2.0

//! The pools of a namespace.
//!
//! There is none until a destination is crowded. Then one is made for it, where the flow waits, without sleeping; a
//! worker lets it know of the flows that were there before, and looks after it.

use super::{
    claims::Claims,
    pool::{
        Destination,
        Pool,
        Suspects, //
    }, //
};
use crate::{
    net::{
        namespace::Net,
        rcu::{
            free_after_grace_period,
            RcuBox, //
        },
        ProcessContext, //
    },
    netfilter::nat::PortRange,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        rcu, //
    },
};

/// The most pools that a namespace has.
const MAX_POOLS: u32 = 256;
/// The places for them. There are more, so that a pool finds one near the place that its destination points to.
const PLACES: usize = 512;
/// How far from there it may be.
const WINDOW: usize = 8;

/// The pools of a namespace.
pub(super) struct Pools {
    table: RcuBox<Table>,
    /// The namespace is about to go.
    closing: AtomicFlag,
}

/// The places of the pools.
struct Table {
    places: KVec<RcuBox<Pool>>,
    count: Atomic<u32>,
}

impl Table {
    fn new() -> Result<Pin<KBox<Self>>> {
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let mut places = KVec::with_capacity(PLACES, flags)?;
        for _ in 0..PLACES {
            places.push(RcuBox::empty(), flags)?;
        }
        Ok(Pin::from(KBox::new(
            Self {
                places,
                count: Atomic::new(0),
            },
            flags,
        )?))
    }

    /// Returns the places where the destination's pools are.
    fn window(&self, destination: &Destination, key: u64) -> impl Iterator<Item = &RcuBox<Pool>> {
        // CAST: The remainder is the number of a place.
        let first = (destination.fingerprint(key) % PLACES as u64) as usize;
        (first..first + WINDOW).filter_map(|place| self.places.get(place % PLACES))
    }

    /// Puts a pool into a place, unless there are too many.
    fn add(&self, pool: Pin<KBox<Pool>>, key: u64) -> Result {
        if self.count.fetch_add(1_u32, Relaxed) < MAX_POOLS {
            let mut pool = Some(pool);
            let window = pool
                .as_ref()
                .map(|pool| self.window(pool.destination(), key));
            for place in window.into_iter().flatten() {
                if let Some(given) = pool.take() {
                    match place.publish(given) {
                        Ok(()) => return Ok(()),
                        Err(back) => pool = Some(back),
                    }
                }
            }
        }
        self.count.fetch_sub(1_u32, Relaxed);
        Err(ENOSPC)
    }
}

impl Pools {
    /// Returns no pools.
    pub(super) const fn new() -> Self {
        Self {
            table: RcuBox::empty(),
            closing: AtomicFlag::new(false),
        }
    }

    /// Returns whether there are no pools. Any context.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Calls `f` with the pool of a destination and a range, if there is one. Any context.
    pub(super) fn with<R>(
        &self,
        destination: &Destination,
        range: PortRange,
        key: u64,
        f: impl FnOnce(&Pool) -> R,
    ) -> Option<R> {
        let guard = rcu::read_lock();
        let table = self.table.get(&guard)?;
        let pool = table
            .get_ref()
            .window(destination, key)
            .filter_map(|place| place.get(&guard))
            .find(|pool| pool.range() == range && pool.destination().is_same(destination))?;
        Some(f(pool.get_ref()))
    }

    /// Calls `f` with each pool of a destination. Any context.
    pub(super) fn for_each_of(&self, destination: &Destination, key: u64, f: impl Fn(&Pool)) {
        let guard = rcu::read_lock();
        let Some(table) = self.table.get(&guard) else {
            return;
        };
        table
            .get_ref()
            .window(destination, key)
            .filter_map(|place| place.get(&guard))
            .filter(|pool| pool.destination().is_same(destination))
            .for_each(|pool| f(pool.get_ref()));
    }

    /// Makes a pool for a destination and a range. Any context.
    ///
    /// Errors: ENOMEM; ENOSPC if there are as many as allowed.
    pub(super) fn make(&self, destination: &Destination, range: PortRange, key: u64) -> Result {
        let guard = rcu::read_lock();
        if self.closing.load(Acquire) {
            return Err(ENOSPC);
        }
        if self.table.get(&guard).is_none() {
            // Another CPU may be faster.
            let _ = self.table.publish(Table::new()?);
        }
        let table = self.table.get(&guard).ok_or(ENOMEM)?;
        table
            .get_ref()
            .add(Pool::new(destination.copy(), range)?, key)
    }

    /// Ends the making of pools.
    pub(super) fn close(&self) {
        self.closing.store(true, Release);
    }

    /// Frees all pools, a grace period after [`close`](Self::close).
    pub(super) fn free(&self, context: &mut ProcessContext) {
        if let Some(table) = self.table.retract() {
            free_after_grace_period(core::iter::once(table), context);
        }
    }

    /// Looks after the pools. Only one thread does that at a time. Returns whether there are any.
    ///
    /// `claims` knows of ports that were freed before there was a pool.
    pub(super) fn maintain(
        &self,
        net: &Net,
        claims: &Claims,
        context: &mut ProcessContext,
    ) -> Result<bool> {
        if self.is_empty() {
            return Ok(false);
        }
        let mut suspects = Suspects::new()?;
        for place in 0..PLACES {
            self.audit(net, claims, place, &mut suspects, context);
        }
        let mut gone = KVec::new();
        {
            let guard = rcu::read_lock();
            let Some(table) = self.table.get(&guard) else {
                return Ok(false);
            };
            for place in table.get_ref().places.iter() {
                if place.get(&guard).is_some_and(|pool| pool.turn()) {
                    // One that finds no room here goes the next time.
                    if gone.reserve(1, GFP_ATOMIC).is_ok() {
                        if let Some(retired) = place.retract() {
                            table.count.fetch_sub(1_u32, Relaxed);
                            let _ = gone.push_within_capacity(retired);
                        }
                    }
                }
            }
        }
        if !gone.is_empty() {
            free_after_grace_period(gone.into_iter(), context);
        }
        let left = {
            let guard = rcu::read_lock();
            let table = self.table.get(&guard);
            table.is_some_and(|table| table.count.load(Relaxed) > 0)
        };
        if !left {
            // A pool that is made in this very moment goes with its table; the next flow makes another one.
            self.free(context);
        }
        Ok(left)
    }

    /// Audits the pool at a place, part by part.
    fn audit(
        &self,
        net: &Net,
        claims: &Claims,
        place: usize,
        suspects: &mut Suspects,
        context: &mut ProcessContext,
    ) {
        let with_pool = |f: &mut dyn FnMut(&Pool)| {
            let guard = rcu::read_lock();
            let table = self.table.get(&guard)?;
            let pool = table.get_ref().places.get(place)?.get(&guard)?;
            f(pool.get_ref());
            Some(())
        };
        let mut part = None;
        let _ = with_pool(&mut |pool| part = pool.needs_audit().then_some(0));
        while let Some(now) = part.take() {
            suspects.clear();
            let _ = with_pool(&mut |pool| part = pool.audit(net, claims, now, suspects));
            if suspects.wait(context) {
                let _ = with_pool(&mut |pool| pool.acquit(net, suspects));
            }
        }
    }
}
