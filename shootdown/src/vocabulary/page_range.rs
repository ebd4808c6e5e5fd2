//! Runs of pages of one size.

use core::fmt;

use crate::{PageSize, VirtAddr};

/// Consecutive pages of a single size, at least one, all in the same canonical half.
///
/// ```
/// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
///
/// let range = PageRange::new(VirtAddr::new_truncate(0x4000), 2, PageSize::Size4KiB)?;
/// assert_eq!(range.bytes(), 8192);
/// assert!(range.contains(VirtAddr::new_truncate(0x5fff)));
/// # Ok::<(), topomem_shootdown::PageRangeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: VirtAddr,
    pages: u64,
    size: PageSize,
}

/// The reason why a range is invalid.
///
/// ```
/// use topomem_shootdown::{PageRange, PageRangeError, PageSize, VirtAddr};
///
/// let (start, size) = (VirtAddr::new_truncate(0x1000), PageSize::Size2MiB);
/// assert_eq!(PageRange::new(start, 1, size), Err(PageRangeError::Misaligned { start, size }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PageRangeError {
    /// `start` is not the start of a page of `size`.
    Misaligned {
        /// The refused start.
        start: VirtAddr,
        /// The page size asked for.
        size: PageSize,
    },
    /// The range has no pages.
    Empty,
    /// `pages` pages from `start` leave its canonical half.
    TooLong {
        /// The range's start.
        start: VirtAddr,
        /// The refused length in pages.
        pages: u64,
    },
}

impl fmt::Display for PageRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageRangeError::Misaligned { start, size } => {
                write!(f, "{start} is not aligned to {} bytes", size.bytes())
            }
            PageRangeError::Empty => f.write_str("a range of no pages"),
            PageRangeError::TooLong { start, pages } => {
                write!(f, "{pages} pages from {start} leave its canonical half")
            }
        }
    }
}

impl core::error::Error for PageRangeError {}

impl PageRange {
    /// Returns the range of `pages` pages of `size` from `start`.
    ///
    /// # Errors
    ///
    /// - [`PageRangeError::Misaligned`] if no page of `size` begins at `start`.
    /// - [`PageRangeError::Empty`] if `pages` is 0.
    /// - [`PageRangeError::TooLong`] if the range would leave the canonical half of `start`.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageRangeError, PageSize, VirtAddr};
    ///
    /// let start = VirtAddr::new_truncate(0x4000);
    /// assert!(PageRange::new(start, 1, PageSize::Size4KiB).is_ok());
    /// assert_eq!(PageRange::new(start, 0, PageSize::Size4KiB), Err(PageRangeError::Empty));
    /// assert!(PageRange::new(start, 1, PageSize::Size2MiB).is_err());
    /// ```
    #[inline]
    pub const fn new(start: VirtAddr, pages: u64, size: PageSize) -> Result<PageRange, PageRangeError> {
        if !start.is_aligned(size) {
            return Err(PageRangeError::Misaligned { start, size });
        }
        if pages == 0 {
            return Err(PageRangeError::Empty);
        }
        // The check uses the last byte, not the end: the highest page ends at 2^64.
        let fits = match pages.checked_mul(size.bytes()) {
            Some(bytes) => start.checked_add(bytes - 1).is_some(),
            None => false,
        };
        if fits {
            Ok(PageRange { start, pages, size })
        } else {
            Err(PageRangeError::TooLong { start, pages })
        }
    }

    /// Returns the pages of `size` from the page around `first` to the page around `last`. Returns
    /// `None` if `last` lies below `first` or in the other canonical half.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let (first, last) = (VirtAddr::new_truncate(0x1fff), VirtAddr::new_truncate(0x3000));
    /// let range = PageRange::spanning(first, last, PageSize::Size4KiB);
    /// assert_eq!(range.map(PageRange::pages), Some(3));
    /// ```
    #[inline]
    #[must_use]
    pub const fn spanning(first: VirtAddr, last: VirtAddr, size: PageSize) -> Option<PageRange> {
        let (first, last) = (first.align_down(size).as_u64(), last.as_u64());
        if first > last || (first ^ last) >> 63 != 0 {
            return None;
        }
        let pages = (last - first) / size.bytes() + 1;
        Some(PageRange::from_parts(VirtAddr::new_truncate(first), pages, size))
    }

