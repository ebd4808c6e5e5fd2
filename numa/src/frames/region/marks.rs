//! Paranoid mode: a mark per frame, recording the run handed out from the frame on.
//!
//! A run's mark is at the run's first frame. An allocation stores the mark; a free removes the mark by
//! compare-and-swap. Of two frees the second fails at once, wherever the frame is by then, and the
//! order must be the order of the allocation.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU8, Ordering};

use super::free::FreeRejection;
use crate::frames::types::FrameNumber;

/// No run begins here.
const NONE: u8 = 0;
/// Added to the marks of runs of any length.
const RUN: u8 = 1 << 5;
/// The last of several frames of a run of any length.
const END: u8 = 0x7f;

/// The kind of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllocKind {
    /// A naturally aligned run.
    Aligned(Order),
    /// A number of contiguous frames.
    Run(u64),
}

impl AllocKind {
    fn mark(self) -> u8 {
        match self {
            AllocKind::Aligned(order) => order.get() + 1,
            AllocKind::Run(count) => (Order::for_frames(count).unwrap_or(Order::FRAME).get() + 1) | RUN,
        }
    }

    /// Returns the distance from the run's first frame to the run's second mark.
    fn end(self) -> Option<usize> {
        match self {
            AllocKind::Run(count @ 2..) => Some(count as usize - 1),
            _ => None,
        }
    }

    fn order_of(mark: u8) -> Option<Order> {
        Order::new((mark & !RUN).checked_sub(1)?)
    }
}

/// The marks of a bitmap word's frames.
pub(crate) type WordMarks = [AtomicU8; 64];

/// Records the allocation of an aligned run of `order`, in the first frame's mark. As
/// [`Marks::record_alloc`].
#[inline]
pub(crate) fn record_run_alloc(mark: &AtomicU8, order: Order) {
    mark.store(AllocKind::Aligned(order).mark(), Ordering::Relaxed);
}

/// Records the free of an aligned run of `order`, in the first frame's mark. Returns false if no
/// such run was allocated. As [`Marks::verify_free`].
#[inline]
pub(crate) fn verify_run_free(mark: &AtomicU8, order: Order) -> bool {
    let expected = AllocKind::Aligned(order).mark();
    mark.compare_exchange(expected, NONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// The marks of a region's frames, from the first frame on; none unless in paranoid mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks(pub(in crate::frames) &'static [AtomicU8]);

impl Marks {
    /// Returns the marks of the word `offset` frames into the region; `None` unless in
    /// paranoid mode.
    pub(crate) fn of_word(self, offset: u64) -> Option<&'static WordMarks> {
        self.0.get(offset as usize..)?.first_chunk()
    }

    /// Records the allocation of the run from `offset` frames into the region on.
    pub(crate) fn record_alloc(self, offset: u64, kind: AllocKind) {
        if let Some(mark) = self.0.get(offset as usize) {
            // Relaxed: the caller alone has the run, and the run's last free came before the claim of the
            // run's bits. The next context to free the run receives the run from the caller.
            mark.store(kind.mark(), Ordering::Relaxed);
        }
        if let Some(end) = self.end_of(offset, kind) {
            end.store(END, Ordering::Relaxed);
        }
    }

    fn end_of(self, offset: u64, kind: AllocKind) -> Option<&'static AtomicU8> {
        self.0.get(offset as usize + kind.end()?)
    }

    /// Records the free of the run, if the run was allocated as `kind`. `first` is the number of
    /// the region's first frame.
    ///
    /// Cost: one compare-and-swap.
    pub(crate) fn verify_free(
        self,
        first: FrameNumber,
        offset: u64,
        kind: AllocKind,
    ) -> Result<(), FreeRejection> {
        let Some(mark) = self.0.get(offset as usize) else { return Ok(()) };
        // Relaxed: the selection of a single free out of several needs only the mark's own order.
        let frame = first + offset;
        let end = self.end_of(offset, kind);
        if end.is_some_and(|end| end.load(Ordering::Relaxed) != END) {
            return Err(FreeRejection::NotAllocated(frame));
        }
        let exchanged = mark.compare_exchange(kind.mark(), NONE, Ordering::Relaxed, Ordering::Relaxed);
        let Err(found) = exchanged else {
            // This context alone owns the run now.
            end.into_iter().for_each(|end| end.store(NONE, Ordering::Relaxed));
            return Ok(());
        };
        if found == END {
            return Err(FreeRejection::NotAllocated(frame));
        }
        match AllocKind::order_of(found).or_else(|| self.order_around(first, offset)) {
            Some(actual) => Err(FreeRejection::WrongOrder { frame, actual }),
            None => Err(FreeRejection::DoubleFree(frame)),
        }
    }

    /// Returns the order of the aligned run around the frame, if any.
    fn order_around(self, first: FrameNumber, offset: u64) -> Option<Order> {
        Order::all().skip(1).find(|order| {
            let head = (first + offset).align_down(order.frames());
            let mark = head.checked_sub(first).and_then(|offset| self.0.get(offset as usize));
            // Relaxed: for a diagnosis only.
            mark.and_then(|mark| AllocKind::order_of(mark.load(Ordering::Relaxed))) == Some(*order)
        })
    }
}
