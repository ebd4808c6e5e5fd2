//! Pages of a heap before the frame allocator.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{CpuPin, NodeId, NotInPlace, Order, OutOfMemory, PageSource, RunLength, forward_page_source};

const PAGE: usize = 4096;
/// Pages in a word.
const WORD: usize = 64;
/// The maximum number of pages: 4 MiB.
const MOST: usize = 1024;

/// A page, aligned as the loader of an image should place the page; if the loader does not, a page is lost.
#[repr(align(4096))]
struct Page {
    _bytes: MaybeUninit<[u8; PAGE]>,
}

/// A first area of `PAGES` pages, 1024 at most, for a `static`: all zero, hence in `.bss`.
pub struct EarlyArea<const PAGES: usize> {
    /// A bit for each page, by the page's number in the address space: set while the page is in use. A word more than
    /// the pages need, since the pages begin anywhere in a word.
    used: [AtomicU64; MOST / WORD + 1],
    pages: UnsafeCell<[Page; PAGES]>,
}

// SAFETY: pages are handed out to one user at a time.
unsafe impl<const PAGES: usize> Sync for EarlyArea<PAGES> {}

impl<const PAGES: usize> EarlyArea<PAGES> {
    /// Creates an area with no page in use.
    #[must_use]
    pub const fn new() -> EarlyArea<PAGES> {
        const { assert!(PAGES <= MOST, "an early area has 1024 pages at most") };
        EarlyArea {
            used: [const { AtomicU64::new(0) }; MOST / WORD + 1],
            pages: UnsafeCell::new([const { Page { _bytes: MaybeUninit::zeroed() } }; PAGES]),
        }
    }

    /// Returns the number of pages in use. Exact only while no further context takes or frees pages.
    #[must_use]
    pub fn pages_in_use(&self) -> usize {
        // Relaxed: a statistic.
        self.used.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Returns the address of the first page, and the number of pages. Pages begin at multiples of 4096, wherever the
    /// loader has placed the area.
    fn pages(&self) -> (NonNull<u8>, usize) {
        let start = NonNull::from(&self.pages).cast::<u8>();
        let skipped = start.addr().get().next_multiple_of(PAGE) - start.addr().get();
        let count = (PAGES * PAGE).saturating_sub(skipped) / PAGE;
        // SAFETY: inside the area, or at its end.
        (unsafe { start.add(if count == 0 { 0 } else { skipped }) }, count)
    }

    /// Takes a run, aligned to the size. Runs above 64 pages are not served.
    ///
    /// Bound: a compare-and-swap for each run of `order` in the area, repeated only if another context took a run of
    /// the same word; lock-free.
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    fn take(&self, order: Order) -> Option<NonNull<u8>> {
        let (first_page, count) = self.pages();
        let length = usize::try_from(order.frames()).ok().filter(|&length| length <= WORD)?;
        let first = first_page.addr().get() / PAGE;
        let mut start = first.next_multiple_of(length);
        while start + length <= first + count {
            let word = &self.used[start / WORD - first / WORD];
            let run = mask(length) << (start % WORD);
            // Acquire pairs with the Release in `give_back`: the last user's accesses are over.
            let claim = |used: u64| (used & run == 0).then_some(used | run);
            if word.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim).is_ok() {
                // SAFETY: the run lies inside the area.
                return Some(unsafe { first_page.add((start - first) * PAGE) });
            }
            start += length;
        }
        None
    }

    /// Returns true if the run belongs to the area.
    fn has(&self, run: NonNull<u8>) -> bool {
        let (first, count) = self.pages();
        run.addr().get().checked_sub(first.addr().get()).is_some_and(|offset| offset < count * PAGE)
    }

    /// Takes a run of the area back.
    fn give_back(&self, run: NonNull<u8>, order: Order) {
        let (first, start) = (self.pages().0.addr().get() / PAGE, run.addr().get() / PAGE);
        let bits = mask(order.frames() as usize) << (start % WORD);
        let used = self.used[start / WORD - first / WORD].fetch_and(!bits, Ordering::Release);
        debug_assert_eq!(used & bits, bits, "{run:?} is not in use");
    }
}

/// Returns a mask of `length` low bits, 1 to 64.
const fn mask(length: usize) -> u64 {
    u64::MAX >> (WORD - length)
}

impl<const PAGES: usize> Default for EarlyArea<PAGES> {
    fn default() -> EarlyArea<PAGES> {
        EarlyArea::new()
    }
}

impl<const PAGES: usize> fmt::Debug for EarlyArea<PAGES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyArea").field("used", &self.used).finish_non_exhaustive()
    }
}

