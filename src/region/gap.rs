//! Searching free pages for a region without a fixed place.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::attributes::Region;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Level, Pages};

/// The alignment of a range's first page: its number modulo `of`, a power of two, is `rest`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alignment {
    of: u64,
    rest: u64,
}

impl Alignment {
    /// Returns the alignment of `region`, `count` pages long, giving room for large pages. Other
    /// regions of 2 MiB or more are aligned, too: they are whole entries of directories until they
    /// are used.
    pub(super) fn for_region(region: Region, count: u64) -> Alignment {
        let level = region.largest_level().max(Level::HUGE);
        Alignment { of: if count < level.pages() { 1 } else { level.pages() }, rest: 0 }
    }

    /// Returns the alignment of `region`, moved from `page`, to keep large pages whole.
    pub(super) fn like(page: u64, region: Region) -> Alignment {
        let of = region.largest_level().pages();
        Alignment { of, rest: page % of }
    }

    /// Returns the last aligned page at or below `page`.
    fn at_or_below(self, page: u64) -> Option<u64> {
        page.checked_sub(page.wrapping_sub(self.rest) & (self.of - 1))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Calls `take` with free ranges of `count` pages, aligned as `alignment`, until `take` accepts
    /// a range, and returns the range. The search starts with the CPU's own part of the space, from
    /// the top down, and continues below all parts. `take` returns `Err(None)` if the range is not
    /// free any more.
    ///
    /// A CPU begins below its last placed region, or above a region unmapped there since. Most
    /// searches therefore look only at the entries of the new region.
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
        // Relaxed, here and below: a hint.
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

    /// Searches like [`AddressSpace::place`] in `within`, from the top down.
    fn place_within<E>(
        &self,
        pin: &CpuPin,
        within: Pages,
        count: u64,
        alignment: Alignment,
        take: &mut impl FnMut(Pages) -> Result<(), Option<E>>,
    ) -> Result<Option<Pages>, E> {
        let mut end = within.last + 1;
        // The first range is usually free, and a look before would read its entries twice.
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
                // The next look sees the obstacle, even if another context was faster.
                Err(None) => was_taken = true,
                Err(Some(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Returns the first page of the last used entry in `pages`.
    pub(super) fn last_taken(&self, pin: &CpuPin, pages: Pages) -> Option<u64> {
        let core = self.core();
        let walk = core.service.walks().enter(pin);
        core.table.last_taken(core.service.frames(), &walk, pages)
    }

    /// Notes the free `pages`: the next search of the CPU with their part begins above them.
    pub(super) fn note_free(&self, pages: Pages) {
        let core = self.core();
        let Some(cpu) = core.layout.part_of(pages.last).filter(|&cpu| cpu < core.per_cpu.len()) else {
            return;
        };
        let below = &core.per_cpu[cpu].search_below;
        // Relaxed: a hint. Written only on a change, since it may belong to another CPU.
        if below.load(Ordering::Relaxed) < pages.last + 1 && below.load(Ordering::Relaxed) != 0 {
            below.store(pages.last + 1, Ordering::Relaxed);
        }
    }
}
