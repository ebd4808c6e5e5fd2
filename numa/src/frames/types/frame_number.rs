//! Frames, words and blocks by number, and the conversions between the numbers.
//!
//! A frame's number is its physical address divided by 4096. A word of a bitmap has 64 frames, and a block has 512
//! frames, or 8 words. Words and blocks are numbered from address 0 as frames are. Each conversion is a shift or a mask.

use core::ops::{Add, Sub};

use topomem_percpu::{PhysAddr, PhysFrame};

/// Frames per word of a bitmap.
const WORD: u64 = 64;
/// Frames per block.
pub(crate) const BLOCK: u64 = 512;

/// A frame's number: its physical address divided by 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct FrameNumber(u64);

impl FrameNumber {
    /// The frame at address 0.
    pub(crate) const ZERO: FrameNumber = FrameNumber(0);
    /// Above the number of every frame: as a limit, no limit.
    pub(crate) const MAX: FrameNumber = FrameNumber(u64::MAX);

    #[inline(always)]
    pub(crate) const fn new(number: u64) -> FrameNumber {
        FrameNumber(number)
    }

    #[inline(always)]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of a frame.
    #[inline(always)]
    pub(crate) const fn of(frame: PhysFrame) -> FrameNumber {
        FrameNumber::containing(frame.start_address())
    }

    /// Returns the number of the frame around a physical address.
    #[inline(always)]
    pub(crate) const fn containing(address: PhysAddr) -> FrameNumber {
        FrameNumber(address.as_u64() >> 12)
    }

    /// Returns the frame with this number.
    #[inline(always)]
    pub(crate) const fn frame(self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(self.0 << 12))
    }

    /// Returns the number of the frame's word.
    #[inline(always)]
    pub(crate) const fn word(self) -> WordNumber {
        WordNumber(self.0 / WORD)
    }

    /// Returns the frame's bit in the word, counted from 0.
    #[inline(always)]
    pub(crate) const fn bit_in_word(self) -> u64 {
        self.0 % WORD
    }

    /// Returns a mask of the frame's bit in the word.
    #[inline(always)]
    pub(crate) const fn mask_in_word(self) -> u64 {
        1 << self.bit_in_word()
    }

    /// Returns the number of the frame's block.
    #[inline(always)]
    pub(crate) const fn block(self) -> BlockNumber {
        BlockNumber(self.0 / BLOCK)
    }

    /// Returns the frame's bit in the line of the block, counted from 0.
    #[inline(always)]
    pub(crate) const fn bit_in_block(self) -> usize {
        (self.0 % BLOCK) as usize
    }

    /// Returns true if the number is a multiple of `frames`, a power of two.
    #[inline(always)]
    pub(crate) const fn is_multiple_of(self, frames: u64) -> bool {
        self.0.is_multiple_of(frames)
    }

    /// Returns the greatest multiple of `frames`, a power of two, that is not above the number.
    #[inline(always)]
    pub(crate) const fn align_down(self, frames: u64) -> FrameNumber {
        FrameNumber(self.0 & !(frames - 1))
    }

    /// Returns the frame `frames` frames further up, if its number has 64 bits.
    #[inline(always)]
    pub(crate) fn checked_add(self, frames: u64) -> Option<FrameNumber> {
        self.0.checked_add(frames).map(FrameNumber)
    }

    /// Returns how many frames lie from `first` up to this frame, or `None` if `first` is above it.
    #[inline(always)]
    pub(crate) const fn checked_sub(self, first: FrameNumber) -> Option<u64> {
        self.0.checked_sub(first.0)
    }

    /// Returns how many frames lie from `first` up to this frame, or 0 if `first` is above it.
    #[inline(always)]
    pub(crate) const fn saturating_sub(self, first: FrameNumber) -> u64 {
        self.0.saturating_sub(first.0)
    }
}

impl Add<u64> for FrameNumber {
    type Output = FrameNumber;

    #[inline(always)]
    fn add(self, frames: u64) -> FrameNumber {
        FrameNumber(self.0 + frames)
    }
}

impl Sub for FrameNumber {
    type Output = u64;

    /// Returns how many frames lie from `first` up to this frame.
    #[inline(always)]
    fn sub(self, first: FrameNumber) -> u64 {
        self.0 - first.0
    }
}

/// The number of a word of a bitmap: the number of its first frame divided by 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct WordNumber(u64);

impl WordNumber {
    #[inline(always)]
    pub(crate) const fn new(number: u64) -> WordNumber {
        WordNumber(number)
    }

    #[inline(always)]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of a frame's word.
    #[inline(always)]
    pub(crate) const fn of(frame: PhysFrame) -> WordNumber {
        FrameNumber::of(frame).word()
    }

    /// Returns the word's first frame.
    #[inline(always)]
    pub(crate) const fn first_frame(self) -> FrameNumber {
        FrameNumber(self.0 * WORD)
    }

    /// Returns the frame of the lowest bit of `mask`, which is not 0.
    #[inline(always)]
    pub(crate) fn lowest_of(self, mask: u64) -> FrameNumber {
        self.first_frame() + u64::from(mask.trailing_zeros())
    }

    /// Returns a mask of the word's frames below `end`.
    #[inline(always)]
    pub(crate) const fn mask_below(self, end: FrameNumber) -> u64 {
        match end.saturating_sub(self.first_frame()) {
            frames @ 0..WORD => (1 << frames) - 1,
            _ => u64::MAX,
        }
    }

    /// Returns the word's number in its block, counted from 0.
    #[inline(always)]
    pub(crate) const fn index_in_block(self) -> usize {
        (self.0 % (BLOCK / WORD)) as usize
    }

    /// Returns the word's block.
    #[inline(always)]
    pub(crate) const fn block(self) -> BlockNumber {
        BlockNumber(self.0 / (BLOCK / WORD))
    }

    /// Returns every word from `self` up to `end`, not included.
    pub(crate) fn up_to(self, end: WordNumber) -> impl Iterator<Item = WordNumber> + Clone {
        (self.0..end.0).map(WordNumber)
    }
}

impl Add<u64> for WordNumber {
    type Output = WordNumber;

    #[inline(always)]
    fn add(self, words: u64) -> WordNumber {
        WordNumber(self.0 + words)
    }
}

/// The number of a block: the number of its first frame divided by 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct BlockNumber(u64);

impl BlockNumber {
    #[inline(always)]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// Returns the block's first frame.
    #[inline(always)]
    pub(crate) const fn first_frame(self) -> FrameNumber {
        FrameNumber(self.0 * BLOCK)
    }

    /// Returns the block's first word.
    #[inline(always)]
    pub(crate) const fn first_word(self) -> WordNumber {
        WordNumber(self.0 * (BLOCK / WORD))
    }
}

impl Add<u64> for BlockNumber {
    type Output = BlockNumber;

    #[inline(always)]
    fn add(self, blocks: u64) -> BlockNumber {
        BlockNumber(self.0 + blocks)
    }
}

impl Sub for BlockNumber {
    type Output = u64;

    /// Returns how many blocks lie from `first` up to this block.
    #[inline(always)]
    fn sub(self, first: BlockNumber) -> u64 {
        self.0 - first.0
    }
}
