//! The call site of an allocation, in one word of its block.

use core::fmt;
use core::num::NonZeroUsize;
use core::panic::Location;
use core::ptr;

#[cfg(feature = "leak-tracking")]
use super::Measure;
use crate::{Heap, PageSource, Platform};

/// The allocating call of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// The call of a function of the heap, in the source.
    Call(&'static Location<'static>),
    /// An allocation through [`GlobalAlloc`](core::alloc::GlobalAlloc), as [`PageSource::caller`] named it.
    Caller(Caller),
}

impl Site {
    /// Returns the caller's own call. Without leak tracking the result is a place in the heap, and
    /// unused.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub(in crate::heap) fn here() -> Option<Site> {
        Some(Site::Call(Location::caller()))
    }

    /// Returns the word for `site`: a location's address, with a clear lowest bit, or a caller's
    /// number with the lowest bit set. Null means no site.
    pub(super) fn encode(site: Option<Site>) -> *mut Location<'static> {
        match site {
            None => ptr::null_mut(),
            Some(Site::Call(location)) => ptr::from_ref(location).cast_mut(),
            Some(Site::Caller(caller)) => ptr::without_provenance_mut(caller.get() << 1 | 1),
        }
    }

    /// Returns the site for `word`.
    ///
    /// # Safety
    ///
    /// [`Site::encode`] returned `word`.
    pub(super) unsafe fn decode(word: *mut Location<'static>) -> Option<Site> {
        let address = word.addr();
        if address & 1 == 1 {
            return Caller::new((address.cast_signed() >> 1).cast_unsigned()).map(Site::Caller);
        }
        // SAFETY: the caller's promise: the word is null, or a location's address.
        unsafe { word.as_ref() }.map(Site::Call)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Call(location) => location.fmt(f),
            Site::Caller(caller) => caller.fmt(f),
        }
    }
}

/// A caller of the global allocator: a number with a meaning known to its [`PageSource`] only, such
/// as a return address, or the index of a backtrace in a table.
///
/// # Examples
///
/// ```
/// use topomem_percpu::Caller;
///
/// assert_eq!(Caller::new(0xffff_ffff_8000_1234).unwrap().get(), 0xffff_ffff_8000_1234);
/// assert_eq!(Caller::new(0), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(NonZeroUsize);

impl Caller {
    /// Returns the caller with this number. Returns `None` for zero, and for numbers with differing
    /// two highest bits, which canonical addresses never have.
    #[must_use]
    pub const fn new(number: usize) -> Option<Caller> {
        if (number << 1).cast_signed() >> 1 != number.cast_signed() {
            return None;
        }
        match NonZeroUsize::new(number) {
            Some(number) => Some(Caller(number)),
            None => None,
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "caller {:#x}", self.0)
    }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns the site of an allocation through `GlobalAlloc`.
    pub(in crate::heap) fn global_site(&self) -> Option<Site> {
        #[cfg(feature = "leak-tracking")]
        if self.hardening.has(Measure::Tracking) {
            return self.source.caller().map(Site::Caller);
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_site_comes_back_from_its_word() {
        // SAFETY: `encode` returned the word.
        let again = |site| unsafe { Site::decode(Site::encode(site)) };
        let here = Site::here();
        assert!(matches!(here, Some(Site::Call(_))));
        for site in [None, here] {
            assert_eq!(again(site), site);
        }
        for number in [1, 2, 0x1000, usize::MAX / 4, usize::MAX, usize::MAX << 62] {
            let caller = Caller::new(number).unwrap();
            assert_eq!(
                (again(Some(Site::Caller(caller))), caller.get()),
                (Some(Site::Caller(caller)), number)
            );
        }
        for number in [0, 1 << 62, 1 << 63, usize::MAX >> 1] {
            assert_eq!(Caller::new(number), None, "{number:#x}");
        }
    }
}
