//! A word of frames held by a magazine, and the word's place in the magazine.
//!
//! Written by the magazine's CPU alone, read by all CPUs: every field is an atomic, used
//! Relaxed.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use topomem_percpu::{Order, PhysAddr, PhysFrame};

use super::count::Count;
use crate::frames::region::bitmap::{aligned_runs, bits_of_run, ones};
use crate::frames::region::block::BlockEntry;
use crate::frames::region::marks::{WordMarks, record_run_alloc, verify_run_free};
use crate::frames::region::word::{Home, Word};
use crate::frames::types::WordNumber;

/// The base of no word: bases are multiples of [`SPAN`].
const VACANT: u64 = u64::MAX;

/// Bytes of memory covered by a word's 64 frames.
pub(super) const SPAN: u64 = 64 << 12;

/// Returns the physical address of a word's first frame.
#[inline(always)]
pub(super) const fn base_of(key: WordNumber) -> u64 {
    key.get() * SPAN
}

#[cfg(not(loom))]
static CLOSED: Entry = Entry::new();
#[cfg(not(loom))]
static BARRED: Entry = Entry::new();

// loom's atomics live in one run of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref CLOSED: Entry = Entry::new();
    static ref BARRED: Entry = Entry::new();
}

/// Returns the placeholder for the current entry of a magazine in use, or of no CPU: the placeholder never has
/// frames nor a word.
#[cfg(not(loom))]
#[inline]
pub(in crate::frames) const fn closed() -> &'static Entry {
    &CLOSED
}

/// Returns the same placeholder (loom's statics are created at their first use).
#[cfg(loom)]
pub(in crate::frames) fn closed() -> &'static Entry {
    &CLOSED
}

/// Returns the placeholder for the current entry of a magazine that must not be used quickly.
pub(in crate::frames) fn barred() -> &'static Entry {
    &BARRED
}

/// One word of a bitmap with frames held by the magazine.
///
/// The entry stores an address and not a frame number: a hit need not convert.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The physical address of the word's first frame.
    base: AtomicU64,
    /// The frames held.
    mask: AtomicU64,
    /// The word itself.
    home: AtomicPtr<AtomicU64>,
    /// The state of the word's block.
    state: AtomicPtr<BlockEntry>,
    /// The marks of the word's frames; null unless in paranoid mode.
    marks: AtomicPtr<WordMarks>,
}

