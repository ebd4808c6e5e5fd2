//! 512 bits in one cache line, each claimed and released atomically: the primitive of both
//! levels. A set bit is a free frame (of a block) or a free whole block (of a chunk).
//!
//! Splitting and merging is implicit: buddies are adjacent bits. The layout follows the bit
//! fields of LLFree (Wrenger et al., USENIX ATC 2023); claims of several words are new.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// Words in a line.
pub(crate) const WORDS: usize = 8;
/// Bits in a line.
pub(crate) const BITS: usize = 64 * WORDS;

/// Every bit of a [`AtomicBitmap512`], atomically by word.
#[repr(align(64))]
#[derive(Debug)]
pub(crate) struct AtomicBitmap512 {
    words: [AtomicU64; WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<AtomicBitmap512>() == 64);

/// An error of a release: some of the bits were free already, and the line is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// The bits already free.
    pub(crate) bits: u64,
}

/// The value of a word before and after a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) old: u64,
    pub(crate) new: u64,
}

impl Change {
    /// Returns true if hint and buddy may have to follow: the word was all zeros, or is all ones.
    #[inline]
    pub(crate) fn changes_hints(self) -> bool {
        self.old == 0 || self.new == u64::MAX
    }
}

/// Whether a failed claim of several words left the line unchanged throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimError {
    /// Nothing was touched.
    Untouched,
    /// Words were claimed and released: a concurrent reader saw too few bits.
    RolledBack,
}

