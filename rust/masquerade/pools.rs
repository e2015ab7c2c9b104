// SPDX-License-Identifier: GPL-2.0

//! The pools of a namespace.
//!
//! There is none until a destination is crowded. Then one is made for it, where the flow waits, without sleeping; a
//! worker lets it know of the flows that were there before, and looks after it.

use super::{
    claims::Claims,
    per_net::State,
    pool::{
        Destination,
        Pool,
        Suspects, //
    },
    port_set::PortSet, //
};
use crate::net::{
    namespace::Net,
    parameters::pools_max,
    proc::{
        NetFile,
        NetFileContent, //
    },
    rcu::{
        free_after_grace_period,
        RcuBox, //
    },
    ProcessContext, //
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
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

/// The number of places where a pool may be, from that which its destination points to.
const WINDOW: usize = 8;

/// Returns the number of places for as many pools: more, so that a pool finds one near that which its destination points to.
///
/// It is a power of two, and at least as large as the window.
fn places_for(pools: u32) -> usize {
    // CAST: The parameter is at most 1,024.
    let pools = pools as usize;
    pools
        .saturating_mul(2)
        .checked_next_power_of_two()
        .map_or(WINDOW, |places| places.max(WINDOW))
}

/// The pools of a namespace.
pub(super) struct Pools {
    table: RcuBox<Table>,
    /// The most pools that there have been at a time.
    most: Atomic<u32>,
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
        let count = places_for(pools_max());
        let mut places = KVec::with_capacity(count, flags)?;
        for _ in 0..count {
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
        // CAST: The number of a place is in the low bits.
        let first = destination.fingerprint(key) as usize;
        // The number of places is a power of two.
        let mask = self.places.len().wrapping_sub(1);
        (0..WINDOW).filter_map(move |n| self.places.get(first.wrapping_add(n) & mask))
    }

    /// Puts a pool into a place, unless there are too many. Returns how many there are now.
    fn add(&self, pool: Pin<KBox<Pool>>, key: u64) -> Result<u32> {
        let before = self.count.fetch_add(1_u32, Relaxed);
        if before < pools_max() {
            let mut pool = Some(pool);
            let window = pool
                .as_ref()
                .map(|pool| self.window(pool.destination(), key));
            for place in window.into_iter().flatten() {
                if let Some(given) = pool.take() {
                    match place.publish(given) {
                        Ok(()) => return Ok(before + 1),
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
            most: Atomic::new(0),
            closing: AtomicFlag::new(false),
        }
    }

    /// Returns whether there are no pools. Any context.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Calls `f` with the pool of a destination and a set of ports, if there is one. Any context.
    pub(super) fn with<R>(
        &self,
        destination: &Destination,
        set: &PortSet<'_>,
        key: u64,
        f: impl FnOnce(&Pool) -> R,
    ) -> Option<R> {
        let guard = rcu::read_lock();
        let table = self.table.get(&guard)?;
        let pool = table
            .get_ref()
            .window(destination, key)
            .filter_map(|place| place.get(&guard))
            .find(|pool| pool.set().is_same(set) && pool.destination().is_same(destination))?;
        Some(f(pool.get_ref()))
    }

    /// Returns whether there may be a pool of a destination: one that is near its place. Any context.
    pub(super) fn may_have(&self, destination: &Destination, key: u64) -> bool {
        let guard = rcu::read_lock();
        self.table.get(&guard).is_some_and(|table| {
            let mut places = table.get_ref().window(destination, key);
            places.any(|place| !place.is_empty())
        })
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

    /// Makes a pool for a destination and a set of ports. Any context.
    ///
    /// Errors: ENOMEM; ENOSPC if there are as many as allowed.
    pub(super) fn make(&self, destination: &Destination, set: PortSet<'_>, key: u64) -> Result {
        let guard = rcu::read_lock();
        if self.closing.load(Acquire) || pools_max() == 0 {
            return Err(ENOSPC);
        }
        if self.table.get(&guard).is_none() {
            // Another CPU may be faster.
            let _ = self.table.publish(Table::new()?);
        }
        let table = self.table.get(&guard).ok_or(ENOMEM)?;
        let count = table
            .get_ref()
            .add(Pool::new(destination.copy(), set.to_owned())?, key)?;
        self.note(count);
        Ok(())
    }

    /// Notes how many pools there are.
    fn note(&self, count: u32) {
        let mut most = self.most.load(Relaxed);
        while most < count {
            match self.most.cmpxchg(most, count, Relaxed) {
                Ok(_) => break,
                Err(other) => most = other,
            }
        }
    }

    /// Returns how many pools there are, and how many there have been at most. Any context.
    pub(super) fn numbers(&self) -> (u32, u32) {
        let mut count = 0;
        self.for_each(|_| count += 1);
        (count, self.most.load(Relaxed))
    }

    /// Calls `f` with each pool, under the RCU read lock. Any context.
    fn for_each(&self, f: impl FnMut(&Pool)) {
        let guard = rcu::read_lock();
        let Some(table) = self.table.get(&guard) else {
            return;
        };
        table
            .get_ref()
            .places
            .iter()
            .filter_map(|place| place.get(&guard))
            .map(|pool| pool.get_ref())
            .for_each(f);
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
        let places = {
            let guard = rcu::read_lock();
            self.table
                .get(&guard)
                .map_or(0, |table| table.get_ref().places.len())
        };
        for place in 0..places {
            self.audit(net, claims, place, &mut suspects, context);
        }
        let mut gone = KVec::new();
        {
            let guard = rcu::read_lock();
            let Some(table) = self.table.get(&guard) else {
                return Ok(false);
            };
            for place in table.get_ref().places.iter() {
                if place.get(&guard).is_some_and(|pool| pool.turn(net)) {
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

/// The file `/proc/net/rustmasq_pools`.
pub(super) static FILE: NetFile<PoolsFile> = NetFile::new();

/// The content of `/proc/net/rustmasq_pools`.
pub(super) struct PoolsFile;

impl NetFileContent for PoolsFile {
    const NAME: &'static CStr = c"rustmasq_pools";
    /// It tells who is talked to, as conntrack's table does.
    const MODE: u16 = 0o440;

    fn print(net: &Net, file: &SeqFile, _: u64) {
        if let Some(state) = State::of(net) {
            state.pools.for_each(|pool| pool.print(file));
        }
    }
}

#[kunit_tests(rustmasq_pools)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twice_as_many_places_as_pools() {
        let places = [0, 1, 4, 5, 256, 1000, 1024].map(places_for);
        assert_eq!(places, [8, 8, 8, 16, 512, 2048, 2048]);
    }
}