macro_rules! vacant {
    () => {
        Entry {
            base: AtomicU64::new(VACANT),
            mask: AtomicU64::new(0),
            home: AtomicPtr::new(ptr::null_mut()),
            state: AtomicPtr::new(ptr::null_mut()),
            marks: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

impl Entry {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Entry {
        vacant!()
    }

    /// Creates a vacant entry (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Entry {
        vacant!()
    }

    pub(super) fn hold(&self, word: Word, home: Home) {
        self.base.store(base_of(word.key), Ordering::Relaxed);
        self.home.store(ptr::from_ref(home.word).cast_mut(), Ordering::Relaxed);
        self.state.store(ptr::from_ref(home.state).cast_mut(), Ordering::Relaxed);
        let marks = home.marks.map_or(ptr::null(), ptr::from_ref);
        self.marks.store(marks.cast_mut(), Ordering::Relaxed);
        // Release pairs with the Acquire in `read`: a reader finding the frames here finds the frames
        // nowhere else.
        self.mask.store(word.mask, Ordering::Release);
    }

    /// Empties the entry. The caller is in transit if the entry has frames.
    pub(in crate::frames) fn vacate(&self) {
        // Release pairs with the Acquire in `read`: a reader finding the frames gone sees the
        // caller in transit.
        self.mask.store(0, Ordering::Release);
        self.base.store(VACANT, Ordering::Relaxed);
    }

    /// Takes over the word of `other`, dropping the previous word. The caller is in transit.
    pub(super) fn take_over(&self, other: &Entry) {
        self.base.store(other.base.load(Ordering::Relaxed), Ordering::Relaxed);
        self.home.store(other.home.load(Ordering::Relaxed), Ordering::Relaxed);
        self.state.store(other.state.load(Ordering::Relaxed), Ordering::Relaxed);
        self.marks.store(other.marks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.mask.store(other.mask.load(Ordering::Relaxed), Ordering::Release);
        other.vacate();
    }

    pub(in crate::frames) fn read(&self) -> Option<Word> {
        // Acquire pairs with the Release of each store: a reader finding frames gone sees the frames counted as
        // taken, or as in transit.
        let (base, mask) = (self.base.load(Ordering::Relaxed), self.mask.load(Ordering::Acquire));
        // Another CPU may see the base and the mask of different moments.
        (mask != 0 && base != VACANT).then_some(Word { key: WordNumber::new(base / SPAN), mask })
    }

    /// Returns the number of the entry's word, with or without frames.
    pub(super) fn key(&self) -> Option<WordNumber> {
        let base = self.base.load(Ordering::Relaxed);
        (base != VACANT).then(|| WordNumber::new(base / SPAN))
    }

    /// Returns true if the entry has the word numbered `key`.
    #[inline]
    pub(super) fn has_key(&self, key: WordNumber) -> bool {
        self.base.load(Ordering::Relaxed) == base_of(key)
    }

    /// Returns the bit number of `frame` in the entry's word.
    #[inline(always)]
    fn index_of(&self, frame: PhysFrame) -> Option<u32> {
        // Bases are aligned to the span, and the address of a frame within the span differs in the bit
        // number only.
        let index = (frame.start_address().as_u64() ^ self.base.load(Ordering::Relaxed)) >> 12;
        (index < 64).then_some(index as u32)
    }

    /// Returns the bit of `frame` in the entry's word.
    #[inline]
    fn bit_of(&self, frame: PhysFrame) -> Option<u64> {
        self.index_of(frame).map(|index| 1 << index)
    }

    /// Returns true if the entry has the word of `frame`.
    pub(super) fn is_of(&self, frame: PhysFrame) -> bool {
        self.bit_of(frame).is_some()
    }

    /// Adds frames to the entry's word.
    pub(super) fn merge(&self, mask: u64) {
        self.mask.store(self.mask.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
    }

    /// Takes a frame out, counted in `taken`.
    #[inline]
    pub(in crate::frames) fn take(&self, taken: &Count) -> Option<PhysFrame> {
        let mask = self.mask.load(Ordering::Relaxed);
        let rest = mask & mask.checked_sub(1)?;
        taken.add(1);
        // Release pairs with the Acquire in `read`: a reader finding the frame gone sees the frame
        // counted. A plain store on common machines.
        self.mask.store(rest, Ordering::Release);
        Some(self.frame_of(mask.trailing_zeros()))
    }

    /// Returns the frame of bit `bit` of the entry's word.
    #[inline]
    fn frame_of(&self, bit: u32) -> PhysFrame {
        let address = self.base.load(Ordering::Relaxed) | u64::from(bit) << 12;
        // SAFETY: a held word's base is the address of managed frames, so below 2^52; base and
        // offset are multiples of 4096.
        unsafe { PhysFrame::from_start_address_unchecked(PhysAddr::new(address)) }
    }

    /// Takes an aligned run of `order` (1 to 5) out, counted in `taken`. Returns the run's first
    /// frame. The highest run is taken, since single frames are taken from below.
    #[inline(always)]
    pub(super) fn take_run(&self, order: Order, taken: &Count) -> Option<PhysFrame> {
        let mask = self.mask.load(Ordering::Relaxed);
        let bit = aligned_runs(mask, order.get().into()).checked_ilog2()?;
        taken.add(1);
        // Release: as in `take`.
        self.mask.store(mask & !(bits_of_run(order) << bit), Ordering::Release);
        Some(self.frame_of(bit))
    }

    /// Takes a frame out, marked as handed out and counted in `taken`, in paranoid mode.
    #[inline(always)]
    pub(in crate::frames) fn take_marked(&self, taken: &Count) -> Option<PhysFrame> {
        let index = self.mask.load(Ordering::Relaxed).trailing_zeros();
        self.take(taken)?;
        self.mark_of(index).into_iter().for_each(|mark| record_run_alloc(mark, Order::FRAME));
        Some(self.frame_of(index))
    }

    /// Adds a frame marked as handed out, if the frame is of the entry's word, in paranoid mode.
    #[inline(always)]
    pub(super) fn add_marked(&self, frame: PhysFrame) -> Insertion {
        let Some(index) = self.index_of(frame) else { return Insertion::Elsewhere };
        match self.mark_of(index) {
            Some(mark) if verify_run_free(mark, Order::FRAME) => {
                // By the mark the frame was handed out, and is free nowhere.
                debug_assert!(!self.has_any(1 << index), "a frame with a mark is free");
                self.merge(1 << index);
                Insertion::Taken
            }
            _ => Insertion::Elsewhere,
        }
    }

    /// Returns the mark of `frame`, if the frame is of the entry's word, in paranoid mode.
    #[inline(always)]
    pub(super) fn mark_at(&self, frame: PhysFrame) -> Option<&'static AtomicU8> {
        self.mark_of(self.index_of(frame)?)
    }

    /// Returns the mark of a frame of the entry's word, in paranoid mode.
    #[inline(always)]
    fn mark_of(&self, index: u32) -> Option<&'static AtomicU8> {
        // SAFETY: null or from a `&'static` in `hold`.
        let marks = unsafe { self.marks.load(Ordering::Relaxed).as_ref() }?;
        Some(&marks[index as usize % marks.len()])
    }

    /// Adds a frame, if the frame is of the entry's word.
    #[inline]
    pub(in crate::frames) fn add(&self, frame: PhysFrame) -> Insertion {
        self.bit_of(frame).map_or(Insertion::Elsewhere, |bit| self.add_bits(bit))
    }

    /// Returns the bits of a run of `count` frames, or `None` if the run is not within the entry's
    /// word, or the block has no bitmap.
    #[inline(always)]
    fn bits_of(&self, first: PhysFrame, count: u32) -> Option<u64> {
        let bit = self.bit_of(first)?;
        if bit.trailing_zeros() + count > u64::BITS {
            return None;
        }
        if self.is_without_bitmap() {
            return None;
        }
        Some(ones(count) << bit.trailing_zeros())
    }

    /// Returns true if the block of the entry's word keeps no bits in its line. The entry has a word.
    #[inline(always)]
    fn is_without_bitmap(&self) -> bool {
        // SAFETY: the entry has a word, so `hold` stored the address of a `&'static`.
        let state = unsafe { &*self.state.load(Ordering::Relaxed) };
        // A block keeps the bitmap while frames are held.
        self.mask.load(Ordering::Relaxed) == 0 && !state.load().has_bitmap()
    }

    /// Adds a run of `count` frames, if the run is within the entry's word, and the block has a bitmap.
    #[inline(always)]
    pub(super) fn add_run(&self, first: PhysFrame, count: u32) -> Insertion {
        self.bits_of(first, count).map_or(Insertion::Elsewhere, |bits| self.add_bits(bits))
    }

    /// Adds an aligned run of `order` (1 to 5), if the run is of the entry's word, and the block has a bitmap.
    #[inline(always)]
    pub(super) fn add_aligned(&self, first: PhysFrame, order: Order) -> Insertion {
        let Some(index) = self.index_of(first) else { return Insertion::Elsewhere };
        if self.is_without_bitmap() {
            return Insertion::Elsewhere;
        }
        self.add_bits(bits_of_run(order) << index)
    }

    /// Returns true if [`Entry::add_run`] would take the run.
    pub(super) fn has_room_for(&self, first: PhysFrame, count: u32) -> bool {
        self.bits_of(first, count).is_some_and(|bits| !self.has_any(bits))
    }

    /// Returns true if any of the frames `bits` of the word is free here or in the bitmap.
    #[inline]
    fn has_any(&self, bits: u64) -> bool {
        // SAFETY: the entry has a word, so `hold` stored the address of a `&'static`.
        let home = unsafe { &*self.home.load(Ordering::Relaxed) };
        // Relaxed: a free ordered before this one, on any CPU, is seen.
        (self.mask.load(Ordering::Relaxed) | home.load(Ordering::Relaxed)) & bits != 0
    }

    /// Adds frames of the entry's word.
    #[inline]
    fn add_bits(&self, bits: u64) -> Insertion {
        if self.has_any(bits) {
            return Insertion::Double;
        }
        self.merge(bits);
        Insertion::Taken
    }
}

/// The outcome of a free into a magazine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    Taken,
    /// The frame is free already.
    Double,
    /// The magazine does not have the word.
    Elsewhere,
}
