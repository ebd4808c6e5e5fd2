//! Whole words of blocks held by a CPU: runs of 64, 128 and 256 frames, orders 6 to 8.
//!
//! A magazine's [`Entry`](super::entry::Entry) holds frames of one word; similarly, a place here
//! holds words of one block. A word is held only while all frames of the word are free and not held
//! elsewhere. Written by the magazine's CPU alone, read by all CPUs: every field is an atomic.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{Order, PhysAddr, PhysFrame};

use super::count::Count;
use super::entry::{Insertion, SPAN, base_of};
use crate::frames::region::bitmap::{AtomicBitmap512, WORDS, aligned_runs};
use crate::frames::region::block::BlockEntry;
use crate::frames::region::word::Word;
use crate::frames::types::{BLOCK, BlockNumber, FrameNumber, WordNumber};

/// The maximum number of blocks with a place: 32 MiB.
const PLACES: usize = 16;

/// The base of no block.
const VACANT: u64 = u64::MAX;

/// The order of a word.
pub(in crate::frames) const WORD_ORDER: u8 = 6;

/// Returns true if a run of `order` consists of whole words of a block.
#[inline]
pub(in crate::frames) fn is_of_words(order: Order) -> bool {
    (WORD_ORDER..Order::HUGE.get()).contains(&order.get())
}

/// Words of blocks, each block in the place selected by the low bits of the block's number.
#[derive(Debug)]
pub(crate) struct HeldWords {
    /// The number of places in use: a power of two, or 0.
    places: u32,
    /// The place of the last run taken or added.
    current: AtomicU32,
    blocks: [HeldBlock; PLACES],
}

/// One block with held words.
#[derive(Debug)]
pub(crate) struct HeldBlock {
    /// The physical address of the block's first frame.
    base: AtomicU64,
    /// The words held, a bit for each.
    mask: AtomicU64,
    line: AtomicPtr<AtomicBitmap512>,
    state: AtomicPtr<BlockEntry>,
}

/// The permanent places of a block's frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockHome {
    /// The block's first frame.
    pub(crate) first: FrameNumber,
    pub(crate) line: &'static AtomicBitmap512,
    pub(crate) state: &'static BlockEntry,
}

/// Returns the difference of `order` (6 to 8) and the order of a word.
#[inline]
fn level(order: Order) -> u32 {
    u32::from(order.get().wrapping_sub(WORD_ORDER)) & 3
}

/// Returns the number of words in a run of `order` (6 to 8).
#[inline]
pub(super) fn words_of(order: Order) -> usize {
    1 << level(order)
}

/// Returns a mask of as many low bits as a run of `order` (6 to 8) has words.
#[inline]
pub(in crate::frames) fn mask_of(order: Order) -> u64 {
    const MASKS: [u64; 4] = [0b1, 0b11, 0b1111, 0b1111_1111];
    MASKS[level(order) as usize]
}

/// Returns the frame at the physical address `base`.
fn frame_at(base: u64) -> FrameNumber {
    FrameNumber::containing(PhysAddr::new(base))
}

/// Returns the bits of an address within a run of `order` (6 to 8).
#[inline]
fn within(order: Order) -> u64 {
    const WITHIN: [u64; 4] = [SPAN - 1, 2 * SPAN - 1, 4 * SPAN - 1, 8 * SPAN - 1];
    WITHIN[level(order) as usize]
}

