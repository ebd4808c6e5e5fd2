//! Lengths of runs of pages, powers of two or not.

use core::alloc::Layout;

use crate::{MAX_CLASS_SIZE, Order};

/// Greatest number of pages with exact lengths.
const EXACT: u64 = 32;
/// Lengths in each doubling above.
const STEPS: u64 = 16;
const STEPS_LOG: u32 = STEPS.trailing_zeros();
/// The number of lengths.
const COUNT: usize = (EXACT + (Order::GIANT.get() as u64 - EXACT.trailing_zeros() as u64) * STEPS) as usize;

/// The length of a run of pages: each number of 4 KiB pages up to 32, then 16 lengths in each
/// doubling (34, 36, ... 64, 68, ...) up to 1 GiB.
///
/// A run of more than 32 pages is less than a sixteenth longer than requested.
///
/// ```
/// use topomem_percpu::RunLength;
///
/// assert_eq!(RunLength::for_pages(9).unwrap().pages(), 9);
/// assert_eq!(RunLength::for_pages(33).unwrap().pages(), 34);
/// assert_eq!(RunLength::for_pages(1 << 18).unwrap().bytes(), 1 << 30);
/// assert_eq!(RunLength::for_pages((1 << 18) + 1), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunLength(u8);

impl RunLength {
    /// Returns the smallest length of at least `pages` pages, or `None` above 1 GiB. Zero pages
    /// count as one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::RunLength;
    /// assert_eq!(RunLength::for_pages(0).unwrap().pages(), 1);
    /// ```
    #[must_use]
    #[inline]
    pub const fn for_pages(pages: u64) -> Option<RunLength> {
        let last = pages.saturating_sub(1);
        if last < EXACT {
            return Some(RunLength(last as u8));
        }
        if last >= Order::GIANT.frames() {
            return None;
        }
        let log = last.ilog2();
        let step = (last >> (log - STEPS_LOG)) - STEPS;
        let doubling = (log - EXACT.trailing_zeros()) as u64;
        Some(RunLength((EXACT + doubling * STEPS + step) as u8))
    }

    /// Returns the smallest length that holds the size of `layout` and is no shorter than its
    /// alignment, or `None` above 1 GiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::RunLength;
    /// assert_eq!(RunLength::of(Layout::new::<[u8; 20_000]>()).unwrap().pages(), 5);
    /// ```
    #[must_use]
    #[inline]
    pub const fn of(layout: Layout) -> Option<RunLength> {
        let (size, align) = (layout.size() as u64, layout.align() as u64);
        RunLength::for_pages(if size > align { size } else { align }.div_ceil(Order::FRAME.bytes()))
    }

    /// Returns the length as [`RunLength::of`] does, for sizes above [`MAX_CLASS_SIZE`] and up to 1
    /// MiB, aligned to no more than the size.
    #[inline]
    pub(crate) const fn of_common(layout: Layout) -> Option<RunLength> {
        // Sizes below the lower limit wrap.
        let beyond = layout.size().wrapping_sub(MAX_CLASS_SIZE + 1);
        if beyond > COMMON - (MAX_CLASS_SIZE + 1) || layout.align() > layout.size() {
            return None;
        }
        Some(BY_PAGES[(layout.size() - 1) / Order::FRAME.bytes() as usize])
    }

    /// Returns the length of a run of `order`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Order, RunLength};
    /// assert_eq!(RunLength::of_order(Order::HUGE).pages(), 512);
    /// ```
    #[must_use]
    pub const fn of_order(order: Order) -> RunLength {
        let log = order.get() as u64;
        let exact = EXACT.trailing_zeros() as u64;
        // Each doubling ends with a power of two.
        RunLength(if log <= exact { (1 << log) - 1 } else { EXACT + (log - exact) * STEPS - 1 } as u8)
    }

    /// Returns the length numbered `index`, or `None` behind the last.
    pub(crate) const fn new(index: usize) -> Option<RunLength> {
        if index < COUNT { Some(RunLength(index as u8)) } else { None }
    }

    /// Returns the length's number among all lengths.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the number of pages of a run.
    ///
    /// ```
    /// use topomem_percpu::RunLength;
    ///
    /// assert!(RunLength::all().take(32).map(RunLength::pages).eq(1..=32));
    /// ```
    #[must_use]
    #[inline]
    pub const fn pages(self) -> u64 {
        PAGES[self.0 as usize] as u64
    }

