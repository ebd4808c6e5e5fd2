//! Many changes, one wait.

use crate::{Invalidation, PageRange, Scope, Tables};

/// How many separate ranges a batch keeps apart.
const RANGES: usize = 8;

/// Invalidations of one domain collected while its page tables are changed, to be issued
/// together: one round of interrupts and one wait.
///
/// Ranges that touch become one. A batch of more separate ranges than eight becomes one of the
/// whole domain. About 200 bytes, no heap.
#[must_use = "a batch that is not issued invalidates nothing"]
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    ranges: [Option<PageRange>; RANGES],
    len: usize,
    /// Wider than ranges: takes their place.
    whole: Option<Scope>,
    tables: Tables,
}

impl Batch {
    /// A batch without changes.
    pub const fn new() -> Batch {
        Batch { ranges: [None; RANGES], len: 0, whole: None, tables: Tables::Kept }
    }

    /// Adds one change. Costs at most a comparison with each range so far.
    pub fn add(&mut self, invalidation: Invalidation) {
        if invalidation.tables == Tables::Freed {
            self.tables = Tables::Freed;
        }
        self.whole = match (invalidation.scope, self.whole) {
            (Scope::Everything, _) | (_, Some(Scope::Everything)) => Some(Scope::Everything),
            (Scope::NonGlobal, Some(Scope::NonGlobal)) => Some(Scope::NonGlobal),
            (Scope::NonGlobal, None) if self.len == 0 => Some(Scope::NonGlobal),
            (Scope::Pages(range), None) if self.add_range(range) => None,
            // Two kinds, one of them perhaps of global pages; or too many ranges.
            _ => Some(Scope::Domain),
        };
    }

    /// Did the range find a place?
    fn add_range(&mut self, range: PageRange) -> bool {
        for known in self.ranges[..self.len].iter_mut().flatten() {
            if let Some(merged) = known.merge(range) {
                *known = merged;
                return true;
            }
        }
        let Some(free) = self.ranges.get_mut(self.len) else { return false };
        *free = Some(range);
        self.len += 1;
        true
    }

    /// Has nothing been added?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && self.whole.is_none()
    }

    /// Were page-table pages unlinked by any of the changes?
    #[must_use]
    pub const fn tables(&self) -> Tables {
        self.tables
    }

    pub(crate) const fn whole(&self) -> Option<Scope> {
        self.whole
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = PageRange> {
        self.ranges[..self.len].iter().filter_map(|range| *range)
    }

    /// How many ranges [`Batch::ranges`] yields.
    pub(crate) const fn len(&self) -> usize {
        self.len
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
        assert_eq!((batch.len(), batch.whole()), (1, None));
        assert_eq!(batch.ranges().next().map(PageRange::pages), Some(64));
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
        (0..8).for_each(|number| batch.add(page(number * 2)));
        assert_eq!((batch.len(), batch.whole()), (8, None));
        batch.add(page(100));
        assert_eq!(batch.whole(), Some(Scope::Domain));
    }
}