impl AtomicBitmap512 {
    /// Creates a line with all bits clear.
    pub(crate) fn new() -> AtomicBitmap512 {
        AtomicBitmap512 { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Returns one word, for the comparison of a double free in a magazine.
    pub(crate) fn word(&self, word: usize) -> &AtomicU64 {
        &self.words[word % WORDS]
    }

    /// Loads one word. Acquire pairs with the Release of a claim: a reader of a claimed word
    /// also sees the claimer's transit count.
    pub(crate) fn load(&self, word: usize) -> u64 {
        self.words[word % WORDS].load(Ordering::Acquire)
    }

    /// Returns the words, each loaded separately.
    pub(crate) fn snapshot(&self) -> [u64; WORDS] {
        core::array::from_fn(|word| self.load(word))
    }

    /// Returns the number of set bits, counted word by word.
    pub(crate) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.load(Ordering::Acquire).count_ones()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Acquire) == u64::MAX)
    }

    pub(crate) fn test(&self, bit: usize) -> bool {
        self.load(bit / 64) & (1 << (bit % 64)) != 0
    }

    /// Sets one bit; for hints.
    pub(crate) fn set(&self, bit: usize) {
        self.words[bit / 64].fetch_or(1 << (bit % 64), Ordering::AcqRel);
    }

    /// Claims one bit. Returns true if the bit was set.
    pub(crate) fn take(&self, bit: usize) -> bool {
        let mask = 1 << (bit % 64);
        // Acquire as in `claim_word`. Release pairs with the Acquire of the next change of the
        // word: the later context sees the caller's earlier writes, even if the bit was not set.
        self.words[bit / 64].fetch_and(!mask, Ordering::AcqRel) & mask != 0
    }

    /// Clears one bit; for hints.
    pub(crate) fn clear(&self, bit: usize) {
        self.words[bit / 64].fetch_and(!(1 << (bit % 64)), Ordering::AcqRel);
    }

    /// Fills the line with `words`. The caller owns the line's clear bits. Release pairs with the
    /// claims' Acquire.
    pub(crate) fn fill(&self, words: [u64; WORDS]) {
        for (word, value) in self.words.iter().zip(words) {
            #[cfg(not(loom))]
            word.store(value, Ordering::Release);
            // loom would order the store before a `take` that ran earlier and found the bit clear,
            // and lose the bits; no machine does.
            #[cfg(loom)]
            word.swap(value, Ordering::Release);
        }
    }

    /// Returns true if a word has an aligned run of `2^order` set bits (order 0 to 6).
    pub(crate) fn has_run(&self, order: u32) -> bool {
        self.words.iter().any(|word| aligned_runs(word.load(Ordering::Acquire), order) != 0)
    }

    /// Claims every set bit of the first word with an aligned run of `2^order` set bits (order 0 to
    /// 6). Returns the word's index and the bits. If another CPU was faster, the bits may lack an aligned run.
    ///
    /// Bound: 8 loads and at most 8 swaps.
    pub(crate) fn claim_word(&self, order: u32) -> Option<(usize, u64)> {
        self.words.iter().enumerate().find_map(|(index, word)| {
            if aligned_runs(word.load(Ordering::Relaxed), order) == 0 {
                return None;
            }
            // Acquire pairs with the Release of `release`: the last owners' writes to the frames
            // happened before. Release pairs with the Acquire in `load`: a reader finding the
            // bits gone sees the claimer's transit count. Another CPU may have emptied the word
            // since the load.
            match word.swap(0, Ordering::AcqRel) {
                0 => None,
                bits => Some((index, bits)),
            }
        })
    }

    /// Claims an aligned run of `2^order` bits (order 0 to 9). Returns the first bit.
    ///
    /// Within a word, a run with a taken buddy is preferred, and words with all bits free are used
    /// last: large runs survive.
    ///
    /// Bound: lock-free; a word is retried only if another CPU changed it.
    pub(crate) fn claim_order(&self, order: u32) -> Result<usize, ClaimError> {
        if order > 6 {
            return self.claim_words(1 << (order - 6));
        }
        for spare_full in [true, false] {
            for (index, word) in self.words.iter().enumerate() {
                if spare_full && order < 6 && word.load(Ordering::Relaxed) == u64::MAX {
                    continue;
                }
                if let Some(bit) = self.claim_in_word(index, order) {
                    return Ok(bit);
                }
            }
        }
        Err(ClaimError::Untouched)
    }

    /// Claims an aligned run of `2^order` bits (order 0 to 6) in one word. Returns the first bit.
    ///
    /// Bound: as for [`AtomicBitmap512::claim_order`].
    pub(crate) fn claim_in_word(&self, index: usize, order: u32) -> Option<usize> {
        let word = &self.words[index % WORDS];
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let bit = best_fit(seen, order)?;
            let run = ones(1 << order) << bit;
            // Acquire pairs with the Release of `release`; Release as in `claim_word`.
            match word.compare_exchange_weak(seen, seen & !run, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(index % WORDS * 64 + bit as usize),
                Err(now) => seen = now,
            }
        }
    }

    /// Claims `count` whole words at a multiple of `count`. Returns the first bit.
    fn claim_words(&self, count: usize) -> Result<usize, ClaimError> {
        let mut missed = ClaimError::Untouched;
        for group in (0..WORDS).step_by(count) {
            let free =
                (group..group + count).all(|word| self.words[word].load(Ordering::Relaxed) == u64::MAX);
            if !free {
                continue;
            }
            match self.claim_run(group * 64, count * 64) {
                Ok(()) => return Ok(group * 64),
                Err(ClaimError::RolledBack) => missed = ClaimError::RolledBack,
                Err(ClaimError::Untouched) => {}
            }
        }
        Err(missed)
    }

    /// Claims exactly the `count` bits from `start` on, or nothing.
    ///
    /// Several words are claimed in sequence; if a claim fails, precisely the bits claimed so far
    /// are released.
    ///
    /// Bound: lock-free; a word is retried only if another CPU changed further bits of the word.
    pub(crate) fn claim_run(&self, start: usize, count: usize) -> Result<(), ClaimError> {
        for (index, mask) in masks(start, count) {
            let mut seen = self.words[index].load(Ordering::Relaxed);
            loop {
                if seen & mask != mask {
                    // Release pairs with the claims' Acquire: a claimer of the released bits sees the
                    // writes of the last owner, acquired by this claim.
                    let mut undone = ClaimError::Untouched;
                    for (claimed, bits) in masks(start, count).take_while(|&(claimed, _)| claimed < index) {
                        self.words[claimed].fetch_or(bits, Ordering::Release);
                        undone = ClaimError::RolledBack;
                    }
                    return Err(undone);
                }
                // Acquire pairs with the Release of `release`. Release pairs with the Acquire in
                // `load`: a reader finding the bits gone sees the claimer's transit count too.
                match self.words[index].compare_exchange_weak(
                    seen,
                    seen & !mask,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            }
        }
        Ok(())
    }

    /// Sets bits of one word, or refuses if any of the bits is already set.
    ///
    /// Bound: lock-free; retried only if another CPU changed the word.
    pub(crate) fn release(&self, word: usize, bits: u64) -> Result<Change, Overlap> {
        release(&self.words[word % WORDS], bits)
    }

    /// Returns a word of consecutive lines, counted from the first word of the first line.
    ///
    /// # Safety
    ///
    /// `lines` has more than `word / 8` lines.
    #[inline(always)]
    pub(crate) unsafe fn word_of(lines: &[AtomicBitmap512], word: usize) -> &AtomicU64 {
        // SAFETY: a line is an array of words, and nothing else. The words of consecutive
        // lines are consecutive; the caller vouches for the line.
        #[cfg(not(loom))]
        unsafe {
            &*lines.as_ptr().cast::<AtomicU64>().add(word)
        }
        // Loom's words are larger than the line's alignment leaves room for.
        #[cfg(loom)]
        &lines[word / WORDS].words[word % WORDS]
    }
}

