//! Reclaiming memory of a space: empty tables, and everything of an abandoned space.

pub(super) mod close;
pub(super) mod retired;

use ::core::ops::Range;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::Invalidation;

use crate::Machine;
use crate::address_space::change::invalidation_of;
use crate::address_space::core::SpaceCore;
use crate::address_space::layout::range_of;
use crate::address_space::reclaim::retired::Collected;
use crate::budget::Budget;
use crate::page_table::{Chain, Changed, Dismantled, Forgotten, Pages, Swept, Users};
use crate::retire::{Parked, Retired};

impl<P: Machine> SpaceCore<P> {
    /// Frees empty tables, as far as `budget` allows. The next call continues from the end of this
    /// one.
    ///
    /// Also for contexts in the middle of an interrupted use of the space on the same CPU: parts in
    /// use are skipped.
    pub(crate) fn reclaim_tables(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let swept = budget.within_half(|budget| self.sweep(pin, budget));
        let collected = self.collect(pin, budget);
        let Swept { next, skipped } = swept;
        collected.and(Collected { freed: 0, more: next.is_some(), waiting: skipped })
    }

    /// Unlinks empty tables, as far as `budget` allows, and retires them.
    fn sweep(&self, pin: &CpuPin, budget: &mut Budget) -> Swept {
        // Relaxed, here and below: hints, harmless with any value.
        if !self.emptied.load(Ordering::Relaxed) || !self.may_retire() {
            return Swept { next: None, skipped: false };
        }
        let first = self.sweep_from.load(Ordering::Relaxed);
        if first == self.bounds.first {
            // This sweep may miss tables emptied from here on.
            self.emptied.store(false, Ordering::Relaxed);
        }
        let spared = self.spared_tables();
        let retire = |changed| self.retire_tables(pin, changed);
        let mut sweep = |first, last| match first <= last {
            true => {
                let tables = self.service.tables(pin);
                self.table.reclaim(tables, Pages { first, last }, budget, retire)
            }
            false => Swept { next: None, skipped: false },
        };
        let mut swept = sweep(first, self.bounds.last.min(spared.start.saturating_sub(1)));
        if swept.next.is_none() {
            let behind = sweep(first.max(spared.end), self.bounds.last);
            swept = Swept { next: behind.next, skipped: swept.skipped | behind.skipped };
        }
        self.sweep_from.store(swept.next.unwrap_or(self.bounds.first), Ordering::Relaxed);
        if swept.next.is_some() || swept.skipped {
            self.note_emptied();
        }
        swept
    }

    /// Keeps the empty tables of `pages` linked from now on: later mappings need not wait for page
    /// walkers still finding an unlinked table. Called once, with nothing unlinked in `pages` so
    /// far.
    pub(crate) fn spare_tables(&self, pages: Pages) {
        // Relaxed: a sweep not yet seeing the pages finds no empty table, since nothing was mapped
        // before. A context mapping a page knows of them.
        self.spared_tables[1].store(pages.last + 1, Ordering::Relaxed);
        self.spared_tables[0].store(pages.first, Ordering::Relaxed);
    }

    fn spared_tables(&self) -> Range<u64> {
        let [start, end] = [0, 1].map(|index| self.spared_tables[index].load(Ordering::Relaxed));
        start..end
    }

    /// Returns whether page walkers may still find a table unlinked as empty, instead of the
    /// present mappings in `pages`.
    pub(crate) fn may_have_unlinked(&self, pages: Pages) -> bool {
        let spared = self.spared_tables();
        self.has_unlinked() && !(spared.start <= pages.first && pages.last < spared.end)
    }

    /// Returns whether page walkers may still find a table unlinked as empty, instead of later
    /// mappings in its place.
    pub(crate) fn has_unlinked(&self) -> bool {
        // Acquire pairs with the Release in `collect`. A mapping context had the claim after the
        // unlinking context, and therefore sees the count.
        self.unlinked.load(Ordering::Acquire) != 0
    }

