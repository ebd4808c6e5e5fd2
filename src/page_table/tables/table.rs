//! Page-table pages.

use core::fmt;
use core::ops::RangeInclusive;

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::page_table::format::entry::RawEntry;
use crate::page_table::format::level::ENTRIES;

/// Number of entries examined together by [`Table::used`]: a cache line.
const GROUP: usize = 8;

/// An entry, read and written by the hardware at any time.
#[repr(transparent)]
pub(in crate::page_table) struct TableEntry(AtomicU64);

impl TableEntry {
    #[inline]
    pub(in crate::page_table) fn load(&self) -> RawEntry {
        // Acquire pairs with the Release of `store`, `swap` and `compare_exchange`: a reader of a
        // table's address sees the entries written before the table was linked.
        RawEntry(self.0.load(Ordering::Acquire))
    }

    /// Loads the entry, ordered after the claims made by this CPU.
    #[inline]
    pub(in crate::page_table) fn load_ordered(&self) -> RawEntry {
        // loom orders SeqCst accesses as AcqRel accesses.
        #[cfg(loom)]
        topomem_percpu::sync::atomic::fence(Ordering::SeqCst);
        // SeqCst pairs with the SeqCst of `compare_exchange`; Acquire as in `load`.
        RawEntry(self.0.load(Ordering::SeqCst))
    }

    /// Publishes an entry in place of an entry the hardware cannot be changing.
    #[inline]
    pub(in crate::page_table) fn store(&self, entry: RawEntry) {
        self.0.store(entry.0, Ordering::Release);
    }

    /// Replaces the entry, and returns the old contents, with all marks set by the hardware until
    /// then.
    #[inline]
    pub(in crate::page_table) fn swap(&self, entry: RawEntry) -> RawEntry {
        // Acquire as in `load`, Release as in `store`.
        RawEntry(self.0.swap(entry.0, Ordering::AcqRel))
    }

    /// Replaces `current`. Returns the present contents if the hardware (or, for an empty entry,
    /// another cursor) has changed the entry.
    #[inline]
    pub(in crate::page_table) fn compare_exchange(
        &self,
        current: RawEntry,
        new: RawEntry,
    ) -> Result<(), RawEntry> {
        // Acquire as in `load`, Release as in `store`; SeqCst besides, for claims: see
        // `load_ordered`.
        let outcome = self.0.compare_exchange(current.0, new.0, Ordering::SeqCst, Ordering::Acquire);
        outcome.map(drop).map_err(RawEntry)
    }

    /// Clears `bits` of the entry.
    #[inline]
    pub(in crate::page_table) fn clear_bits(&self, bits: u64) {
        // Release pairs with the Acquire in `compare_exchange` of the next claimant.
        self.0.fetch_and(!bits, Ordering::Release);
    }
}

/// 512 entries.
#[repr(C, align(4096))]
pub(crate) struct Table {
    entries: [TableEntry; ENTRIES],
}

impl Table {
    /// Returns an empty table (loom's atomics cannot be made by zeroing memory).
    #[cfg(all(test, loom))]
    pub(in crate::page_table) fn new() -> Table {
        Table { entries: core::array::from_fn(|_| TableEntry(AtomicU64::new(0))) }
    }

    /// Returns entry `index`, below 512.
    #[inline]
    pub(in crate::page_table) fn entry(&self, index: usize) -> &TableEntry {
        &self.entries[index]
    }

    /// Returns entries `first..=last`, below 512.
    #[inline]
    pub(in crate::page_table) fn entries(&self, first: usize, last: usize) -> &[TableEntry] {
        &self.entries[first..=last]
    }

    /// Returns the indexes in `range` of entries in use or claimed. Each entry is loaded with
    /// [`TableEntry::load_ordered`] after its predecessors are done with.
    #[inline]
    pub(in crate::page_table) fn used(&self, range: RangeInclusive<usize>) -> impl Iterator<Item = usize> {
        let (mut index, last) = range.into_inner();
        core::iter::from_fn(move || {
            while index <= last {
                let here = index;
                // Most tables above the lowest are nearly empty.
                if here.is_multiple_of(GROUP)
                    && let Some(group) = self.entries[here..=last].first_chunk::<GROUP>()
                    && group.iter().fold(0, |bits, entry| bits | entry.load_ordered().0) == RawEntry::EMPTY.0
                {
                    index += GROUP;
                    continue;
                }
                index += 1;
                if self.entries[here].load_ordered() != RawEntry::EMPTY {
                    return Some(here);
                }
            }
            None
        })
    }

    /// Loads an entry with [`TableEntry::load`].
    #[inline]
    pub(in crate::page_table) fn load(&self, index: usize) -> RawEntry {
        self.entries[index].load()
    }

    /// Stores to an entry with [`TableEntry::store`].
    #[inline]
    pub(in crate::page_table) fn store(&self, index: usize, entry: RawEntry) {
        self.entries[index].store(entry);
    }

    /// Exchanges an entry with [`TableEntry::compare_exchange`].
    #[inline]
    pub(in crate::page_table) fn compare_exchange(
        &self,
        index: usize,
        current: RawEntry,
        new: RawEntry,
    ) -> Result<(), RawEntry> {
        self.entries[index].compare_exchange(current, new)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