    /// Returns the number of bytes of a run.
    ///
    /// ```
    /// use topomem_percpu::RunLength;
    ///
    /// assert_eq!(RunLength::all().next().map(RunLength::bytes), Some(4096));
    /// ```
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.pages() * Order::FRAME.bytes()
    }

    /// Returns the smallest order with runs at least as long.
    #[must_use]
    pub const fn holding_order(self) -> Order {
        match Order::for_frames(self.pages()) {
            Some(order) => order,
            None => Order::GIANT,
        }
    }

    /// Returns the order with runs of the length, or `None` if the length is no power of two.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Order, RunLength};
    /// let length = RunLength::for_pages(9).unwrap();
    /// assert_eq!((length.order(), length.holding_order()), (None, Order::new(4).unwrap()));
    /// ```
    #[must_use]
    pub const fn order(self) -> Option<Order> {
        let order = self.holding_order();
        if order.frames() == self.pages() { Some(order) } else { None }
    }

    /// Returns all lengths, from 1 page to 1 GiB.
    pub fn all() -> impl Iterator<Item = RunLength> {
        (0..COUNT).filter_map(RunLength::new)
    }
}

/// Greatest length in the table by pages, in bytes.
const COMMON: usize = 1 << 20;

/// The length of each number of pages up to [`COMMON`] bytes, from one on.
static BY_PAGES: [RunLength; COMMON / Order::FRAME.bytes() as usize] = {
    let mut lengths = [RunLength(0); COMMON / Order::FRAME.bytes() as usize];
    let mut index = 0;
    while index < lengths.len() {
        if let Some(length) = RunLength::for_pages(index as u64 + 1) {
            lengths[index] = length;
        }
        index += 1;
    }
    lengths
};

/// [`RunLength::pages`] of each length.
static PAGES: [u32; COUNT] = {
    let mut pages = [0; COUNT];
    let mut index = 0;
    while index < COUNT {
        let number = index as u64;
        pages[index] = if number < EXACT {
            number + 1
        } else {
            let (doubling, step) = ((number - EXACT) / STEPS, (number - EXACT) % STEPS);
            (STEPS + step + 1) << (doubling + 1)
        } as u32;
        index += 1;
    }
    pages
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic; no unsafe code")]
    fn a_length_is_the_smallest_that_holds_so_many_pages() {
        let lengths: std::vec::Vec<_> = RunLength::all().collect();
        assert!(lengths.windows(2).all(|pair| pair[0].pages() < pair[1].pages()));
        let edges = lengths.iter().flat_map(|length| [length.pages(), length.pages() + 1]);
        for pages in edges.filter(|&pages| pages <= Order::GIANT.frames()).chain(1..2000) {
            let expected = lengths.iter().copied().find(|length| length.pages() >= pages);
            let found = RunLength::for_pages(pages);
            assert_eq!(found, expected, "{pages}");
            let surplus = found.unwrap().pages() - pages;
            assert!(surplus == 0 || pages > 32 && surplus * 16 < pages, "{pages}, {surplus}");
        }
        assert_eq!(RunLength::for_pages(0), RunLength::new(0));
        assert_eq!(RunLength::for_pages(u64::MAX), None);
    }

    #[test]
    fn common_layouts_get_the_same_length() {
        for size in (1..COMMON + 10_000).step_by(1361).chain([MAX_CLASS_SIZE, MAX_CLASS_SIZE + 1, COMMON]) {
            for align in [1, 4096, 1 << 16] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let common = size > MAX_CLASS_SIZE && size <= COMMON && align <= size;
                let expected = RunLength::of(layout).filter(|_| common);
                assert_eq!(RunLength::of_common(layout), expected, "{layout:?}");
            }
        }
    }

    #[test]
    fn the_orders_are_among_the_lengths() {
        for order in Order::all() {
            let length = RunLength::of_order(order);
            assert_eq!((length.pages(), length.order()), (order.frames(), Some(order)));
        }
        assert_eq!(RunLength::all().filter(|length| length.order().is_some()).count(), Order::all().count());
        let five = RunLength::for_pages(5).unwrap();
        assert_eq!((five.order(), five.holding_order().get()), (None, 3));
        let aligned = Layout::from_size_align(10, 2 << 20).unwrap();
        assert_eq!(RunLength::of(aligned).and_then(RunLength::order), Some(Order::HUGE));
    }
}