    /// Returns the range of these words, taken from a range.
    #[inline]
    pub(crate) const fn from_parts(start: VirtAddr, pages: u64, size: PageSize) -> PageRange {
        PageRange { start, pages, size }
    }

    /// Returns the page of `size` around `address`.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let page = PageRange::page(VirtAddr::new_truncate(0x1234), PageSize::Size4KiB);
    /// assert_eq!(page.start().as_u64(), 0x1000);
    /// ```
    #[inline]
    #[must_use]
    pub const fn page(address: VirtAddr, size: PageSize) -> PageRange {
        PageRange { start: address.align_down(size), pages: 1, size }
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// Returns the address of the last byte (the end may be 2^64, beyond every address).
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let range = PageRange::new(VirtAddr::new_truncate(0x4000), 2, PageSize::Size4KiB)?;
    /// assert_eq!((range.start().as_u64(), range.last_byte().as_u64()), (0x4000, 0x5fff));
    /// # Ok::<(), topomem_shootdown::PageRangeError>(())
    /// ```
    #[must_use]
    pub const fn last_byte(self) -> VirtAddr {
        VirtAddr::new_truncate(self.start.as_u64() + (self.bytes() - 1))
    }

    /// Returns the number of pages, at least one.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// Returns the size of each page.
    #[must_use]
    pub const fn size(self) -> PageSize {
        self.size
    }

    /// Returns the length in bytes.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let range = PageRange::new(VirtAddr::new_truncate(0x4000), 2, PageSize::Size4KiB)?;
    /// assert_eq!((range.pages(), range.bytes()), (2, 0x2000));
    /// # Ok::<(), topomem_shootdown::PageRangeError>(())
    /// ```
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.pages * self.size.bytes()
    }

    /// Returns whether the two ranges have a byte in common.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let page = |address| PageRange::page(VirtAddr::new_truncate(address), PageSize::Size4KiB);
    /// let huge = PageRange::page(VirtAddr::new_truncate(0), PageSize::Size2MiB);
    /// assert!(huge.overlaps(page(0x1f_f000)) && !huge.overlaps(page(0x20_0000)));
    /// ```
    #[must_use]
    pub fn overlaps(self, other: PageRange) -> bool {
        self.start <= other.last_byte() && other.start <= self.last_byte()
    }

    /// Returns whether the range contains `address`.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let page = PageRange::page(VirtAddr::new_truncate(0x1000), PageSize::Size4KiB);
    /// assert!(page.contains(VirtAddr::new_truncate(0x1fff)));
    /// ```
    #[must_use]
    pub fn contains(self, address: VirtAddr) -> bool {
        self.start <= address && address <= self.last_byte()
    }

    /// Returns the start of each page, in order.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let range = PageRange::new(VirtAddr::new_truncate(0x4000), 2, PageSize::Size4KiB)?;
    /// assert!(range.iter().map(VirtAddr::as_u64).eq([0x4000, 0x5000]));
    /// # Ok::<(), topomem_shootdown::PageRangeError>(())
    /// ```
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = VirtAddr> {
        let first = self.start.as_u64();
        (0..self.pages).map(move |page| VirtAddr::new_truncate(first + page * self.size.bytes()))
    }

    /// Returns both ranges as one if `next` has pages of the same size and begins at the end of
    /// this range.
    #[inline]
    pub(crate) fn extended_by(self, next: PageRange) -> Option<PageRange> {
        // The highest page has no successor.
        let gap = next.start.as_u64().checked_sub(self.start.as_u64())?;
        let follows = gap == self.bytes() && self.size == next.size;
        follows.then(|| PageRange { pages: self.pages + next.pages, ..self })
    }

