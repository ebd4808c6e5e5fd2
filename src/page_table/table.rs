//! One page-table page.

use core::fmt;

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use super::entry::RawEntry;
use super::level::ENTRIES;

/// 512 entries, read by the hardware at any time.
#[repr(C, align(4096))]
pub struct Table {
    entries: [AtomicU64; ENTRIES],
}

impl Table {
    /// Entry `index`, below 512.
    pub(super) fn load(&self, index: usize) -> RawEntry {
        // Acquire pairs with the Release of `store`, `swap` and `compare_exchange`: who sees a
        // table's address sees the entries written before it was linked.
        RawEntry(self.entries[index].load(Ordering::Acquire))
    }

    /// Publishes an entry that takes the place of none that the hardware could be changing.
    pub(super) fn store(&self, index: usize, entry: RawEntry) {
        self.entries[index].store(entry.0, Ordering::Release);
    }

    /// Replaces an entry; what the hardware noted in the old one until then comes back.
    pub(super) fn swap(&self, index: usize, entry: RawEntry) -> RawEntry {
        // Acquire as in `load`, Release as in `store`.
        RawEntry(self.entries[index].swap(entry.0, Ordering::AcqRel))
    }

    /// Replaces `current`, unless the hardware (or, for an empty entry, another cursor) has
    /// changed it: then what it is now comes back.
    pub(super) fn compare_exchange(
        &self,
        index: usize,
        current: RawEntry,
        new: RawEntry,
    ) -> Result<(), RawEntry> {
        let outcome =
            self.entries[index].compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Acquire);
        outcome.map(drop).map_err(RawEntry)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
