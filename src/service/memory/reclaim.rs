//! Freeing memory when memory is short.

use topomem_numa::frames::{AllocError, Obstacle};
use topomem_percpu::CpuPin;

use crate::Machine;
use crate::address_space::Collected;
use crate::budget::Budget;
use crate::service::MemoryService;

/// Greatest work of a single allocation, in freed frames: about a millisecond. The allocation may
/// be an interrupt handler's.
const LIMIT: u64 = 1 << 15;

/// Work done before the next attempt of the allocation.
const AT_ONCE: u64 = 1 << 12;

/// Number of looks at awaited CPUs by an allocation, and of turns of a spin loop between two looks.
/// The CPUs may be waiting for the context interrupted by this one; the allocation therefore gives
/// up.
const LOOKS: u32 = 64;
const TURNS: u32 = 64;

/// Returns whether `error` says that there is no frame.
pub(in crate::service) fn is_short(error: &AllocError) -> bool {
    matches!(error, AllocError::Exhausted { .. } | AllocError::WouldBlock { .. })
}

/// Returns the error for a case with more memory to come, and another attempt worthwhile.
fn with_more_to_come(error: AllocError) -> AllocError {
    match error {
        AllocError::Exhausted { node, order, .. } => {
            AllocError::WouldBlock { node, order, why: Obstacle::Reclaim }
        }
        other => other,
    }
}

impl<P: Machine> MemoryService<P> {
    /// Frees memory, step by step, until `attempt` succeeds or nothing more can be freed. `error`
    /// is the first failure; an error other than a lack of memory is returned at once.
    ///
    /// Calls no foreign code, waits for no interrupted context, and does a bounded amount of work.
    /// The rest is noted for the service task, and the returned error means that more may come.
    #[cold]
    pub(crate) fn reclaim_and_retry<T>(
        &self,
        pin: &CpuPin,
        error: AllocError,
        mut attempt: impl FnMut() -> Result<T, AllocError>,
    ) -> Result<T, AllocError> {
        if !is_short(&error) {
            return Err(error);
        }
        // Callbacks may become due, and more work may be left.
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

    /// Frees retired frames of all spaces, as far as `budget` allows.
    pub(in crate::service) fn collect(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let flushed = self.kernel_ranges().map(|ranges| ranges.collect_flushed(pin, budget));
        let collected = self.for_each_space(budget, |space, budget| space.collect(pin, budget));
        collected.and(flushed.unwrap_or(Collected::NOTHING))
    }

    /// Unmaps ranges of kernel addresses that were freed, and frees those that every CPU has forgotten.
    pub(super) fn flush_ranges(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let Some(ranges) = self.kernel_ranges() else { return Collected::NOTHING };
        let flushed = ranges.flush_within(pin, budget);
        flushed.and(ranges.collect_flushed(pin, budget))
    }

    /// Frees the reserves of the heap; another CPU frees its own with its next pending work.
    pub(super) fn reclaim_objects(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        // An allocation of the heap's own may have led here: `reclaim` is made for that.
        let freed = self.heap().map_or(0, |heap| heap.heap().reclaim(pin));
        budget.spend(freed);
        Collected { freed, ..Collected::NOTHING }
    }

    /// Frees reserves, as far as `budget` allows.
    pub(in crate::service) fn reclaim(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let flushed = self.flush_ranges(pin, budget);
        flushed.and(self.reclaim_objects(pin, budget)).and(self.reclaim_tables(pin, budget))
    }

    /// Frees empty page tables of any space, as far as `budget` goes.
    pub(in crate::service) fn reclaim_tables(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        self.for_each_space(budget, |space, budget| space.reclaim_tables(pin, budget))
    }
}
