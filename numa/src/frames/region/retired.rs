//! The list of a region's retired frames.

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::frames::types::{FrameNumber, WordNumber};

/// The maximum number of retired frames of one region.
pub(crate) const CAPACITY: usize = 64;

/// The state of a frame's retirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// The frame still has a holder: an owner, or a CPU's magazine.
    Pending,
    /// The frame is out of use, for good.
    Complete,
}

const LISTED: u64 = 1;
const COMPLETE: u64 = 2;
const FRAME_SHIFT: u32 = 2;

/// Retired frames, in order of retirement; nothing is ever removed from the list.
#[derive(Debug)]
pub(crate) struct RetiredFrames {
    /// For each block with a retired frame, the bit selected by the low bits of the block's number. The filter
    /// is zero while the list is empty, the most common case.
    filter: AtomicU64,
    /// The number of pending frames. May be wrong for a moment, but is not 0 while a frame is
    /// pending.
    pending: AtomicU32,
    /// Frame number, `COMPLETE` and `LISTED`; 0 from the first free place on.
    places: [AtomicU64; CAPACITY],
}

/// The reason why a frame was not put on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlisted {
    Already,
    Full,
}

impl RetiredFrames {
    pub(crate) fn new() -> RetiredFrames {
        RetiredFrames {
            filter: AtomicU64::new(0),
            pending: AtomicU32::new(0),
            places: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Puts a frame on the list, as pending.
    ///
    /// Bound: one pass over the list; lock-free.
    pub(crate) fn add(&self, frame: FrameNumber) -> Result<(), Unlisted> {
        for place in &self.places {
            // Every caller tries the places in the same order, and of two callers adding the same frame
            // the later caller finds the frame. Release pairs with the Acquire in `iter`: a context that sees
            // the frame has seen the retirer's earlier writes.
            match place.compare_exchange(0, pending(frame), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.pending.fetch_add(1, Ordering::Relaxed);
                    // Release pairs with the Acquire in `lists_any` and `may_list`: a context that
                    // sees the bit sees the frame and the count.
                    self.filter.fetch_or(filter_bit(frame), Ordering::Release);
                    return Ok(());
                }
                Err(other) if frame_of(other) == frame => return Err(Unlisted::Already),
                Err(_) => {}
            }
        }
        Err(Unlisted::Full)
    }

    /// Returns every listed frame. Acquire pairs with the Release in `add` and `complete`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FrameNumber, Retirement)> {
        let listed = |place: &AtomicU64| match place.load(Ordering::Acquire) {
            0 => None,
            value if value & COMPLETE != 0 => Some((frame_of(value), Retirement::Complete)),
            value => Some((frame_of(value), Retirement::Pending)),
        };
        self.places.iter().map_while(listed)
    }

    /// Returns true if any frame is listed. Cost: one load.
    #[inline]
    pub(in crate::frames) fn lists_any(&self) -> bool {
        // Acquire pairs with the Release in `add`.
        self.filter.load(Ordering::Acquire) != 0
    }

    /// Returns true if the block of `frame` may have a listed frame. Acquire pairs with the Release
    /// in `add`.
    fn may_list(&self, frame: FrameNumber) -> bool {
        self.filter.load(Ordering::Acquire) & filter_bit(frame) != 0
    }

    /// Returns true if any frame of the block of `frame` is listed.
    #[inline]
    pub(crate) fn touch_block_of(&self, frame: FrameNumber) -> bool {
        self.lists_any() && self.lists_in_block_of(frame)
    }

    #[cold]
    fn lists_in_block_of(&self, frame: FrameNumber) -> bool {
        self.may_list(frame) && self.iter().any(|(listed, _)| listed.block() == frame.block())
    }

    /// Returns a completely retired frame of the `count` frames from `first` on, of one block.
    #[inline]
    pub(crate) fn complete_among(&self, first: FrameNumber, count: u64) -> Option<FrameNumber> {
        if self.lists_any() { self.find_complete(first, count) } else { None }
    }

    #[cold]
    fn find_complete(&self, first: FrameNumber, count: u64) -> Option<FrameNumber> {
        if !self.may_list(first) {
            return None;
        }
        let complete = |&(frame, state): &(FrameNumber, Retirement)| {
            state == Retirement::Complete && (first..first + count).contains(&frame)
        };
        self.iter().find(complete).map(|(frame, _)| frame)
    }

    /// Returns the completely retired frames of word `key`.
    #[inline]
    pub(crate) fn complete_in_word(&self, key: WordNumber) -> u64 {
        if self.lists_any() { self.find_complete_in_word(key) } else { 0 }
    }

