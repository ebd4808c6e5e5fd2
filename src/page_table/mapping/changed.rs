//! Results of a change: stale translations and unlinked tables.

use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Chain;
use crate::retire::Retired;

/// The translations made stale and the tables unlinked by a change.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The first to the last page with a changed translation or an unlinked table, to be flushed
    /// from TLBs and paging-structure caches.
    pub stale: Option<Pages>,
    /// The level of the smallest changed leaf: pages of its size cover `stale`.
    pub smallest: Level,
    /// Number of changed 4 KiB pages.
    pub pages: u64,
    /// Unlinked tables, and owned frames of leaves.
    pub retired: Retired,
}

impl Changed {
    pub(crate) const NOTHING: Changed =
        Changed { stale: None, smallest: Level::GIANT, pages: 0, retired: Retired::NOTHING };

    /// Returns the change of a move: all of `from` has gone elsewhere, and leaves have replaced
    /// `tables` there.
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

    /// Notes the unlinking of the table of `part`, which maps nothing.
    pub(in crate::page_table) fn note_table(&mut self, part: Pages) {
        self.note(part, Level::PAGE);
    }

    /// Notes changed leaves of `level` in `part`: `pages` pages of 4 KiB.
    #[inline]
    pub(in crate::page_table) fn note_leaves(&mut self, part: Pages, level: Level, pages: u64) {
        self.pages += pages;
        self.note(part, level);
    }
}
