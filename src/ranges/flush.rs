//! Unmapping freed ranges, many with a single round of interrupts.

use topomem_percpu::CpuPin;
use topomem_shootdown::Request;

use super::node::NodeNumber;
use super::{Inside, KernelRanges};
use crate::Machine;
use crate::address_space::{Collected, record_change};
use crate::budget::Budget;
use crate::page_table::Changed;
use crate::retire::Retired;

/// Greatest number of batches waiting for remote CPUs.
const BATCHES: usize = 8;

/// The result of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Number of 4 KiB frames freed.
    pub frames: u64,
    /// Whether ranges wait for answers of CPUs, or were in use by another context. A later call
    /// then frees more.
    pub waiting: bool,
}

/// Unmapped ranges with an incomplete invalidation.
struct FlushBatch {
    request: Request,
    retired: Retired,
    /// The first of the batch's nodes, linked to the rest.
    nodes: Option<NodeNumber>,
}

/// Unmapped ranges waiting for CPUs, and ranges taken off the list of freed ranges to be unmapped.
pub(super) struct Retiring {
    batches: [Option<FlushBatch>; BATCHES],
    taken: Option<NodeNumber>,
}

impl Retiring {
    pub(super) fn new() -> Retiring {
        Retiring { batches: [const { None }; BATCHES], taken: None }
    }

    fn is_waiting(&self) -> bool {
        self.taken.is_some() || self.batches.iter().any(Option::is_some)
    }
}

impl<P: Machine> KernelRanges<P> {
    /// Unmaps all freed ranges with a single round of interrupts, and frees the frames and
    /// addresses of ranges dropped by every CPU. Waits for no CPU: the rest is freed by a later
    /// call, by [`MemoryService::run_pending_work`](crate::MemoryService::run_pending_work), or when memory runs short.
    ///
    /// Any context may call the function. Cost: a claim of each 2 MiB touched by freed ranges.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// # use topomem::{PageRange, PageSize, VirtAddr, sim::Sim};
    /// # use topomem::ranges::{RangeRequest, RangesConfig};
    /// # let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
    /// # let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
    /// # let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
    /// drop(ranges.allocate(pin, &RangeRequest::pages(4))?);
    /// assert!(ranges.flush(pin).frames >= 4); // a single CPU has nothing to wait for
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn flush(&self, pin: &CpuPin) -> Flushed {
        let mut budget = Budget::unlimited();
        let unmapped = self.flush_within(pin, &mut budget);
        // This CPU may be the only one.
        let freed = self.collect_flushed(pin, &mut budget);
        Flushed { frames: unmapped.freed + freed.freed, waiting: freed.waiting | freed.more }
    }

    /// Unmaps freed ranges if enough of their pages wait.
    pub(crate) fn flush_if_many(&self, pin: &CpuPin) {
        if self.freed.pages() >= self.lazy_pages {
            let _ = self.flush_within(pin, &mut Budget::unlimited());
        }
    }

    /// Frees complete batches and unmaps freed ranges, as far as `budget` allows.
    pub(crate) fn flush_within(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let collected = self.collect_flushed(pin, budget);
        collected.and(self.unmap_freed(pin, budget))
    }

    /// Frees frames and addresses of ranges dropped by every CPU, as far as `budget` allows.
    ///
    /// Also for contexts in the middle of an interrupted use on the same CPU: parts in use are
    /// skipped.
    pub(crate) fn collect_flushed(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let mut collected = Collected::NOTHING;
        let busy = Collected { waiting: true, ..Collected::NOTHING };
        let Some(inside) = self.enter(pin) else { return busy };
        let Some(mut retiring) = self.retiring.try_lock() else { return busy };
        let shootdown = self.service.shootdown();
        for place in &mut retiring.batches {
            if budget.is_spent() {
                break;
            }
            let done = |batch: &mut FlushBatch| shootdown.is_done(self.core.domain(), batch.request);
            let Some(mut batch) = place.take_if(done) else { continue };
            let frames = self.service.frames();
            // SAFETY: the request naming the pages is done.
            collected.freed +=
                unsafe { batch.retired.free_within(frames, self.service.walks(), pin, budget) };
            self.release_all(&inside, &mut batch.nodes);
            if !batch.retired.is_empty() || batch.nodes.is_some() {
                // The budget is spent, a software walk may still read tables, or the lock was
                // taken.
                *place = Some(batch);
            }
        }
        collected.more |= budget.is_spent() && retiring.is_waiting();
        collected.waiting |= retiring.is_waiting();
        collected
    }

    /// Returns the addresses of listed nodes to the arena; remaining nodes stay listed.
    fn release_all(&self, inside: &Inside<'_>, nodes: &mut Option<NodeNumber>) {
        if nodes.is_none() {
            return;
        }
        let Ok(mut arena) = self.arena(inside) else { return };
        while let Some(number) = *nodes {
            *nodes = self.nodes.find(number).and_then(|node| node.next.get());
            arena.release(&self.nodes, number);
        }
    }

    /// Unmaps freed ranges as far as `budget` allows, and announces the change.
    fn unmap_freed(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let busy = Collected { waiting: true, ..Collected::NOTHING };
        let idle = || if self.freed.is_empty() { Collected::NOTHING } else { busy };
        let Some(inside) = self.enter(pin) else { return idle() };
        let Some(mut retiring) = self.retiring.try_lock() else { return idle() };
        let Some(place) = retiring.batches.iter().position(Option::is_none) else { return busy };
        let mut records = self.service.shootdown().batch(self.core.domain());
        let mut changed = Changed::NOTHING;
        let mut unmapped = None;
        while !budget.is_spent() {
            let Some(number) = retiring.taken.or_else(|| self.freed.take()) else { break };
            let Some(node) = self.nodes.find(number) else { break };
            retiring.taken = Some(number);
            // All addresses of the range, so tables used only by the range go, too.
            let Some(range) = Self::range(node.first(), node.count()) else { break };
            let record = |changed: &mut Changed| record_change(&mut records, range, changed);
            if self.core.clear(pin, range, &mut changed, record).is_err() {
                // No frame for a table to cut a leaf: the next flush tries again.
                break;
            }
            budget.spend(node.mapped() + 1);
            self.freed.count_unmapped(node.mapped());
            retiring.taken = node.next.get();
            node.next.set(unmapped);
            unmapped = Some(number);
        }
        let more = retiring.taken.is_some();
        if unmapped.is_some() {
            let request = records.issue(pin).detach();
            let Changed { retired, .. } = changed;
            self.service.fault.keep_addresses(|| self.release_all(&inside, &mut unmapped));
            retiring.batches[place] = Some(FlushBatch { request, retired, nodes: unmapped });
        }
        Collected { freed: 0, more, waiting: retiring.is_waiting() }
    }
}
