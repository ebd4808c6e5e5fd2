//! What is done where memory is short.

use topomem_numa::frames::{AllocError, Obstacle};
use topomem_percpu::CpuPin;

use super::MemoryService;
use crate::Machine;
use crate::address_space::Collected;
use crate::budget::Budget;

/// What one allocation does at most, in frames freed: about a millisecond. It may be an interrupt
/// handler's.
const LIMIT: u64 = 1 << 15;

/// What is done before the allocation is tried again.
const AT_ONCE: u64 = 1 << 12;

/// How often an allocation looks whether CPUs that it waits for have answered, and how many turns of
/// a spin loop apart. They may be waiting for the context that this one interrupted: then it gives up.
const LOOKS: u32 = 64;
const TURNS: u32 = 64;

/// Returns whether `error` says that there is no frame.
fn is_short(error: &AllocError) -> bool {
    matches!(error, AllocError::Exhausted { .. } | AllocError::WouldBlock { .. })
}

/// Returns `error` as it is said if more memory is to come: it is worth while to try again.
fn with_more_to_come(error: AllocError) -> AllocError {
    match error {
        AllocError::Exhausted { node, order, .. } => {
            AllocError::WouldBlock { node, order, why: Obstacle::Reclaim }
        }
        other => other,
    }
}

impl<P: Machine> MemoryService<P> {
    /// Has failed for want of memory: frees what can be freed, step by step, until `attempt` succeeds
    /// or nothing more can be had. `error` is the first failure; what is no want of memory comes back
    /// at once.
    ///
    /// Calls nothing foreign, waits for no context that it may have interrupted, and does a bounded
    /// amount of work; what is left is noted for the service task, and the error says that more may
    /// come.
    #[cold]
    pub(crate) fn relieve<T>(
        &self,
        pin: &CpuPin,
        error: AllocError,
        mut attempt: impl FnMut() -> Result<T, AllocError>,
    ) -> Result<T, AllocError> {
        if !is_short(&error) {
            return Err(error);
        }
        // Callbacks may come due, and there may be more to do than this does.
        self.note_work(pin);
        self.frames.service(pin);
        let mut last = error;
        let mut budget = Budget::of(LIMIT);
        let mut waiting = false;
        let steps: [fn(&Self, &CpuPin, &mut Budget) -> Collected; 5] =
            [Self::collect, Self::reap, Self::flush_ranges, Self::reclaim_objects, Self::reclaim_tables];
        for step in steps {
            loop {
                let done = budget.within(AT_ONCE, |budget| step(self, pin, budget));
                if done.freed > 0 {
                    match attempt() {
                        Err(error) if is_short(&error) => last = error,
                        outcome => return outcome,
                    }
                }
                if budget.is_spent() {
                    return Err(with_more_to_come(last));
                }
                if !done.more {
                    waiting |= done.waiting;
                    break;
                }
            }
        }
        for _ in 0..LOOKS {
            if !waiting || budget.is_spent() {
                break;
            }
            (0..TURNS).for_each(|_| self.platform.relax());
            let done = self.collect(pin, &mut budget);
            waiting = done.waiting;
            if done.freed > 0 {
                match attempt() {
                    Err(error) if is_short(&error) => last = error,
                    outcome => return outcome,
                }
            }
        }
        Err(if waiting { with_more_to_come(last) } else { last })
    }

    /// Frees what has retired in any space, as far as `budget` goes.
    pub(super) fn collect(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let flushed = self.kernel_ranges().map(|ranges| ranges.collect_flushed(pin, budget));
        let collected = self.for_each_space(budget, |space, budget| space.collect(pin, budget));
        collected.and(flushed.unwrap_or(Collected::NOTHING))
    }

    /// Unmaps ranges of kernel addresses that were freed, and frees those that every CPU has forgotten.
    fn flush_ranges(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let Some(ranges) = self.kernel_ranges() else { return Collected::NOTHING };
        let flushed = ranges.flush_within(pin, budget);
        flushed.and(ranges.collect_flushed(pin, budget))
    }

    /// Frees what the heap holds in reserve; other CPUs do so when they are next about.
    fn reclaim_objects(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        // An allocation of the heap's own may have led here: `reclaim` is made for that.
        let freed = self.heap().map_or(0, |heap| heap.heap().reclaim(pin));
        budget.spend(freed);
        Collected { freed, ..Collected::NOTHING }
    }

    /// Frees what is kept for later use, as far as `budget` goes.
    pub(super) fn reclaim(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let flushed = self.flush_ranges(pin, budget);
        flushed.and(self.reclaim_objects(pin, budget)).and(self.reclaim_tables(pin, budget))
    }

    /// Frees empty page tables of any space, as far as `budget` goes.
    fn reclaim_tables(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        self.for_each_space(budget, |space, budget| space.reclaim_tables(pin, budget))
    }
}
