//! A word of a bitmap: 64 frames.

use topomem_percpu::sync::atomic::AtomicU64;

use super::block::BlockEntry;
use super::marks::WordMarks;

/// A word taken out of a magazine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// Frame number / 64.
    pub(crate) key: u64,
    pub(crate) mask: u64,
}

impl Word {
    pub(crate) fn frames(self) -> u64 {
        u64::from(self.mask.count_ones())
    }

    /// Returns the number of the word's lowest frame.
    pub(crate) fn first(self) -> u64 {
        self.key * 64 + u64::from(self.mask.trailing_zeros())
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
