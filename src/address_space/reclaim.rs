//! What a space gives back when nobody asks it to: empty tables, and all of an abandoned one.

use ::core::ops::Range;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::Invalidation;

use super::core::{Collected, SpaceCore, invalidation_of};
use super::layout::{lower_half, range_of};
use crate::Machine;
use crate::budget::Budget;
use crate::page_table::{Chain, Changed, Dismantled, Forgotten, Pages, Swept, Users};
use crate::retire::{Parked, Retired};

impl<P: Machine> SpaceCore<P> {
    /// Frees empty tables, as far as `budget` goes. The next call goes on where this one ends.
    ///
    /// Also for contexts that interrupted another use of this space on the same CPU: what is in use
    /// is left alone.
    pub fn reclaim_tables(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let swept = budget.within_half(|budget| self.sweep(pin, budget));
        let collected = self.collect(pin, budget);
        let Swept { next, skipped } = swept;
        collected.and(Collected { freed: 0, more: next.is_some(), waiting: skipped })
    }

    /// Unlinks empty tables, as far as `budget` goes, and retires them.
    fn sweep(&self, pin: &CpuPin, budget: &mut Budget) -> Swept {
        // Relaxed here and below: hints, of which any value does no harm.
        if !self.emptied.load(Ordering::Relaxed) || !self.may_retire() {
            return Swept { next: None, skipped: false };
        }
        let first = self.sweep_from.load(Ordering::Relaxed);
        if first == self.bounds.first {
            // What is emptied from here on, this sweep may miss.
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

    /// Leaves the empty tables of `pages` where they are from here on: what is mapped there need not wait for page
    /// walkers that may find a table which was unlinked. Once, and with nothing unlinked there so far.
    pub fn spare_tables(&self, pages: Pages) {
        // Relaxed: a sweep that does not see them yet finds no table there that is empty: nothing was mapped
        // there. Who maps something knows of them.
        self.spared_tables[1].store(pages.last + 1, Ordering::Relaxed);
        self.spared_tables[0].store(pages.first, Ordering::Relaxed);
    }

    fn spared_tables(&self) -> Range<u64> {
        let [start, end] = [0, 1].map(|index| self.spared_tables[index].load(Ordering::Relaxed));
        start..end
    }

    /// May page walkers still find a table that was unlinked because it was empty, instead of what is
    /// mapped in `pages` now?
    pub fn may_have_unlinked(&self, pages: Pages) -> bool {
        let spared = self.spared_tables();
        self.has_unlinked() && !(spared.start <= pages.first && pages.last < spared.end)
    }

    /// May page walkers still find a table that was unlinked because it was empty, instead of what
    /// has been mapped in its place since?
    pub fn has_unlinked(&self) -> bool {
        // Acquire pairs with the Release in `collect`. Who mapped there had the claim after the
        // one who unlinked, and sees the count.
        self.unlinked.load(Ordering::Acquire) != 0
    }

    /// Announces and retires the tables in `changed`; issues, and waits for nothing.
    fn retire_tables(&self, pin: &CpuPin, changed: Changed) {
        if let Some(invalidation) = invalidation_of(&changed) {
            // Relaxed: the claim that is held orders it.
            self.unlinked.fetch_add(1, Ordering::Relaxed);
            self.retire(pin, invalidation, changed.retired, 1);
        }
    }

    /// Announces `invalidation`, and parks what waits for it.
    fn retire(&self, pin: &CpuPin, invalidation: Invalidation, retired: Retired, unlinked: u32) {
        let ticket = self.service.shootdown().invalidate(pin, self.domain(), invalidation);
        self.park(Parked { request: Some(ticket.detach()), retired, unlinked, ..Parked::NOTHING });
    }

    /// Is the retire list free to be locked in this context, which may have interrupted a holder?
    fn may_retire(&self) -> bool {
        self.retired.try_lock().is_some()
    }

    /// Takes an abandoned space apart and frees what it has, as far as `budget` goes, where no CPU uses
    /// what it maps.
    ///
    /// A CPU that is lazy keeps the root, and nothing else: the leaves are unmapped, which waits for
    /// no lazy CPU, and the tables go once it has answered.
    pub fn take_apart(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let outcome = budget.within_half(|budget| self.dismantle(pin, budget));
        let (more, waiting) = (outcome == Dismantled::Part, outcome == Dismantled::InUse);
        self.collect(pin, budget).and(Collected { freed: 0, more, waiting })
    }

    /// Unmaps and retires what an abandoned space has, as far as `budget` goes.
    fn dismantle(&self, pin: &CpuPin, budget: &mut Budget) -> Dismantled {
        // Relaxed: it says how much is left to do, and is followed by claims.
        if self.dismantled.load(Ordering::Relaxed) {
            return Dismantled::Whole;
        }
        // Nobody joins it any more, so an idle one stays idle.
        let idle = self.domain().is_idle();
        if !idle && !self.service.shootdown().is_dormant(self.domain()) {
            // There is nothing to do before a CPU leaves it, which notes so.
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
            // Lazy CPUs forget the pages before they use the space again; so the ticket is complete, if
            // none of them is ceasing to be lazy.
            let complete = ticket.is_complete();
            let _ = ticket.detach();
            if complete { Forgotten::Yes } else { Forgotten::No }
        };
        let users = if idle { Users::None } else { Users::Lazy(forgotten) };
        let outcome = self.table.dismantle(frames, lower_half::<P::Format>(), budget, &mut changed, users);
        let Changed { mut retired, stale, smallest, .. } = changed;
        match stale {
            // No TLB, no page walker and no handle has it.
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
            // The pages are gone, and what was announced above is waited for by the retire list.
            Dismantled::Whole if self.table.has_records() && self.records.forget_all(budget) => {
                Dismantled::Part
            }
            outcome => outcome,
        };
        if outcome == Dismantled::Whole {
            // Release pairs with the Acquire in `bury`.
            self.dismantled.store(true, Ordering::Release);
        }
        outcome
    }
}
