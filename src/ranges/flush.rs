//! Unmapping freed ranges, many with one round of interrupts.

use topomem_percpu::CpuPin;
use topomem_shootdown::Request;

use super::node::NodeNumber;
use super::{Inside, KernelRanges};
use crate::Machine;
use crate::address_space::{Collected, record_change};
use crate::budget::Budget;
use crate::fault::Fault;
use crate::page_table::Changed;
use crate::retire::Retired;

/// How many batches wait for other CPUs at most.
const BATCHES: usize = 8;

/// What a flush has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// How many 4 KiB frames it freed.
    pub frames: u64,
    /// Do ranges wait for CPUs that have not answered yet, or were they in use by another context? Then a later call
    /// frees more.
    pub waiting: bool,
}

/// Unmapped ranges whose invalidation is not complete everywhere.
struct Batch {
    request: Request,
    retired: Retired,
    /// The first of its nodes, which leads to the others.
    nodes: Option<NodeNumber>,
}

/// What was unmapped and waits, and what was taken off the list of freed ranges to be unmapped.
pub(super) struct Retiring {
    batches: [Option<Batch>; BATCHES],
    taken: Option<NodeNumber>,
}

impl Retiring {
    pub fn new() -> Retiring {
        Retiring { batches: [const { None }; BATCHES], taken: None }
    }

    fn is_waiting(&self) -> bool {
        self.taken.is_some() || self.batches.iter().any(Option::is_some)
    }
}

impl<P: Machine> KernelRanges<P> {
    /// Unmaps all freed ranges, with one round of interrupts, and frees the frames and addresses of those that every
    /// CPU has forgotten. Waits for no CPU: what waits for one is freed by a later call, by
    /// [`MemoryService::tend`](crate::MemoryService::tend), or where memory runs short.
    ///
    /// In any context. Costs a claim of each 2 MiB that freed ranges touch.
    pub fn flush(&self, pin: &CpuPin) -> Flushed {
        let mut budget = Budget::unlimited();
        let unmapped = self.flush_within(pin, &mut budget);
        // This CPU may be the only one.
        let freed = self.collect_flushed(pin, &mut budget);
        Flushed { frames: unmapped.freed + freed.freed, waiting: freed.waiting | freed.more }
    }

    /// Unmaps freed ranges if so many pages of them wait that they are wanted back.
    pub(crate) fn flush_if_many(&self, pin: &CpuPin) {
        if self.freed.pages() >= self.lazy_pages {
            let _ = self.flush_within(pin, &mut Budget::unlimited());
        }
    }

    /// Frees what is complete and unmaps freed ranges, as far as `budget` goes.
    pub(crate) fn flush_within(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let collected = self.collect_flushed(pin, budget);
        collected.and(self.unmap_freed(pin, budget))
    }

    /// Frees frames and addresses of ranges that every CPU has forgotten, as far as `budget` goes.
    ///
    /// Also for contexts that interrupted another use on the same CPU: what is in use is left alone.
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
            let done = |batch: &mut Batch| shootdown.is_done(self.core.domain(), batch.request);
            let Some(mut batch) = place.take_if(done) else { continue };
            let frames = self.service.frames();
            // SAFETY: the request that named the pages is done.
            collected.freed +=
                unsafe { batch.retired.free_within(frames, self.service.walks(), pin, budget) };
            self.release_all(&inside, &mut batch.nodes);
            if !batch.retired.is_empty() || batch.nodes.is_some() {
                // The budget is spent, a software walk may still read tables, or the lock was taken.
                *place = Some(batch);
            }
        }
        collected.more |= budget.is_spent() && retiring.is_waiting();
        collected.waiting |= retiring.is_waiting();
        collected
    }

    /// Gives the addresses of listed nodes back to the arena; those that are left stay listed.
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

    /// Unmaps freed ranges as far as `budget` goes, and tells the TLBs.
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
            // All of its addresses: so tables that only it has used go, too.
            let Some(range) = Self::range(node.first(), node.count()) else { break };
            let record = |changed: &mut Changed| record_change(&mut records, range, changed);
            if self.core.clear(pin, range, &mut changed, record).is_err() {
                // There is no frame for a table to cut a leaf: the next flush tries again.
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
            if self.service.broken(Fault::RangesReusedEarly) {
                self.release_all(&inside, &mut unmapped);
            }
            retiring.batches[place] = Some(Batch { request, retired, nodes: unmapped });
        }
        Collected { freed: 0, more, waiting: retiring.is_waiting() }
    }
}
