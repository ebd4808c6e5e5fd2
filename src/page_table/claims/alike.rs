//! Ranges of whole directory entries with equal contents: vacant, or a single mark. A large region
//! without a used page is mapped, changed and unmapped in such ranges.

use super::claim::LOWEST_CLAIMED;
use super::cursor::{Cursor, Held};
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry, RegionId};
use crate::page_table::format::level::Pages;
use crate::page_table::rewrite::Found;
use crate::page_table::tables::memory::TableMemory;
use crate::page_table::tables::table::TableEntry;

/// Claimed entries of a directory with equal contents, neither leaves nor tables.
#[derive(Clone, Copy)]
pub(in crate::page_table) struct Alike<'a> {
    entries: &'a [TableEntry],
    /// The region of the pages; `None` if the entries are vacant.
    region: Option<RegionId>,
}

impl<'a, F: Format, M: TableMemory> Cursor<'a, F, M> {
    /// Returns the cursor's entries if `pages` fills them and their contents are equal.
    #[inline]
    pub(in crate::page_table) fn alike(&self, pages: Pages) -> Option<Alike<'a>> {
        let Held::Entries(entries) = self.held else { return None };
        if self.level != LOWEST_CLAIMED || !pages.fill_entries(LOWEST_CLAIMED) {
            return None;
        }
        let first = entries.first()?.load();
        let region = match F::decode(first.unclaimed::<F>(), LOWEST_CLAIMED) {
            Entry::Empty => None,
            Entry::Mark(region) => Some(region),
            Entry::Leaf(_) | Entry::Table(_) => return None,
        };
        let alike = entries.iter().all(|entry| entry.load() == first);
        alike.then_some(Alike { entries, region })
    }
}

impl Alike<'_> {
    pub(in crate::page_table) fn region(&self) -> Option<RegionId> {
        self.region
    }

    pub(in crate::page_table) fn found(&self) -> Found {
        self.region.map_or(Found::Vacant, Found::Reserved)
    }

    /// Stores `new`, neither a table nor a leaf, in all entries. The claims stay.
    pub(in crate::page_table) fn become_all<F: Format>(&self, new: RawEntry) {
        // The hardware marks no entry not present, and no other context changes claimed entries.
        self.entries.iter().for_each(|entry| entry.store(new.claimed::<F>()));
    }
}
