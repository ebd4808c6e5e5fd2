//! A word of frames on its way through a magazine, and the place it has there.
//!
//! Written by the magazine's CPU alone, read by all: so every field is an atomic, used Relaxed.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::magazine::Count;
use super::marks::WordMarks;

/// The base of no word: bases are multiples of [`SPAN`].
const VACANT: u64 = u64::MAX;

/// Bytes of memory that a word's 64 frames cover.
const SPAN: u64 = 64 << 12;

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

/// Stands for the current entry of a magazine that is in use, or of no CPU: it never has frames
/// nor a word.
#[cfg(not(loom))]
#[inline]
pub(super) const fn closed() -> &'static Entry {
    &CLOSED
}

/// loom's statics are made when first used.
#[cfg(loom)]
pub(super) fn closed() -> &'static Entry {
    &CLOSED
}

/// Stands for the current entry of a magazine that must not be used quickly.
pub(super) fn barred() -> &'static Entry {
    &BARRED
}

/// One word of a bitmap, some of whose frames the magazine holds.
///
/// It keeps an address and not a frame number, so that a hit need not convert.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The physical address of the word's first frame.
    base: AtomicU64,
    /// The frames held.
    mask: AtomicU64,
    /// The word itself.
    home: AtomicPtr<AtomicU64>,
    /// Its frames' marks; null unless in paranoid mode.
    marks: AtomicPtr<WordMarks>,
}

/// A word taken out of a magazine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// Frame number / 64.
    pub(crate) key: u64,
    pub(crate) mask: u64,
}

/// Where a word's frames are otherwise known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) word: &'static AtomicU64,
    /// In paranoid mode.
    pub(crate) marks: Option<&'static WordMarks>,
}

impl Word {
    pub(crate) fn frames(self) -> u64 {
        u64::from(self.mask.count_ones())
    }

    /// The number of a frame that it has.
    pub(crate) fn first(self) -> u64 {
        self.key * 64 + u64::from(self.mask.trailing_zeros())
    }
}

macro_rules! vacant {
    () => {
        Entry {
            base: AtomicU64::new(VACANT),
            mask: AtomicU64::new(0),
            home: AtomicPtr::new(ptr::null_mut()),
            marks: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

impl Entry {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Entry {
        vacant!()
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(super) fn new() -> Entry {
        vacant!()
    }

    pub(super) fn hold(&self, word: Word, home: Home) {
        self.base.store(word.key * SPAN, Ordering::Relaxed);
        self.home.store(ptr::from_ref(home.word).cast_mut(), Ordering::Relaxed);
        let marks = home.marks.map_or(ptr::null(), ptr::from_ref);
        self.marks.store(marks.cast_mut(), Ordering::Relaxed);
        // Release: who finds the frames here finds them nowhere else.
        self.mask.store(word.mask, Ordering::Release);
    }

    /// Empties it. The caller is in transit where it has frames.
    pub(super) fn vacate(&self) {
        // Release: who finds the frames gone sees the caller in transit.
        self.mask.store(0, Ordering::Release);
        self.base.store(VACANT, Ordering::Relaxed);
    }

    /// Takes over what `other` has; what was here is gone. The caller is in transit.
    pub(super) fn take_over(&self, other: &Entry) {
        self.base.store(other.base.load(Ordering::Relaxed), Ordering::Relaxed);
        self.home.store(other.home.load(Ordering::Relaxed), Ordering::Relaxed);
        self.marks.store(other.marks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.mask.store(other.mask.load(Ordering::Relaxed), Ordering::Release);
        other.vacate();
    }

    pub(super) fn read(&self) -> Option<Word> {
        // Acquire pairs with the Release of each store: who finds frames gone sees that they were
        // counted as taken, or as in transit.
        let (base, mask) = (self.base.load(Ordering::Relaxed), self.mask.load(Ordering::Acquire));
        // Another CPU may see the base of one moment and the mask of another.
        (mask != 0 && base != VACANT).then_some(Word { key: base / SPAN, mask })
    }

    /// The number of the word that it has, frames or none.
    pub(super) fn key(&self) -> Option<u64> {
        let base = self.base.load(Ordering::Relaxed);
        (base != VACANT).then_some(base / SPAN)
    }

    /// The bit of `frame` in the word that it has.
    #[inline]
    fn bit_of(&self, frame: PhysFrame) -> Option<u64> {
        // Bases are aligned to the span, so that a frame within it differs in the bit number only.
        let number = (frame.start_address().as_u64() ^ self.base.load(Ordering::Relaxed)) >> 12;
        (number < 64).then(|| 1 << number)
    }

    /// Does it have the word of `frame`?
    pub(super) fn is_of(&self, frame: PhysFrame) -> bool {
        self.bit_of(frame).is_some()
    }

    /// Adds frames to the word that it has.
    pub(super) fn merge(&self, mask: u64) {
        self.mask.store(self.mask.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
    }

    /// Takes a frame out, counted in `taken`.
    #[inline]
    pub(super) fn take(&self, taken: &Count) -> Option<PhysFrame> {
        let mask = self.mask.load(Ordering::Relaxed);
        let rest = mask & mask.checked_sub(1)?;
        taken.add(1);
        // Release: who finds the frame gone sees it counted. A plain store on common machines.
        self.mask.store(rest, Ordering::Release);
        let address = self.base.load(Ordering::Relaxed) | u64::from(mask.trailing_zeros()) << 12;
        // SAFETY: a held word's base is the address of managed frames, so below 2^52; base and
        // offset are multiples of 4096.
        Some(unsafe { PhysFrame::from_start_address_unchecked(PhysAddr::new_unsafe(address)) })
    }

    /// The mark of `frame`, if it is of the word that it has, in paranoid mode.
    pub(super) fn mark_of(&self, frame: PhysFrame) -> Option<&'static AtomicU8> {
        let bit = self.bit_of(frame)?;
        // SAFETY: null or from a `&'static` in `hold`.
        let marks = unsafe { self.marks.load(Ordering::Relaxed).as_ref() }?;
        marks.get(bit.trailing_zeros() as usize)
    }

    /// Adds a frame, if it is of the word that it has.
    #[inline]
    pub(super) fn add(&self, frame: PhysFrame) -> Give {
        let Some(bit) = self.bit_of(frame) else { return Give::Elsewhere };
        let mask = self.mask.load(Ordering::Relaxed);
        // SAFETY: the entry has a word, so `hold` stored the address of a `&'static`.
        let home = unsafe { &*self.home.load(Ordering::Relaxed) };
        // Relaxed: a free that came before this one, on any CPU, is seen.
        if (mask | home.load(Ordering::Relaxed)) & bit != 0 {
            return Give::Double;
        }
        self.mask.store(mask | bit, Ordering::Relaxed);
        Give::Taken
    }
}

/// What became of a frame given to a magazine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Give {
    Taken,
    /// It is free already.
    Double,
    /// The magazine does not have its word.
    Elsewhere,
}
