//! Finding free pages for a region that may be anywhere.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::Pages;

impl<P: Machine> AddressSpace<P> {
    /// Calls `take` with free ranges of `count` pages until it takes one, which is returned: first with
    /// those of the CPU's own part of the space, from the top down, then with those below all parts.
    /// `take` returns `Err(None)` if the range is not free any more.
    ///
    /// A CPU begins below the last region that it placed, or above a region that was unmapped there since,
    /// so that most searches look at as many entries as the region will have.
    pub(super) fn place<E>(
        &self,
        pin: &CpuPin,
        count: u64,
        mut take: impl FnMut(Pages) -> Result<(), Option<E>>,
    ) -> Result<Option<Pages>, E> {
        let core = self.core();
        let cpu = pin.cpu().index().min(core.per_cpu.len() - 1);
        let part = core.layout.part(cpu);
        let below = &core.of_cpu(pin).search_below;
        // Relaxed here and below: a hint.
        let hint = below.load(Ordering::Relaxed);
        let from = if (part.first + count..=part.last + 1).contains(&hint) { hint } else { part.last + 1 };
        let parts = [
            Pages { first: part.first, last: from - 1 },
            part,
            core.layout.common(core.per_cpu.len(), core.bounds),
        ];
        for within in parts {
            if let Some(taken) = self.place_within(pin, within, count, &mut take)? {
                if within.last <= part.last && within.first >= part.first {
                    below.store(taken.first, Ordering::Relaxed);
                }
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// As [`AddressSpace::place`], with the ranges in `within`, from the top down.
    fn place_within<E>(
        &self,
        pin: &CpuPin,
        within: Pages,
        count: u64,
        take: &mut impl FnMut(Pages) -> Result<(), Option<E>>,
    ) -> Result<Option<Pages>, E> {
        let mut end = within.last + 1;
        while end >= within.first + count {
            let pages = Pages { first: end - count, last: end - 1 };
            if let Some(taken) = self.last_taken(pin, pages) {
                end = taken;
                continue;
            }
            match take(pages) {
                Ok(()) => return Ok(Some(pages)),
                // Another context was faster: it is seen the next time.
                Err(None) => {}
                Err(Some(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The first page of the last entry in `pages` that is not vacant.
    pub(super) fn last_taken(&self, pin: &CpuPin, pages: Pages) -> Option<u64> {
        let core = self.core();
        let walk = core.service.walks().enter(pin);
        core.table.last_taken(core.service.frames(), &walk, pages)
    }

    /// Notes that `pages` are free: the next search of the CPU in whose part they lie begins above them.
    pub(super) fn note_free(&self, pages: Pages) {
        let core = self.core();
        let Some(cpu) = core.layout.part_of(pages.last).filter(|&cpu| cpu < core.per_cpu.len()) else {
            return;
        };
        let below = &core.per_cpu[cpu].search_below;
        // Relaxed: a hint. It is written only if it changes, since it may be another CPU's.
        if below.load(Ordering::Relaxed) < pages.last + 1 && below.load(Ordering::Relaxed) != 0 {
            below.store(pages.last + 1, Ordering::Relaxed);
        }
    }
}
