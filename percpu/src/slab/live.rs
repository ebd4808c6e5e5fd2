//! The objects of a slab held by callers.

use crate::sync::atomic::{AtomicU64, Ordering};

/// True if this build checks every free: builds with debug assertions and the `hardened` feature
/// do.
pub(crate) const CHECKED: bool = cfg!(any(debug_assertions, feature = "hardened"));

const WORDS: usize = 8;

/// The maximum number of objects of a slab.
pub(super) const MAX_OBJECTS: usize = WORDS * 64;

/// A bit per object, set while a caller holds it, and clear while its slab, a magazine or a remote
/// stack holds it.
pub(crate) struct LiveMap {
    words: [AtomicU64; WORDS],
}

/// Whether the object is live, or was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WasLive {
    Yes,
    No,
}

impl LiveMap {
    pub(super) fn new() -> LiveMap {
        LiveMap { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Records that a caller receives object `index`.
    pub(crate) fn set(&self, index: usize) {
        if let Some(word) = self.words.get(index / 64) {
            // Relaxed: a bit is a mark for error detection, and publishes nothing.
            word.fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
    }

    /// Returns whether a caller holds object `index`.
    pub(crate) fn get(&self, index: usize) -> WasLive {
        let bit = 1 << (index % 64);
        let is = self.words.get(index / 64).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0);
        if is { WasLive::Yes } else { WasLive::No }
    }

    /// Records that a caller frees object `index`. Of two concurrent frees, one receives
    /// [`WasLive::No`].
    pub(crate) fn clear(&self, index: usize) -> WasLive {
        let bit = 1 << (index % 64);
        let was =
            self.words.get(index / 64).is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0);
        if was { WasLive::Yes } else { WasLive::No }
    }
}
