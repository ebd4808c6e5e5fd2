//! A word of a bitmap: 64 frames.

use topomem_percpu::sync::atomic::AtomicU64;

use super::block::BlockEntry;
use super::marks::WordMarks;
use crate::frames::types::{FrameNumber, WordNumber};

/// Frames of one word of a bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) key: WordNumber,
    /// A bit for each frame.
    pub(crate) mask: u64,
}

impl Word {
    pub(crate) fn frames(self) -> u64 {
        u64::from(self.mask.count_ones())
    }

    /// Returns the number of the word's lowest frame.
    pub(crate) fn first(self) -> FrameNumber {
        self.key.lowest_of(self.mask)
    }
}

/// The permanent places of a word's frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) word: &'static AtomicU64,
    /// The state of the word's block.
    pub(crate) state: &'static BlockEntry,
    /// In paranoid mode.
    pub(crate) marks: Option<&'static WordMarks>,
}