/// A page source for a heap in use before the heap's source has memory: runs refused by the source come from an
/// [`EarlyArea`].
///
/// The heap moves over as soon as the source behind has pages. Memory allocated before stays in place
/// until freed or grown; the pages go back to the area. The area serves again when memory is short. Runs of up
/// to 64 pages fit.
///
/// ```
/// # use core::alloc::Layout;
/// # use core::ptr::NonNull;
/// # use topomem_percpu::{CpuId, CpuPin, Heap, NodeId, Order, OutOfMemory, PageSource, Platform};
/// use topomem_percpu::{EarlyArea, EarlyPages};
/// # struct Kernel;
/// # unsafe impl Platform for Kernel {
/// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
/// #     fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> { NonNull::dangling() }
/// # }
/// # struct Frames;
/// # unsafe impl PageSource for Frames {
/// #     fn allocate(&self, _: &CpuPin, _: NodeId, _: Order) -> Result<NonNull<u8>, OutOfMemory> { Err(OutOfMemory) }
/// #     unsafe fn free(&self, _: &CpuPin, _: NonNull<u8>, _: Order) {}
/// #     fn node_of_cpu(&self, _: CpuId) -> NodeId { NodeId::ZERO }
/// # }
/// # static FRAMES: Frames = Frames;
/// static AREA: EarlyArea<16> = EarlyArea::new();
/// // In a kernel also `#[global_allocator]`.
/// static HEAP: Heap<Kernel, EarlyPages<16, &Frames>> = Heap::new(Kernel, EarlyPages::new(&AREA, &FRAMES));
///
/// // FRAMES has no memory yet.
/// let word = Layout::new::<u64>();
/// let early = HEAP.try_alloc(word)?;
/// // SAFETY: allocated above with the layout.
/// unsafe { HEAP.free(early, word)? };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EarlyPages<const PAGES: usize, S> {
    area: &'static EarlyArea<PAGES>,
    source: S,
}

impl<const PAGES: usize, S: PageSource> EarlyPages<PAGES, S> {
    /// Creates a source asking `source` first, and `area` if `source` has no pages.
    pub const fn new(area: &'static EarlyArea<PAGES>, source: S) -> EarlyPages<PAGES, S> {
        EarlyPages { area, source }
    }

    /// Returns the source behind.
    pub const fn source(&self) -> &S {
        &self.source
    }

    fn take(&self, length: RunLength) -> Result<NonNull<u8>, OutOfMemory> {
        self.area.take(length.holding_order()).ok_or(OutOfMemory)
    }
}

// SAFETY: runs come from the source behind, or from the area. A page of the area has a single user at a time. Each run
// goes back to the origin of the run.
unsafe impl<const PAGES: usize, S: PageSource> PageSource for EarlyPages<PAGES, S> {
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        self.source.allocate(pin, node, order).or_else(|refused| self.area.take(order).ok_or(refused))
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        if self.area.has(run) {
            return self.area.give_back(run, order);
        }
        // SAFETY: the run came from the source behind; the caller's promise is the same.
        unsafe { self.source.free(pin, run, order) };
    }

    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        self.source.allocate_run(pin, node, length, align).or_else(|_| self.take(length))
    }

    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        self.source.allocate_run_zeroed(pin, node, length, align).or_else(|_| {
            let run = self.take(length)?;
            // SAFETY: the run has `length` bytes, and no further users.
            unsafe { run.write_bytes(0, length.bytes() as usize) };
            Ok(run)
        })
    }

    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        if self.area.has(run) {
            return self.area.give_back(run, length.holding_order());
        }
        // SAFETY: as in `free`.
        unsafe { self.source.free_run(pin, run, length) };
    }

    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        if self.area.has(run) {
            return if from.holding_order() == to.holding_order() { Ok(()) } else { Err(NotInPlace) };
        }
        // SAFETY: as in `free`.
        unsafe { self.source.extend_run(pin, run, from, to) }
    }

    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        if self.area.has(run) {
            return if from.holding_order() == to.holding_order() { Ok(()) } else { Err(NotInPlace) };
        }
        // SAFETY: as in `free`.
        unsafe { self.source.shrink_run(pin, run, from, to) }
    }

    forward_page_source!(|this| &this.source;
        wants_range, allocate_range, allocate_range_zeroed, range_at, free_range, resize_range, node_of_cpu,
        node_with_memory, reports);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn runs_are_apart_aligned_and_come_back() {
        let area = Box::new(EarlyArea::<70>::new());
        for order in (0..7).filter_map(Order::new) {
            let bytes = order.bytes() as usize;
            let runs: Vec<NonNull<u8>> = std::iter::from_fn(|| area.take(order)).collect();
            assert!(
                runs.len() >= (70 / order.frames() as usize).saturating_sub(1),
                "{order:?}: {}",
                runs.len()
            );
            assert!(runs.iter().all(|run| run.addr().get().is_multiple_of(bytes) && area.has(*run)));
            let apart = |pair: &[NonNull<u8>]| pair[1].addr().get() - pair[0].addr().get() >= bytes;
            assert!(runs.windows(2).all(apart));
            runs.into_iter().for_each(|run| area.give_back(run, order));
        }
        assert!(area.take(Order::HUGE).is_none(), "more than a word");
        let outside = NonNull::from(&area).cast();
        assert!(!area.has(outside));
    }

    #[test]
    fn orders_mix() {
        let area = Box::new(EarlyArea::<32>::new());
        let four = Order::new(2).unwrap();
        let (one, run) = (area.take(Order::FRAME).unwrap(), area.take(four).unwrap());
        let offset = run.addr().get().wrapping_sub(one.addr().get());
        assert!(offset >= PAGE, "the run lies on the page");
        // Pages between are not lost.
        let rest = std::iter::from_fn(|| area.take(Order::FRAME)).count();
        assert_eq!(rest, 32 - 5);
        area.give_back(run, four);
        assert_eq!(area.take(four), Some(run));
    }
}
