//! Finding free pages for a region that may be anywhere.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::attributes::Region;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Level, Pages};

/// At which pages a range may begin: those that leave `rest` when divided by `of`, a power of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alignment {
    of: u64,
    rest: u64,
}

impl Alignment {
    /// That of `region`, which is `count` pages long: so that large pages have room in it. Others of 2 MiB or
    /// more are aligned, too: then they are whole entries of directories until they are used.
    pub fn for_region(region: Region, count: u64) -> Alignment {
        let level = region.largest_level().max(Level::HUGE);
        Alignment { of: if count < level.pages() { 1 } else { level.pages() }, rest: 0 }
    }

    /// That of `region`, which is moved from `page`: so that large pages need not be cut.
    pub fn like(page: u64, region: Region) -> Alignment {
        let of = region.largest_level().pages();
        Alignment { of, rest: page % of }
    }

    /// Returns the last page at or below `page` that is aligned so.
    fn at_or_below(self, page: u64) -> Option<u64> {
        page.checked_sub(page.wrapping_sub(self.rest) & (self.of - 1))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Calls `take` with free ranges of `count` pages, aligned as `alignment` says, until it takes one, which is returned: first with
    /// those of the CPU's own part of the space, from the top down, then with those below all parts.
    /// `take` returns `Err(None)` if the range is not free any more.
    ///
    /// A CPU begins below the last region that it placed, or above a region that was unmapped there since,
    /// so that most searches look at as many entries as the region will have.
    pub(super) fn place<E>(
        &self,
        pin: &CpuPin,
        count: u64,
        alignment: Alignment,
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
            if let Some(taken) = self.place_within(pin, within, count, alignment, &mut take)? {
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
        alignment: Alignment,
        take: &mut impl FnMut(Pages) -> Result<(), Option<E>>,
    ) -> Result<Option<Pages>, E> {
        let mut end = within.last + 1;
        // Mostly the first range is free, and to look first would read its entries twice.
        let mut was_taken = false;
        while end >= within.first + count {
            let first = alignment.at_or_below(end - count).filter(|&first| first >= within.first);
            let Some(first) = first else { break };
            let pages = Pages { first, last: first + count - 1 };
            if was_taken && let Some(taken) = self.last_taken(pin, pages) {
                end = taken;
                continue;
            }
            match take(pages) {
                Ok(()) => return Ok(Some(pages)),
                // What is there is seen the next time; so it is if another context was faster.
                Err(None) => was_taken = true,
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
