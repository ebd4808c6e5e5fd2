//! Batches: many changes, one round of interrupts, one wait.

use core::fmt;

use arrayvec::ArrayVec;
use topomem_percpu::CpuPin;

use super::handler::Appended;
use crate::domain::{Domain, Kind};
use crate::{Generation, Invalidation, PageRange, Request, Scope, Shootdown, Tables, Ticket, Tlb};

/// Greatest number of separate ranges kept by a batch for the issuing CPU's own flush.
const RANGES: usize = 16;

/// Changes of a single domain announced together: one round of interrupts and one wait.
///
/// [`Batch::record`] records each change in the domain's log while the change's page-table claim is
/// held. A change in an open batch therefore counts as made: tickets of later changes wait for it
/// if they have to. The members are told when the batch is issued.
///
/// A batch takes about 350 bytes, and no heap.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
/// use topomem_shootdown::{Domain, Invalidation, PageSize, Shootdown, Tlb, VirtAddr};
/// # use topomem_percpu::Platform;
///
/// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
/// static SPACE: Domain = Domain::new();
///
/// let pin = QUEUE.tlb().pin();
/// let mut batch = QUEUE.batch(&SPACE);
/// for page in [0x1000, 0x5000] {
///     // ... unmap the page, and record the change with its entry still locked ...
///     batch.record(Invalidation::page(VirtAddr::new(page)?, PageSize::Size4KiB));
/// }
/// batch.issue(&pin).wait(&pin);
/// # Ok::<(), topomem_shootdown::NonCanonical>(())
/// ```
#[must_use = "CPUs are told of the changes when the batch is issued"]
pub struct Batch<'s, T: Tlb> {
    queue: &'s Shootdown<T>,
    domain: &'s Domain,
    /// The recorded ranges, for the flush of the issuing CPU. A range adjacent to the last range
    /// extends it. `None` if the ranges exceed the capacity, if a scope without a range was
    /// recorded, or if another CPU's generation lies between.
    ranges: Option<ArrayVec<PageRange, RANGES>>,
    /// Number of generations claimed.
    generations: u64,
    /// The newest claimed generation.
    newest: Generation,
    /// The newest claimed generation with freed tables.
    freed: Generation,
    /// The newest generation of foreign changes awaited by the ticket.
    awaited: Generation,
    /// True after a change of [`Scope::Everything`]. Later changes are then recorded as everything,
    /// too.
    everything: bool,
}

impl<T: Tlb> Shootdown<T> {
    /// Returns an empty batch for changes of `domain`.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::{Invalidation, PageRange, PageSize, VirtAddr};
    ///
    /// let mut batch = QUEUE.batch(&SPACE);
    /// for page in [0x1000, 0x8000] {
    ///     // The kernel has cleared the page's entry.
    ///     let page = PageRange::page(VirtAddr::new_truncate(page), PageSize::Size4KiB);
    ///     batch.record(Invalidation::pages(page));
    /// }
    /// batch.issue(&pin).wait(&pin); // one round of interrupts
    /// ```
    #[inline]
    pub const fn batch<'s>(&'s self, domain: &'s Domain) -> Batch<'s, T> {
        Batch {
            queue: self,
            domain,
            ranges: Some(ArrayVec::new_const()),
            generations: 0,
            newest: Generation::NONE,
            freed: Generation::NONE,
            awaited: Generation::NONE,
            everything: false,
        }
    }
}

impl<'s, T: Tlb> Batch<'s, T> {
    /// Records a change. The caller has changed the page tables, and still holds the lock
    /// protecting the changed entries from changes by remote CPUs.
    ///
    /// After [`Scope::Everything`], further changes are recorded as everything, too.
    ///
    /// Cost: an atomic add to the domain, the filling of a log entry, and a comparison with the
    /// last range.
    // Always inlined, since the arguments are in registers.
    #[inline(always)]
    pub fn record(&mut self, invalidation: Invalidation) {
        if self.queue.fault.records_at_issue() {
            self.generations += 1;
            // Marks the batch as not empty.
            self.awaited = self.awaited.max(Generation(1));
            return;
        }
        if invalidation.scope == Scope::Everything {
            self.record_everything();
        }
        let scope = if self.everything { Scope::Everything } else { invalidation.scope };
        let generation = self.queue.append(self.domain, scope, invalidation.tables);
        let follows = self.generations == 0 || generation.0 == self.newest.0 + 1;
        self.newest = generation;
        self.generations += 1;
        if invalidation.tables == Tables::Freed {
            self.freed = self.newest;
        }
        let kept = match (scope, &mut self.ranges) {
            (Scope::Pages(range), Some(ranges)) if follows => keep(ranges, range),
            _ => false,
        };
        if !kept {
            self.ranges = None;
        }
    }