    /// Announces and retires the tables in `changed`, without waiting.
    fn retire_tables(&self, pin: &CpuPin, changed: Changed) {
        if let Some(invalidation) = invalidation_of(&changed) {
            // Relaxed: the held claim orders the addition.
            self.unlinked.fetch_add(1, Ordering::Relaxed);
            self.retire(pin, invalidation, changed.retired, 1);
        }
    }

    /// Announces `invalidation`, and parks the frames waiting for it.
    fn retire(&self, pin: &CpuPin, invalidation: Invalidation, retired: Retired, unlinked: u32) {
        let ticket = self.service.shootdown().invalidate(pin, self.domain(), invalidation);
        self.park(Parked { request: Some(ticket.detach()), retired, unlinked, ..Parked::NOTHING });
    }

    /// Returns whether this context may lock the retire list: it may have interrupted a holder.
    fn may_retire(&self) -> bool {
        self.retired.try_lock().is_some()
    }

    /// Dismantles an abandoned space and frees its memory, as far as `budget` allows, if no CPU
    /// uses its mappings.
    ///
    /// A lazy CPU keeps only the root. The leaves are unmapped, which waits for no lazy CPU, and
    /// the tables are freed after the CPU's answer.
    pub(crate) fn take_apart(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let outcome = budget.within_half(|budget| self.dismantle(pin, budget));
        let (more, waiting) = (outcome == Dismantled::Part, outcome == Dismantled::InUse);
        self.collect(pin, budget).and(Collected { freed: 0, more, waiting })
    }

    /// Unmaps and retires the memory of an abandoned space, as far as `budget` allows.
    fn dismantle(&self, pin: &CpuPin, budget: &mut Budget) -> Dismantled {
        // Relaxed: the word tells how much work is left, and claims follow.
        if self.dismantled.load(Ordering::Relaxed) {
            return Dismantled::Whole;
        }
        // No CPU joins the space any more, so an idle space stays idle.
        let idle = self.domain().is_idle();
        if !idle && !self.service.shootdown().is_dormant(self.domain()) {
            // Nothing to do before a CPU leaves the space and notes its departure.
            return Dismantled::Whole;
        }
        if !self.may_retire() {
            return Dismantled::InUse;
        }
        let mut changed = Changed::NOTHING;
        let frames = self.service.frames();
        let forgotten = |pages, level| {
            let invalidation = Invalidation::pages(range_of(pages, level));
            let mut ticket = self.service.shootdown().invalidate(pin, self.domain(), invalidation);
            // Lazy CPUs flush the pages before using the space again. The ticket is therefore
            // complete, unless one of them is leaving laziness.
            let complete = ticket.is_complete();
            let _ = ticket.detach();
            if complete { Forgotten::Yes } else { Forgotten::No }
        };
        let users = if idle { Users::None } else { Users::Lazy(forgotten) };
        let outcome = self.table.dismantle(frames, self.service.programs(), budget, &mut changed, users);
        let Changed { mut retired, stale, smallest, .. } = changed;
        match stale {
            // No TLB, no page walker and no handle has the space.
            _ if idle => self.park(Parked { retired, ..Parked::NOTHING }),
            Some(stale) => {
                let tables = ::core::mem::replace(&mut retired.tables, Chain::EMPTY);
                let range = range_of(stale, smallest);
                self.retire(pin, Invalidation::pages(range), retired, 0);
                if !tables.is_empty() {
                    let invalidation = Invalidation::pages(range).with_tables_freed();
                    self.retire(pin, invalidation, Retired::tables(tables), 0);
                }
            }
            None => {}
        }
        let outcome = match outcome {
            // The pages are gone, and the retire list waits for the announcements above.
            Dismantled::Whole if self.table.has_records() && self.records.forget_all(budget) => {
                Dismantled::Part
            }
            outcome => outcome,
        };
        if outcome == Dismantled::Whole {
            // Release pairs with the Acquire in `free_abandoned_if`.
            self.dismantled.store(true, Ordering::Release);
        }
        outcome
    }
}
