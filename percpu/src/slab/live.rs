//! Which objects of a slab callers hold.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Does this build check every free? Builds with debug assertions and the `hardened` feature do.
pub(crate) const CHECKED: bool = cfg!(any(debug_assertions, feature = "hardened"));

const WORDS: usize = 8;

/// The most objects that a slab may hold.
pub(super) const MAX_OBJECTS: usize = WORDS * 64;

/// A bit per object, set while a caller holds it, whether its slab, a magazine or the way home
/// holds it otherwise.
pub(crate) struct LiveMap {
    words: [AtomicU64; WORDS],
}

/// Is the object live, or was it before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WasLive {
    Yes,
    No,
}

impl LiveMap {
    pub(super) fn new() -> LiveMap {
        LiveMap { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Notes that a caller gets object `index`.
    pub(crate) fn set(&self, index: usize) {
        if let Some(word) = self.words.get(index / 64) {
            // Relaxed: a bit is a mark for error detection, and publishes nothing.
            word.fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
    }

    /// Does a caller hold object `index`?
    pub(crate) fn get(&self, index: usize) -> WasLive {
        let bit = 1 << (index % 64);
        let is = self.words.get(index / 64).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0);
        if is { WasLive::Yes } else { WasLive::No }
    }

    /// Notes that a caller gives object `index` back. Of two that free it at the same time,
    /// one is told [`WasLive::No`].
    pub(crate) fn clear(&self, index: usize) -> WasLive {
        let bit = 1 << (index % 64);
        let was =
            self.words.get(index / 64).is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0);
        if was { WasLive::Yes } else { WasLive::No }
    }
}
