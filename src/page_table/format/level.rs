//! Levels of a page table, and the indexes in a page number.

use core::fmt;

use topomem_percpu::Order;

/// log2 of a table's entry count: 512 eight-byte entries fill a frame. In loom's models, which
/// explore every interleaving, a table has two entries.
pub(crate) const INDEX_BITS: u32 = if cfg!(loom) { 1 } else { 9 };

/// Number of entries of a table.
pub const ENTRIES: usize = 1 << INDEX_BITS;

/// A page-table level: 1 holds 4 KiB leaves, 2 tables or 2 MiB leaves, 3 tables or 1 GiB leaves.
///
/// ```
/// use topomem::page_table::Level;
///
/// assert_eq!(Level::HUGE.pages(), 512);
/// assert_eq!(Level::HUGE.below(), Some(Level::PAGE));
/// assert_eq!(Level::FOURTH.address_bits(), 48);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// 4 KiB leaves.
    pub const PAGE: Level = Level(1);
    /// Tables of 4 KiB leaves, or 2 MiB leaves.
    pub const HUGE: Level = Level(2);
    /// Tables of 2 MiB leaves, or 1 GiB leaves.
    pub const GIANT: Level = Level(3);
    /// The root of 48-bit addresses.
    pub const FOURTH: Level = Level(4);
    /// The root of 57-bit addresses.
    pub const FIFTH: Level = Level(5);

    /// Returns the number, 1 to 5.
    ///
    /// ```
    /// use topomem::page_table::Level;
    ///
    /// assert_eq!(Level::PAGE.get(), 1);
    /// ```
    #[inline]
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the level of the tables under this level's entries, or `None` for 4 KiB leaves.
    ///
    /// ```
    /// use topomem::page_table::Level;
    ///
    /// assert_eq!(Level::HUGE.below(), Some(Level::PAGE));
    /// assert_eq!(Level::PAGE.below(), None);
    /// ```
    #[must_use]
    #[inline]
    pub const fn below(self) -> Option<Level> {
        if self.0 > 1 { Some(Level(self.0 - 1)) } else { None }
    }

    /// Returns the number of 4 KiB pages covered by an entry of this level.
    ///
    /// ```
    /// use topomem::page_table::Level;
    ///
    /// assert_eq!(Level::HUGE.pages(), 512);
    /// ```
    #[must_use]
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << (INDEX_BITS * (self.0 as u32 - 1))
    }

    /// Returns the order of the frames mapped by a leaf of this level, or `None` above 1 GiB
    /// leaves.
    #[must_use]
    pub const fn order(self) -> Option<Order> {
        Order::new(INDEX_BITS as u8 * (self.0 - 1))
    }

    /// Returns the number of address bits translated by a tree with a root of this level.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        12 + INDEX_BITS * self.0 as u32
    }

    /// Returns the index of the entry serving `page` in a table of this level.
    #[inline]
    pub(crate) const fn index(self, page: u64) -> usize {
        (page >> (INDEX_BITS * (self.0 as u32 - 1))) as usize & (ENTRIES - 1)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

/// Pages `first..=last` by number (address / 4096, sign-extended). The range is inclusive: the last
/// page of the address space needs no special case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pages {
    pub first: u64,
    pub last: u64,
}

impl Pages {
    #[inline]
    pub(crate) const fn count(self) -> u64 {
        self.last - self.first + 1
    }

    /// Returns whether the page numbered `page` is in the range.
    #[inline]
    pub(crate) const fn contain(self, page: u64) -> bool {
        self.first <= page && page <= self.last
    }

    /// Returns whether a single entry of a table at `level` covers the range.
    #[inline]
    pub(crate) const fn within_one_entry(self, level: Level) -> bool {
        (self.first ^ self.last) < level.pages()
    }

    /// Returns whether the range fills every touched entry at `level`.
    #[inline]
    pub(crate) const fn fill_entries(self, level: Level) -> bool {
        (self.first | (self.last + 1)) & (level.pages() - 1) == 0
    }

    /// Returns the indexes of the entries serving the range in a table of `level`.
    #[inline]
    pub(crate) const fn indexes(self, level: Level) -> core::ops::RangeInclusive<usize> {
        level.index(self.first)..=level.index(self.last)
    }

    /// Returns the part under entry `index` of the table of `level` serving the range.
    #[inline]
    pub(crate) const fn under(self, level: Level, index: usize) -> Pages {
        let table = self.first & !(level.pages() * ENTRIES as u64 - 1);
        let first = table + index as u64 * level.pages();
        let last = first + level.pages() - 1;
        Pages {
            first: if first > self.first { first } else { self.first },
            last: if last < self.last { last } else { self.last },
        }
    }

    /// Returns the parts under the first and the last touched entry of a table at `level`; a single
    /// part if both are the same entry.
    #[inline]
    pub(crate) fn ends(self, level: Level) -> impl Iterator<Item = Pages> {
        let below_top = self.first | (level.pages() - 1);
        let first = Pages { first: self.first, last: below_top.min(self.last) };
        let start_of_last = (self.last & !(level.pages() - 1)).max(self.first);
        let last = Pages { first: start_of_last, last: self.last };
        core::iter::once(first).chain((!self.within_one_entry(level)).then_some(last))
    }

    /// Returns the part under each entry of a table at `level`, in order.
    #[inline]
    pub(crate) fn by_entry(self, level: Level) -> impl Iterator<Item = Pages> {
        let span = level.pages();
        let mut next = Some(self.first);
        core::iter::from_fn(move || {
            let first = next?;
            let last = (first | (span - 1)).min(self.last);
            next = if last < self.last { Some(last + 1) } else { None };
            Some(Pages { first, last })
        })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn by_entry_clips_both_ends() {
        let pages = Pages { first: 510, last: 1024 };
        let parts: Vec<(u64, u64)> = pages.by_entry(Level::HUGE).map(|p| (p.first, p.last)).collect();
        assert_eq!(parts, [(510, 511), (512, 1023), (1024, 1024)]);
        assert!(!pages.within_one_entry(Level::HUGE));
        assert!(pages.within_one_entry(Level::GIANT));
    }

    #[test]
    fn the_last_page_of_all_ends() {
        let top = u64::MAX >> 12;
        let pages = Pages { first: top - 1, last: top };
        assert_eq!(pages.by_entry(Level::PAGE).count(), 2);
        assert_eq!(Level::FOURTH.index(top), 511);
    }
}