    /// Merges the ranges if they have the same page size and overlap or touch.
    ///
    /// ```
    /// use topomem_shootdown::{PageRange, PageSize, VirtAddr};
    ///
    /// let page = |address| PageRange::page(VirtAddr::new_truncate(address), PageSize::Size4KiB);
    /// assert_eq!(page(0x1000).merge(page(0x2000)).map(PageRange::pages), Some(2));
    /// assert_eq!(page(0x1000).merge(page(0x3000)), None);
    /// ```
    #[must_use]
    #[inline]
    pub fn merge(self, other: PageRange) -> Option<PageRange> {
        let (low, high) = if self.start <= other.start { (self, other) } else { (other, self) };
        let gap = high.start.as_u64() - low.start.as_u64();
        if self.size != other.size || gap > low.bytes() {
            return None;
        }
        let bytes = low.bytes().max(gap + high.bytes());
        PageRange::new(low.start, bytes / self.size.bytes(), self.size).ok()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn range(start: u64, pages: u64) -> PageRange {
        PageRange::new(VirtAddr::new(start).unwrap(), pages, PageSize::Size4KiB).unwrap()
    }

    #[test]
    fn refuses_what_is_no_range() {
        let start = VirtAddr::new(0x1000).unwrap();
        let size = PageSize::Size2MiB;
        assert_eq!(PageRange::new(start, 1, size), Err(PageRangeError::Misaligned { start, size }));
        assert_eq!(PageRange::new(start, 0, PageSize::Size4KiB), Err(PageRangeError::Empty));
        for pages in [u64::MAX, 1 << 51, 1 << 44] {
            assert_eq!(
                PageRange::new(start, pages, PageSize::Size4KiB),
                Err(PageRangeError::TooLong { start, pages })
            );
        }
    }

    #[test]
    fn the_top_page_is_a_range() {
        let top = range(0xffff_ffff_ffff_f000, 1);
        assert_eq!(top.last_byte().as_u64(), u64::MAX);
        assert!(top.contains(VirtAddr::new(u64::MAX).unwrap()));
        assert_eq!(top.iter().count(), 1);
    }

    #[test]
    fn spans_whole_pages_in_one_half() {
        let at = |address| VirtAddr::new(address).unwrap();
        let span = |first, last| PageRange::spanning(at(first), at(last), PageSize::Size4KiB);
        assert_eq!(span(0x1234, 0x1235), Some(range(0x1000, 1)));
        assert_eq!(span(0x1fff, 0x2000), Some(range(0x1000, 2)));
        assert_eq!(span(0xffff_ffff_ffff_f000, u64::MAX), Some(range(0xffff_ffff_ffff_f000, 1)));
        assert_eq!(span(0x3000, 0x2fff), None);
        assert_eq!(span(0x1000, u64::MAX), None);
    }

    #[test]
    fn pages_come_in_order() {
        let pages: Vec<u64> = range(0x5000, 3).iter().map(VirtAddr::as_u64).collect();
        assert_eq!(pages, [0x5000, 0x6000, 0x7000]);
    }

    #[test]
    fn extends_by_what_follows() {
        assert_eq!(range(0x1000, 2).extended_by(range(0x3000, 4)), Some(range(0x1000, 6)));
        assert_eq!(range(0x3000, 1).extended_by(range(0x1000, 2)), None);
        assert_eq!(range(0x1000, 2).extended_by(range(0x2000, 1)), None);
        let last = VirtAddr::new(0xffff_ffff_ffff_f000).unwrap();
        let last = PageRange::page(last, PageSize::Size4KiB);
        assert_eq!(last.extended_by(range(0, 1)), None);
        let huge = PageRange::page(VirtAddr::new(0x20_0000).unwrap(), PageSize::Size2MiB);
        assert_eq!(range(0x1f_f000, 1).extended_by(huge), None);
    }

    #[test]
    fn merges_what_touches() {
        assert_eq!(range(0x1000, 2).merge(range(0x3000, 1)), Some(range(0x1000, 3)));
        assert_eq!(range(0x3000, 1).merge(range(0x1000, 2)), Some(range(0x1000, 3)));
        assert_eq!(range(0x1000, 4).merge(range(0x2000, 1)), Some(range(0x1000, 4)));
        assert_eq!(range(0x1000, 1).merge(range(0x3000, 1)), None);
        let huge = PageRange::page(VirtAddr::new(0x20_0000).unwrap(), PageSize::Size2MiB);
        assert_eq!(range(0x1f_f000, 1).merge(huge), None);
    }
}