    /// Moves the batch to the kernel's domain, in which every CPU flushes everything.
    #[cold]
    fn record_everything(&mut self) {
        if self.everything || self.domain.kind == Kind::Kernel {
            return;
        }
        // A CPU with everything flushed has flushed for the former domain's generations, too.
        (self.everything, self.domain, self.generations) = (true, self.queue.kernel(), 0);
        self.awaited = Generation::NONE;
        if self.freed != Generation::NONE {
            self.freed = self.queue.append(self.domain, Scope::Everything, Tables::Freed);
        }
    }

    /// Notes a change of `range` without anything to change: the ticket waits for the pending
    /// changes of `range`, as the ticket of [`Shootdown::pending_in`] does.
    #[cold]
    pub fn wait_for_pending(&mut self, range: PageRange) {
        let pending = self.domain.log.newest_of(range, self.domain.log.newest());
        self.awaited = pending.unwrap_or(Generation::NONE).max(self.awaited);
    }

    /// Returns whether the batch has recorded nothing, and found nothing pending, since its
    /// creation or last issue.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.newest.0 == Generation::NONE.0 && self.awaited.0 == Generation::NONE.0
    }

    /// Announces all recorded changes with a single round of interrupts and returns their ticket.
    /// The batch is empty afterwards. An empty batch returns a ticket for all pending changes of
    /// the domain.
    #[inline]
    pub fn issue(&mut self, pin: &CpuPin) -> Ticket<'s, T> {
        let (queue, domain) = (self.queue, self.domain);
        if queue.fault.records_at_issue() && self.generations > 0 {
            self.newest = queue.append(domain, Scope::Domain, Tables::Freed);
            (self.generations, self.freed, self.ranges) = (1, self.newest, None);
        }
        if self.newest == Generation::NONE {
            let awaited = core::mem::replace(&mut self.awaited, Generation::NONE);
            let wanted = |newest| if awaited == Generation::NONE { newest } else { awaited };
            return queue.pending_until(pin, domain, |newest| Some(wanted(newest)));
        }
        let request = Request { generation: self.newest.max(self.awaited), tables: self.freed };
        let appended = match &self.ranges {
            // Otherwise the newest generation is a remote CPU's, whose pages need a flush, too.
            Some(ranges) if request.generation == self.newest => Appended::Ranges(ranges),
            _ => Appended::Logged,
        };
        let ticket = queue.issue(pin, domain, request, self.generations, appended);
        self.clear();
        ticket
    }

    #[inline]
    fn clear(&mut self) {
        self.generations = 0;
        (self.newest, self.freed, self.awaited) = (Generation::NONE, Generation::NONE, Generation::NONE);
        match &mut self.ranges {
            Some(ranges) => ranges.clear(),
            None => self.ranges = Some(ArrayVec::new()),
        }
    }
}

/// Adds `range` to `ranges`. Returns false if the array is full.
#[inline]
fn keep(ranges: &mut ArrayVec<PageRange, RANGES>, range: PageRange) -> bool {
    if let Some(last) = ranges.last_mut()
        && let Some(longer) = last.extended_by(range)
    {
        *last = longer;
        return true;
    }
    ranges.try_push(range).is_ok()
}

impl<T: Tlb> fmt::Debug for Batch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("domain", self.domain)
            .field("generations", &self.generations)
            .field("newest", &self.newest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::{PageSize, VirtAddr};

    fn page(number: u64) -> PageRange {
        PageRange::page(VirtAddr::new_truncate(number << 12), PageSize::Size4KiB)
    }

    #[test]
    fn neighbours_become_one_range() {
        let mut ranges = ArrayVec::new();
        assert!((0..64).all(|number| keep(&mut ranges, page(number))));
        assert_eq!((ranges.len(), ranges.first().map(|range| range.pages())), (1, Some(64)));
    }

    #[test]
    fn ranges_are_bounded() {
        let mut ranges = ArrayVec::new();
        assert!((0..RANGES as u64).all(|number| keep(&mut ranges, page(number * 2))));
        assert!(keep(&mut ranges, page(2 * RANGES as u64 - 1)), "it follows the last");
        assert!(!keep(&mut ranges, page(100)));
    }
}