    #[cold]
    fn find_complete_in_word(&self, key: WordNumber) -> u64 {
        if !self.may_list(key.first_frame()) {
            return 0;
        }
        let here = self.iter().filter(|&(frame, state)| state == Retirement::Complete && frame.word() == key);
        here.fold(0, |mask, (frame, _)| mask | frame.mask_in_word())
    }

    /// Returns true if a frame is pending. Cost: one load.
    #[inline]
    pub(crate) fn any_pending(&self) -> bool {
        // The count is stored before the bit acquired by `lists_any`.
        self.lists_any() && self.pending.load(Ordering::Relaxed) != 0
    }

    /// Returns the frames with a pending retirement.
    pub(crate) fn pending(&self) -> impl Iterator<Item = FrameNumber> {
        self.iter().filter(|&(_, state)| state == Retirement::Pending).map(|(frame, _)| frame)
    }

    /// Returns the number of completely retired frames.
    pub(crate) fn complete_count(&self) -> u64 {
        self.iter().filter(|&(_, state)| state == Retirement::Complete).count() as u64
    }

    /// Records the complete retirement of a pending frame. The caller is the only holder of the
    /// frame.
    pub(crate) fn complete(&self, frame: FrameNumber) {
        let pending = pending(frame);
        for place in &self.places {
            // Release pairs with the Acquire in `iter`: a context seeing the frame complete sees
            // the frame gone.
            match place.compare_exchange(pending, pending | COMPLETE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.pending.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
                Err(0) => return,
                Err(_) => {}
            }
        }
    }

    /// Completes every pending frame of `bits` of word `key`; the caller holds the frames.
    /// Returns the frames completed.
    pub(crate) fn complete_held(&self, key: WordNumber, bits: u64) -> u64 {
        let held = self.pending().filter(|&frame| frame.word() == key && bits & frame.mask_in_word() != 0);
        held.fold(0, |mask, frame| {
            self.complete(frame);
            mask | frame.mask_in_word()
        })
    }
}

fn filter_bit(frame: FrameNumber) -> u64 {
    1 << (frame.block().get() % 64)
}

/// Returns the value of a place with a pending frame.
fn pending(frame: FrameNumber) -> u64 {
    frame.get() << FRAME_SHIFT | LISTED
}

/// Returns the frame of a place that is not free.
fn frame_of(value: u64) -> FrameNumber {
    FrameNumber::new(value >> FRAME_SHIFT)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::frames::types::BLOCK;

    fn frame(number: u64) -> FrameNumber {
        FrameNumber::new(number)
    }

    fn word(number: u64) -> WordNumber {
        WordNumber::new(number)
    }

    #[test]
    fn a_frame_is_listed_once_and_completes_once() {
        let list = RetiredFrames::new();
        assert!(!list.any_pending() && !list.touch_block_of(frame(0)));
        assert_eq!(list.add(frame(0)), Ok(()));
        assert_eq!(list.add(frame(700)), Ok(()));
        assert_eq!(list.add(frame(0)), Err(Unlisted::Already));
        assert!(
            list.touch_block_of(frame(511))
                && list.touch_block_of(frame(512))
                && !list.touch_block_of(frame(1024))
        );
        // Same filter bit as block 0.
        assert!(!list.touch_block_of(frame(64 * BLOCK)));
        assert_eq!(list.complete_held(word(0), 0b10), 0);
        assert_eq!(list.complete_held(word(0), 0b11), 1);
        assert_eq!(list.complete_held(word(0), 0b11), 0);
        assert_eq!((list.complete_in_word(word(0)), list.complete_in_word(word(10))), (1, 0));
        assert_eq!(
            (list.complete_among(frame(0), 8), list.complete_among(frame(1), 8)),
            (Some(frame(0)), None)
        );
        assert!(list.any_pending());
        assert!(list.pending().eq([frame(700)]));
        list.complete(frame(700));
        assert!(!list.any_pending());
        assert_eq!(list.complete_count(), 2);
        assert_eq!(list.add(frame(700)), Err(Unlisted::Already));
    }

    #[test]
    fn the_list_is_bounded() {
        let list = RetiredFrames::new();
        (0..CAPACITY as u64).for_each(|number| list.add(frame(number * 1000)).unwrap());
        assert_eq!(list.add(frame(1)), Err(Unlisted::Full));
        assert_eq!(list.add(frame(1000)), Err(Unlisted::Already));
        assert_eq!(list.iter().count(), CAPACITY);
    }
}
