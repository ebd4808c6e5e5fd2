//! The numbers that order a domain's invalidations.

/// Counts a domain's invalidations: a CPU that has seen generation *n* holds no translation
/// that an invalidation up to *n* removed.
///
/// 64 bits: at a thousand million invalidations a second, it wraps after five centuries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub(crate) u64);

impl Generation {
    /// Before every generation: what a CPU has seen that may hold anything.
    pub const NONE: Generation = Generation(0);

    /// A domain's generation before its first invalidation.
    pub(crate) const FIRST: Generation = Generation(1);

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
