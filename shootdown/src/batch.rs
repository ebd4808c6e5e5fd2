//! Many changes, one wait.

use arrayvec::ArrayVec;

use crate::{Invalidation, PageRange, Scope, Tables};

/// How many separate ranges a batch keeps apart: half of what a domain's log holds.
const RANGES: usize = 16;

/// Invalidations of one domain collected while its page tables are changed, to be issued
/// together: one round of interrupts and one wait.
///
/// A range that touches the one before it becomes one with it. A batch of more than sixteen
/// ranges that don't touch becomes one of the whole domain. About 400 bytes, no heap.
#[must_use = "a batch that is not issued invalidates nothing"]
#[derive(Clone, Debug)]
pub struct Batch {
    ranges: ArrayVec<PageRange, RANGES>,
    /// Wider than ranges: takes their place.
    whole: Option<Scope>,
    tables: Tables,
}

impl Batch {
    /// A batch without changes.
    #[inline]
    pub const fn new() -> Batch {
        Batch { ranges: ArrayVec::new_const(), whole: None, tables: Tables::Kept }
    }

    /// Adds one change. Costs a comparison with the last range, and one with each where the
    /// batch is full.
    #[inline]
    pub fn add(&mut self, invalidation: Invalidation) {
        if invalidation.tables == Tables::Freed {
            self.tables = Tables::Freed;
        }
        self.whole = match (invalidation.scope, self.whole) {
            (Scope::Everything, _) | (_, Some(Scope::Everything)) => Some(Scope::Everything),
            (Scope::NonGlobal, Some(Scope::NonGlobal)) => Some(Scope::NonGlobal),
            (Scope::NonGlobal, None) if self.ranges.is_empty() => Some(Scope::NonGlobal),
            (Scope::Pages(range), None) if self.add_range(range) => None,
            // Two kinds, one of them perhaps of global pages; or too many ranges.
            _ => Some(Scope::Domain),
        };
    }

    /// Did the range find a place?
    #[inline]
    fn add_range(&mut self, range: PageRange) -> bool {
        if let Some(last) = self.ranges.last_mut()
            && last.touches(range)
            && let Some(merged) = last.merge(range)
        {
            *last = merged;
            return true;
        }
        self.ranges.try_push(range).is_ok() || self.merge_range(range)
    }

    #[cold]
    fn merge_range(&mut self, range: PageRange) -> bool {
        let merged = self.ranges.iter_mut().find_map(|known| {
            *known = known.merge(range)?;
            Some(())
        });
        merged.is_some()
    }

    /// Forgets what was added.
    #[inline]
    pub fn clear(&mut self) {
        self.ranges.clear();
        (self.whole, self.tables) = (None, Tables::Kept);
    }

    /// Has nothing been added?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.whole.is_none()
    }

    /// Were page-table pages unlinked by any of the changes?
    #[must_use]
    pub const fn tables(&self) -> Tables {
        self.tables
    }

    pub(crate) const fn whole(&self) -> Option<Scope> {
        self.whole
    }

    pub(crate) fn ranges(&self) -> &[PageRange] {
        &self.ranges
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::{PageSize, VirtAddr};

    fn page(number: u64) -> Invalidation {
        Invalidation::page(VirtAddr::new_truncate(number << 12), PageSize::Size4KiB)
    }

    #[test]
    fn neighbours_become_one_range() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        (0..64).for_each(|number| batch.add(page(number)));
        assert_eq!((batch.ranges().len(), batch.whole()), (1, None));
        assert_eq!(batch.ranges().first().map(|range| range.pages()), Some(64));
    }

    #[test]
    fn wider_scopes_swallow_ranges() {
        let mut batch = Batch::new();
        batch.add(Invalidation::non_global());
        assert_eq!(batch.whole(), Some(Scope::NonGlobal));
        batch.add(page(1));
        assert_eq!(batch.whole(), Some(Scope::Domain), "the page may be global");
        batch.add(Invalidation::everything());
        batch.add(page(3).with_tables_freed());
        assert_eq!((batch.whole(), batch.tables()), (Some(Scope::Everything), Tables::Freed));
    }

    #[test]
    fn too_many_ranges_are_the_domain() {
        let mut batch = Batch::new();
        let many = RANGES as u64;
        (0..many).for_each(|number| batch.add(page(number * 2)));
        batch.add(page(1));
        assert_eq!((batch.ranges().len(), batch.whole()), (RANGES, None), "the last touches the first");
        batch.add(page(100));
        assert_eq!(batch.whole(), Some(Scope::Domain));
    }
}