/// Sets bits of a word as [`AtomicBitmap512::release`] does.
#[inline]
pub(crate) fn release(word: &AtomicU64, bits: u64) -> Result<Change, Overlap> {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        if seen & bits != 0 {
            return Err(Overlap { bits: seen & bits });
        }
        let new = seen | bits;
        // Release pairs with the claims' Acquire: the last writes to the frames come before the
        // next owner's. SeqCst pairs with the fence of a context about to wait for memory:
        // either the freeing context sees the waiter, or the waiter sees the frames.
        match word.compare_exchange_weak(seen, new, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(old) => return Ok(Change { old, new }),
            Err(now) => seen = now,
        }
    }
}

/// Returns a mask of the lowest `count` bits, 0 to 64.
pub(crate) const fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Returns the bits of an aligned run at the beginning of a word, of order 7 at most; all bits for orders 6 and 7.
#[inline(always)]
pub(in crate::frames) fn bits_of_run(order: Order) -> u64 {
    const BITS_OF_RUN: [u64; 8] = [1, 0b11, 0xf, 0xff, 0xffff, 0xffff_ffff, u64::MAX, u64::MAX];
    BITS_OF_RUN[order.get() as usize % BITS_OF_RUN.len()]
}

/// Returns the words of the run, each with the run's bits.
pub(crate) fn masks(start: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = (start + count).min(BITS);
    (start / 64..end.div_ceil(64)).map(move |word| {
        let from = start.max(word * 64) - word * 64;
        let to = end.min(word * 64 + 64) - word * 64;
        (word, ones((to - from) as u32) << from)
    })
}

/// Returns the start bits of the aligned free runs of `2^order` bits.
#[inline]
pub(in crate::frames) fn aligned_runs(word: u64, order: u32) -> u64 {
    /// Bits at multiples of `2^order`. Eight, so that the index needs no comparison.
    const ALIGNED: [u64; 8] = [
        u64::MAX,
        0x5555_5555_5555_5555,
        0x1111_1111_1111_1111,
        0x0101_0101_0101_0101,
        0x0001_0001_0001_0001,
        0x0000_0001_0000_0001,
        1,
        1,
    ];
    let (mut runs, mut shift) = (word, 1);
    for _ in 0..order.min(6) {
        runs &= runs >> shift;
        shift *= 2;
    }
    runs & ALIGNED[order as usize % ALIGNED.len()]
}

/// Returns the best bit to take `2^order` aligned bits of `word`: in the smallest free buddy run
/// with enough bits, the lowest of several runs.
fn best_fit(word: u64, order: u32) -> Option<u32> {
    let mut runs = aligned_runs(word, order);
    for level in order..6 {
        if runs == 0 {
            return None;
        }
        let larger = aligned_runs(word, level + 1);
        let lone = runs & !(larger | larger << (1 << level));
        if lone != 0 {
            return Some(lone.trailing_zeros());
        }
        runs = larger;
    }
    (runs != 0).then(|| runs.trailing_zeros())
}

/// Returns the number of maximal aligned runs of `2^0` to `2^9` set bits.
pub(crate) fn maximal_runs(words: &[u64; WORDS]) -> [u64; 10] {
    let mut runs = [0; 10];
    let mut words = *words;
    for order in (7..=9_usize).rev() {
        for group in words.chunks_exact_mut(1 << (order - 6)) {
            if group.iter().all(|&word| word == u64::MAX) {
                group.fill(0);
                runs[order] += 1;
            }
        }
    }
    for mut word in words {
        for order in (0..=6).rev() {
            let mut starts = aligned_runs(word, order);
            runs[order as usize] += u64::from(starts.count_ones());
            while starts != 0 {
                word &= !(ones(1 << order) << starts.trailing_zeros());
                starts &= starts - 1;
            }
        }
    }
    runs
}

/// Returns the first run of `count` set bits at a multiple of `align`.
pub(crate) fn find_run(words: &[u64; WORDS], count: usize, align: usize) -> Option<usize> {
    let mut found = None;
    let mut run = 0;
    for bit in (0..BITS).rev() {
        run = if words[bit / 64] & (1 << (bit % 64)) != 0 { run + 1 } else { 0 };
        if run >= count && bit % align == 0 {
            found = Some(bit);
        }
    }
    found
}

#[cfg(all(test, not(loom)))]
#[path = "bitmap_tests.rs"]
mod tests;
