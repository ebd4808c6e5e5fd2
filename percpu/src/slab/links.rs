//! The links between free objects: each free object's first word links to the next one.

use core::ptr::{self, NonNull};

/// Returns the object linked from the free object `object`. With the feature `encoded-free-lists`
/// an invalid link is recorded, and `None` is returned.
///
/// # Safety
///
/// `object` is a free object owned by the caller, last written by [`link`].
#[inline]
pub(crate) unsafe fn next(object: NonNull<u8>) -> Option<NonNull<u8>> {
    // SAFETY: an object is at least a word, word-aligned, and the caller owns this one.
    let word = unsafe { object.cast::<*mut u8>().read() };
    #[cfg(feature = "encoded-free-lists")]
    let word = super::encoding::decode(word, object);
    NonNull::new(word)
}

/// Links the free object `object` to `next`.
///
/// # Safety
///
/// The caller owns `object`, an object of a slab.
#[inline]
pub(crate) unsafe fn link(object: NonNull<u8>, next: Option<NonNull<u8>>) {
    let word = next.map_or(ptr::null_mut(), NonNull::as_ptr);
    #[cfg(feature = "encoded-free-lists")]
    let word = super::encoding::encode(word, object);
    // SAFETY: as in `next`.
    unsafe { object.cast::<*mut u8>().write(word) };
}
