// SPDX-License-Identifier: GPL-2.0

//! Counters that each CPU has of its own.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use super::rcu::ReadLocked;
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    cpu::nr_cpu_ids,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    task::might_sleep, //
};

/// The names of a set of counters.
pub(crate) trait CounterName: Copy + Send + Sync + 'static {
    /// The number of counters.
    const COUNT: usize;

    /// Returns the counter's index, which is less than `COUNT`.
    fn index(self) -> usize;
}

/// A set of counters. To count costs no lock, no atomic instruction, and no cache line that CPUs share.
///
/// # Invariants
///
/// `memory` is 0, or memory for `C::COUNT` words of each CPU, which RCU readers may use. `closed` is 0, or such memory that
/// belongs to the value alone as soon as a grace period has passed.
pub(crate) struct PerCpuCounters<C> {
    memory: Atomic<usize>,
    closed: Atomic<usize>,
    names: PhantomData<C>,
}

impl<C: CounterName> PerCpuCounters<C> {
    /// Returns counters that are 0.
    ///
    /// Errors: ENOMEM. Process context.
    pub(crate) fn new() -> Result<Self> {
        might_sleep();
        // SAFETY: The function takes no pointers. It may sleep here.
        let memory = unsafe { bindings::rustmasq_alloc_percpu_u64(C::COUNT) };
        if memory == 0 {
            return Err(ENOMEM);
        }
        // INVARIANT: The memory has just been allocated.
        Ok(Self {
            memory: Atomic::new(memory),
            closed: Atomic::new(0),
            names: PhantomData,
        })
    }

    /// Adds a number to a counter, unless the counters are closed. Any context.
    #[inline(always)]
    pub(crate) fn add(&self, counter: C, number: u64, _reader: &impl ReadLocked) {
        let (memory, index) = (self.memory.load(Relaxed), counter.index());
        if index < C::COUNT && memory != 0 {
            // SAFETY: By the type's invariant there is a word with this index for each CPU, which stays as long as the
            // reader holds the RCU read lock. `this_cpu_add` is safe against preemption and interrupts.
            unsafe { bindings::rustmasq_this_cpu_add_u64(memory, index, number) };
        }
    }

    /// Returns the sum of a counter over all CPUs, which may count meanwhile; 0 if the counters are closed. Any context.
    pub(crate) fn sum(&self, counter: C, _reader: &impl ReadLocked) -> u64 {
        let (memory, index) = (self.memory.load(Relaxed), counter.index());
        if index >= C::COUNT || memory == 0 {
            return 0;
        }
        (0..nr_cpu_ids())
            // SAFETY: The function reads a bit of a mask that has as many.
            .filter(|cpu| unsafe { bindings::rustmasq_cpu_possible(*cpu) })
            // SAFETY: By the type's invariant there is a word with this index for each possible CPU, which stays as
            // long as the reader holds the RCU read lock. It is read once.
            .map(|cpu| unsafe { bindings::rustmasq_per_cpu_u64(memory, index, cpu) })
            .fold(0, u64::wrapping_add)
    }
}

impl<C> PerCpuCounters<C> {
    /// Ends the counting. Any context.
    pub(super) fn close(&self) {
        let memory = self.memory.xchg(0, Full);
        if memory != 0 {
            // INVARIANT: Who begins to read from now on finds no memory.
            self.closed.store(memory, Relaxed);
        }
    }

    /// Frees the memory.
    ///
    /// # Safety
    ///
    /// A grace period must have passed since [`close`](Self::close).
    pub(super) unsafe fn free(&self) {
        // SAFETY: By the type's invariant, and because the caller guarantees a grace period, the memory is ours alone; or
        // it is 0, for which the function does nothing.
        unsafe { bindings::rustmasq_free_percpu(self.closed.xchg(0, Full)) };
    }
}

impl<C> Drop for PerCpuCounters<C> {
    fn drop(&mut self) {
        self.close();
        // SAFETY: Nobody borrows the value, so nobody reads the counters.
        unsafe { self.free() };
    }
}

#[kunit_tests(rustmasq_percpu)]
mod tests {
    use super::*;
    use kernel::sync::rcu;

    #[derive(Clone, Copy)]
    struct Number(usize);

    impl CounterName for Number {
        const COUNT: usize = 3;

        fn index(self) -> usize {
            self.0
        }
    }

    fn sums(counters: &PerCpuCounters<Number>) -> [u64; 4] {
        let guard = rcu::read_lock();
        [0, 1, 2, 3].map(|index| counters.sum(Number(index), &guard))
    }

    #[test]
    fn each_counter_counts_for_itself() -> Result {
        let counters = PerCpuCounters::new()?;
        let guard = rcu::read_lock();
        for index in [1, 2, 1, 1] {
            counters.add(Number(index), 1, &guard);
        }
        assert_eq!(sums(&counters), [0, 3, 1, 0]);
        Ok(())
    }

    #[test]
    fn an_index_beyond_the_last_is_ignored() -> Result {
        let counters = PerCpuCounters::new()?;
        let guard = rcu::read_lock();
        counters.add(Number(3), 1, &guard);
        assert_eq!(sums(&counters), [0; 4]);
        Ok(())
    }

    #[test]
    fn closed_counters_do_not_count() -> Result {
        let counters = PerCpuCounters::new()?;
        let guard = rcu::read_lock();
        counters.add(Number(0), 1, &guard);
        counters.close();
        counters.add(Number(0), 1, &guard);
        assert_eq!(sums(&counters), [0; 4]);
        Ok(())
    }
}
