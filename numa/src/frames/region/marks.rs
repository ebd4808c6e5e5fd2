//! Paranoid mode: a mark per frame that records the run handed out there.
//!
//! A run's mark is at its first frame. An allocation stores it; a free removes it by
//! compare-and-swap. So of two frees one fails at once, wherever the frame is by then, and the
//! order must be the order of the allocation.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU8, Ordering};

use super::free::Refused;

/// No run begins here.
const NONE: u8 = 0;
/// Added to the marks of runs of any length.
const RUN: u8 = 1 << 5;
/// The last of several frames of a run of any length.
const END: u8 = 0x7f;

/// The kind of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// A naturally aligned run.
    Aligned(Order),
    /// This many contiguous frames.
    Run(u64),
}

impl Given {
    fn mark(self) -> u8 {
        match self {
            Given::Aligned(order) => order.get() + 1,
            Given::Run(count) => (Order::for_frames(count).unwrap_or(Order::FRAME).get() + 1) | RUN,
        }
    }

    /// Returns the distance from its first frame to the run's other mark.
    fn end(self) -> Option<usize> {
        match self {
            Given::Run(count @ 2..) => Some(count as usize - 1),
            _ => None,
        }
    }

    fn order_of(mark: u8) -> Option<Order> {
        Order::new((mark & !RUN).checked_sub(1)?)
    }
}

/// The marks of one bitmap word's frames.
pub(crate) type WordMarks = [AtomicU8; 64];

/// Records the allocation of an aligned run of `order`, in its first frame's mark. As
/// [`Marks::give`].
#[inline]
pub(crate) fn give_run(mark: &AtomicU8, order: Order) {
    mark.store(Given::Aligned(order).mark(), Ordering::Relaxed);
}

/// Records the free of an aligned run of `order`, in its first frame's mark. Returns false if it
/// was not allocated as one. As [`Marks::take_back`].
#[inline]
pub(crate) fn take_run_back(mark: &AtomicU8, order: Order) -> bool {
    let given = Given::Aligned(order).mark();
    mark.compare_exchange(given, NONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// The marks of a region's frames, from its first on; none unless in paranoid mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks(pub(in crate::frames) &'static [AtomicU8]);

impl Marks {
    /// Returns the marks of the word that begins `offset` frames into the region; `None` unless in
    /// paranoid mode.
    pub(crate) fn of_word(self, offset: u64) -> Option<&'static WordMarks> {
        self.0.get(offset as usize..)?.first_chunk()
    }

    /// Records the allocation of the run that begins `offset` frames into the region.
    pub(crate) fn give(self, offset: u64, given: Given) {
        if let Some(mark) = self.0.get(offset as usize) {
            // Relaxed: the caller alone has the run, and the last free of it came before its bits
            // were claimed. The next context to free it receives it from the caller.
            mark.store(given.mark(), Ordering::Relaxed);
        }
        if let Some(end) = self.end_of(offset, given) {
            end.store(END, Ordering::Relaxed);
        }
    }

    fn end_of(self, offset: u64, given: Given) -> Option<&'static AtomicU8> {
        self.0.get(offset as usize + given.end()?)
    }

    /// Records the free of the run, unless it was not allocated like that. `first` is the number of
    /// the region's first frame.
    ///
    /// Cost: one compare-and-swap.
    pub(crate) fn take_back(self, first: u64, offset: u64, given: Given) -> Result<(), Refused> {
        let Some(mark) = self.0.get(offset as usize) else { return Ok(()) };
        // Relaxed: the selection of one free out of several needs only the mark's own order.
        let frame = first + offset;
        let end = self.end_of(offset, given);
        if end.is_some_and(|end| end.load(Ordering::Relaxed) != END) {
            return Err(Refused::NotAllocated(frame));
        }
        let exchanged = mark.compare_exchange(given.mark(), NONE, Ordering::Relaxed, Ordering::Relaxed);
        let Err(found) = exchanged else {
            // This context alone owns the run now.
            end.into_iter().for_each(|end| end.store(NONE, Ordering::Relaxed));
            return Ok(());
        };
        if found == END {
            return Err(Refused::NotAllocated(frame));
        }
        match Given::order_of(found).or_else(|| self.order_around(first, offset)) {
            Some(actual) => Err(Refused::WrongOrder { frame, actual }),
            None => Err(Refused::DoubleFree(frame)),
        }
    }

    /// Returns the order of the aligned run around the frame, if any.
    fn order_around(self, first: u64, offset: u64) -> Option<Order> {
        Order::all().skip(1).find(|order| {
            let head = (first + offset) & !(order.frames() - 1);
            let mark = head.checked_sub(first).and_then(|offset| self.0.get(offset as usize));
            // Relaxed: for a diagnosis only.
            mark.and_then(|mark| Given::order_of(mark.load(Ordering::Relaxed))) == Some(*order)
        })
    }
}