macro_rules! vacant {
    () => {
        HeldBlock {
            base: AtomicU64::new(VACANT),
            mask: AtomicU64::new(0),
            line: AtomicPtr::new(ptr::null_mut()),
            state: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

impl HeldWords {
    /// Creates an empty set, with places for at most `room` blocks.
    #[cfg(not(loom))]
    pub(super) const fn new(room: usize) -> HeldWords {
        HeldWords { places: places(room), current: AtomicU32::new(0), blocks: [const { vacant!() }; PLACES] }
    }

    /// Creates an empty set (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new(room: usize) -> HeldWords {
        let blocks = core::array::from_fn(|_| vacant!());
        HeldWords { places: places(room), current: AtomicU32::new(0), blocks }
    }

    /// Returns the index of the place for a block.
    #[inline]
    fn index_of(&self, block: BlockNumber) -> u32 {
        block.get() as u32 & self.places.wrapping_sub(1)
    }

    #[inline]
    fn at(&self, index: u32) -> &HeldBlock {
        &self.blocks[index as usize % PLACES]
    }

    /// Takes a run of `order` (6 to 8) out, counted in `taken`. Returns the run's first frame.
    ///
    /// Bound: a check of each place.
    #[inline(always)]
    pub(super) fn take(&self, order: Order, taken: &Count) -> Option<PhysFrame> {
        let first = self.at(self.current.load(Ordering::Relaxed));
        first.take(order, taken).or_else(|| self.take_elsewhere(order, taken))
    }

    #[inline(never)]
    fn take_elsewhere(&self, order: Order, taken: &Count) -> Option<PhysFrame> {
        let (places, first) = (self.places, self.current.load(Ordering::Relaxed));
        (1..places).map(|offset| (first + offset) & (places - 1)).find_map(|index| {
            let run = self.at(index).take(order, taken)?;
            self.current.store(index, Ordering::Relaxed);
            Some(run)
        })
    }

    /// Adds a run of `order` (6 to 8), if the run's block has a place.
    #[inline(always)]
    pub(super) fn add(&self, frame: PhysFrame, order: Order) -> Insertion {
        let index = self.index_of(FrameNumber::of(frame).block());
        let inserted = self.at(index).add(frame, order);
        if inserted == Insertion::Taken {
            self.current.store(index, Ordering::Relaxed);
        }
        inserted
    }

    /// Returns the place for the block from the frame numbered `first` on, if any.
    pub(in crate::frames) fn place_of(&self, first: FrameNumber) -> Option<&HeldBlock> {
        (self.places > 0).then(|| self.at(self.index_of(first.block())))
    }

    /// Returns the places in use.
    pub(in crate::frames) fn iter(&self) -> impl Iterator<Item = &HeldBlock> {
        self.blocks.iter().take(self.places as usize)
    }

    /// Returns the first frame of each block with a place.
    pub(super) fn firsts(&self) -> impl Iterator<Item = FrameNumber> {
        let bases = self.iter().map(|block| block.base.load(Ordering::Relaxed));
        bases.filter(|&base| base != VACANT).map(frame_at)
    }

    /// Returns every held word; an estimate while the owner continues.
    pub(super) fn words(&self) -> impl Iterator<Item = Word> {
        self.iter().flat_map(|block| {
            let (first, mask) = block.read();
            let held = (0..WORDS as u64).filter(move |word| mask >> word & 1 != 0);
            held.map(move |word| Word { key: first.word() + word, mask: u64::MAX })
        })
    }

    /// Returns true if the word numbered `key` is held. For contexts of the owning CPU.
    #[inline]
    pub(in crate::frames) fn has(&self, key: WordNumber) -> bool {
        let block = self.at(self.index_of(key.block()));
        block.word_of(base_of(key)).is_some_and(|word| block.mask.load(Ordering::Relaxed) >> word & 1 != 0)
    }
}

const fn places(room: usize) -> u32 {
    match room {
        0 => 0,
        1..PLACES => 1 << room.ilog2(),
        _ => PLACES as u32,
    }
}

impl HeldBlock {
    /// Returns the number of the word at `address` in the block, or `None` if the address is not in
    /// it.
    #[inline]
    fn word_of(&self, address: u64) -> Option<usize> {
        let word = (address ^ self.base.load(Ordering::Relaxed)) / SPAN;
        (word < WORDS as u64).then_some(word as usize)
    }

    /// Returns true if the place is of the block from the frame numbered `first` on.
    pub(in crate::frames) fn is_of(&self, first: FrameNumber) -> bool {
        self.base.load(Ordering::Relaxed) == first.get() << 12
    }

    #[inline(always)]
    fn take(&self, order: Order, taken: &Count) -> Option<PhysFrame> {
        let mask = self.mask.load(Ordering::Relaxed);
        let runs = aligned_runs(mask, level(order));
        if runs == 0 {
            return None;
        }
        let word = runs.trailing_zeros();
        taken.add(1);
        // Release pairs with the Acquire in `read`: a reader finding the frames gone sees the frames
        // counted.
        self.mask.store(mask & !(mask_of(order) << word), Ordering::Release);
        let address = self.base.load(Ordering::Relaxed) + u64::from(word) * SPAN;
        // SAFETY: a held block's base is the address of managed frames, so below 2^52; base and offset
        // are multiples of 4096.
        Some(unsafe { PhysFrame::from_start_address_unchecked(PhysAddr::new(address)) })
    }

    #[inline(always)]
    fn add(&self, frame: PhysFrame, order: Order) -> Insertion {
        let address = frame.start_address().as_u64();
        let Some(word) = self.word_of(address) else { return Insertion::Elsewhere };
        if address & within(order) != 0 {
            return Insertion::Elsewhere;
        }
        let mask = self.mask.load(Ordering::Relaxed);
        let run = mask_of(order) << word;
        // SAFETY: the place has a block, so `hold` stored the addresses of two `&'static`.
        let (line, state) =
            unsafe { (&*self.line.load(Ordering::Relaxed), &*self.state.load(Ordering::Relaxed)) };
        // A block without a bitmap keeps no bits in the line. A block keeps the bitmap while words are held.
        if mask == 0 && !state.load().has_bitmap() {
            return Insertion::Elsewhere;
        }
        // A free ordered before this one, on any CPU, is seen.
        let home = (word..word + words_of(order)).fold(0, |bits, word| bits | line.load(word));
        if mask & run != 0 || home != 0 {
            return Insertion::Double;
        }
        self.mask.store(mask | run, Ordering::Relaxed);
        Insertion::Taken
    }

    /// Assigns the place to a block with the held words `mask`.
    pub(super) fn hold(&self, home: BlockHome, mask: u64) {
        self.base.store(home.first.get() << 12, Ordering::Relaxed);
        self.line.store(ptr::from_ref(home.line).cast_mut(), Ordering::Relaxed);
        self.state.store(ptr::from_ref(home.state).cast_mut(), Ordering::Relaxed);
        // Release pairs with the Acquire in `read`: a reader finding the frames here finds the frames
        // nowhere else.
        self.mask.store(mask, Ordering::Release);
    }

    /// Returns true if no words are held here.
    pub(in crate::frames) fn is_empty(&self) -> bool {
        self.mask.load(Ordering::Relaxed) == 0
    }

    /// Returns the block's first frame, and the held words. Acquire pairs with the Release in
    /// `hold`, `take` and `remove`.
    fn read(&self) -> (FrameNumber, u64) {
        let (base, mask) = (self.base.load(Ordering::Relaxed), self.mask.load(Ordering::Acquire));
        // Another CPU may see the base and the mask of different moments.
        if base == VACANT { (FrameNumber::ZERO, 0) } else { (frame_at(base), mask) }
    }

    /// Returns one of the held words.
    pub(in crate::frames) fn top(&self) -> Option<Word> {
        let (first, mask) = self.read();
        let word = u64::from(mask.checked_ilog2()?);
        Some(Word { key: first.word() + word, mask: u64::MAX })
    }

    /// Takes a word out. The caller is in transit.
    pub(in crate::frames) fn remove(&self, word: Word) {
        let mask = self.mask.load(Ordering::Relaxed) & !(1 << word.key.index_in_block());
        // Release pairs with the Acquire in `read`: a reader that finds the frames gone sees the
        // caller in transit.
        self.mask.store(mask, Ordering::Release);
    }

    /// Releases the place of the block, which has no held words.
    pub(in crate::frames) fn vacate(&self) {
        self.base.store(VACANT, Ordering::Relaxed);
    }
}

const _: () = assert!(SPAN * WORDS as u64 == BLOCK << 12 && SPAN == 4096 << WORD_ORDER);
