//! A word of frames on its way through a magazine, and the place it has there.
//!
//! Written by the magazine's CPU alone, read by all: so every field is an atomic, used Relaxed.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The number of no word.
const VACANT: u64 = u64::MAX;

/// One word of a bitmap, some of whose frames the magazine holds.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The word's number: frame / 64.
    pub(super) key: AtomicU64,
    /// The frames held.
    pub(super) mask: AtomicU64,
    /// The word itself.
    home: AtomicPtr<AtomicU64>,
    _pad: u64,
}

/// A word taken out of a magazine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// Frame number / 64.
    pub(crate) key: u64,
    pub(crate) mask: u64,
}

impl Entry {
    pub(super) fn new() -> Entry {
        Entry {
            key: AtomicU64::new(VACANT),
            mask: AtomicU64::new(0),
            home: AtomicPtr::new(ptr::null_mut()),
            _pad: 0,
        }
    }

    pub(super) fn hold(&self, word: Word, home: &'static AtomicU64) {
        self.key.store(word.key, Ordering::Relaxed);
        self.home.store(ptr::from_ref(home).cast_mut(), Ordering::Relaxed);
        self.mask.store(word.mask, Ordering::Relaxed);
    }

    pub(super) fn vacate(&self) -> Option<Word> {
        let word = self.read();
        self.mask.store(0, Ordering::Relaxed);
        self.key.store(VACANT, Ordering::Relaxed);
        word
    }

    pub(super) fn read(&self) -> Option<Word> {
        let word = Word { key: self.key.load(Ordering::Relaxed), mask: self.mask.load(Ordering::Relaxed) };
        // Another CPU may see the key of one moment and the mask of another.
        (word.mask != 0 && word.key != VACANT).then_some(word)
    }

    /// Adds a frame of the word that the entry has.
    #[inline]
    pub(super) fn add(&self, bit: u64) -> Give {
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
