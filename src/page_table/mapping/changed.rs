//! What a change of a page table has made stale, and what it has unlinked.

use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Chain;
use crate::retire::Retired;

/// What a change made stale, and what it unlinked.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The first to the last page whose translation changed or whose table was unlinked: what
    /// TLBs and paging-structure caches must forget.
    pub stale: Option<Pages>,
    /// The level of the smallest leaf that changed: pages of its size cover `stale`.
    pub smallest: Level,
    /// How many 4 KiB pages changed.
    pub pages: u64,
    /// Unlinked tables, and owned frames of leaves.
    pub retired: Retired,
}

impl Changed {
    pub const NOTHING: Changed =
        Changed { stale: None, smallest: Level::GIANT, pages: 0, retired: Retired::NOTHING };

    /// All of `from` has gone elsewhere, and leaves took the place of `tables` there.
    pub(in crate::page_table) fn moved(from: Pages, tables: Chain) -> Changed {
        let mut changed = Changed { retired: Retired::tables(tables), ..Changed::NOTHING };
        changed.note(from, Level::PAGE);
        changed
    }

    #[inline]
    pub(super) fn note(&mut self, part: Pages, level: Level) {
        self.smallest = self.smallest.min(level);
        self.stale = Some(match self.stale {
            None => part,
            Some(stale) => Pages { first: stale.first.min(part.first), last: stale.last.max(part.last) },
        });
    }

    /// The table of `part`, which maps nothing, was unlinked.
    pub(in crate::page_table) fn note_table(&mut self, part: Pages) {
        self.note(part, Level::PAGE);
    }

    /// Leaves of `level` changed in `part`: `pages` pages of 4 KiB of it.
    #[inline]
    pub(in crate::page_table) fn note_leaves(&mut self, part: Pages, level: Level, pages: u64) {
        self.pages += pages;
        self.note(part, level);
    }
}
