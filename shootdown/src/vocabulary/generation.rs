//! The numbers ordering a domain's invalidations.

/// The number of an invalidation of a domain. A CPU with generation *n* seen holds no translation
/// removed by an invalidation up to *n*.
///
/// 64 bits suffice: at a thousand million invalidations a second, the counter wraps after five
/// centuries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub(crate) u64);

impl Generation {
    /// The generation before all generations, of a CPU with arbitrary translations.
    pub const NONE: Generation = Generation(0);

    /// A domain's generation before its first invalidation.
    pub(crate) const FIRST: Generation = Generation(1);

    /// Returns the number.
    ///
    /// ```
    /// use topomem_shootdown::Generation;
    ///
    /// assert_eq!(Generation::NONE.get(), 0);
    /// ```
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
