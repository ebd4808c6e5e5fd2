//! Statistics and consistency checks of ranges.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::VirtAddr;

use super::KernelRanges;
use super::node::State;
use crate::Machine;
use crate::page_table::Level;

/// Number of pages of a stretch examined.
const LOOKS: usize = 1 << 20;

/// Counts of a service's ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangesStats {
    /// Ranges in use.
    pub live: u64,
    /// Pages of ranges in use.
    pub live_pages: u64,
    /// Pages of freed ranges still mapped.
    pub freed_pages: u64,
    /// Pages of vacant addresses; `None` if another context holds the lock for long.
    pub vacant_pages: Option<u64>,
}

/// A contradiction found by [`KernelRanges::validate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeCorruption {
    /// The lists of addresses contradict each other.
    Addresses,
    /// A page of a range is unmapped, or a page of a vacant stretch or a guard is mapped.
    Mapping {
        /// The page.
        page: VirtAddr,
    },
    /// The count of live ranges differs from the number of ranges found.
    Count {
        /// The count.
        counted: u64,
        /// The number found.
        found: u64,
    },
    /// Another context uses ranges meanwhile.
    Busy,
}

impl fmt::Display for RangeCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeCorruption::Addresses => f.write_str("the lists of addresses contradict each other"),
            RangeCorruption::Mapping { page } => write!(f, "the mapping of {page} is wrong"),
            RangeCorruption::Count { counted, found } => {
                write!(f, "{counted} ranges are counted, and {found} found")
            }
            RangeCorruption::Busy => f.write_str("ranges are in use"),
        }
    }
}

impl core::error::Error for RangeCorruption {}

impl<P: Machine> KernelRanges<P> {
    /// Returns counts of the ranges.
    #[must_use]
    pub fn stats(&self) -> RangesStats {
        let vacant_pages = self.arena.try_lock().map(|arena| arena.vacant());
        // Relaxed: counts, each true at some instant.
        RangesStats {
            live: self.live.load(Ordering::Relaxed),
            live_pages: self.live_pages.load(Ordering::Relaxed),
            freed_pages: self.freed.pages(),
            vacant_pages,
        }
    }

    /// Checks addresses, nodes and mappings against each other: each page of a range must be
    /// mapped, and neither its guard nor a vacant page may be. For tests: looks at each page mapped
    /// now or earlier.
    ///
    /// # Errors
    ///
    /// Returns the first [`RangeCorruption`] found. Other contexts must not use ranges meanwhile.
    pub fn validate(&self, pin: &CpuPin) -> Result<(), RangeCorruption> {
        let inside = self.enter(pin).ok_or(RangeCorruption::Busy)?;
        let arena = self.arena(&inside).map_err(|_| RangeCorruption::Busy)?;
        if !arena.is_consistent(&self.nodes, self.bounds.first, self.bounds.count() - 1) {
            return Err(RangeCorruption::Addresses);
        }
        let frames = self.service.frames();
        let is_mapped =
            |page: u64| self.core.table.walk(frames, &self.service.walks().enter(pin), page).is_some();
        let mut found = 0;
        let mut next = arena.lowest();
        while let Some(node) = next.and_then(|number| self.nodes.find(number)) {
            next = node.after.get();
            let mapped = match node.state() {
                State::Live => {
                    found += 1;
                    node.start()..node.start() + node.mapped()
                }
                State::Vacant | State::Spare => 0..0,
                // Another context's; or mapped or not, depending on the progress of a flush.
                State::Held | State::Freed => continue,
            };
            // A vacant stretch may be long: check its beginning, and the beginnings of tables.
            let step = if mapped.is_empty() { Level::HUGE.pages() as usize } else { 1 };
            let mut pages = (node.first()..node.first() + node.count()).step_by(step).take(LOOKS);
            if let Some(page) = pages.find(|page| is_mapped(*page) != mapped.contains(page)) {
                return Err(RangeCorruption::Mapping { page: VirtAddr::new_truncate(page << 12) });
            }
        }
        let counted = self.live.load(Ordering::Relaxed);
        if counted == found { Ok(()) } else { Err(RangeCorruption::Count { counted, found }) }
    }
}
