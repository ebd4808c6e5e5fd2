//! The links between free objects: each free object's first word names the next one.

use core::ptr::{self, NonNull};

/// Reads where the free object `object` points. With the feature `encoded-free-lists` a word that is no link
/// is noted, and leads nowhere.
///
/// # Safety
///
/// `object` is a free object that the caller owns, last written by [`link`].
#[inline]
pub(crate) unsafe fn next(object: NonNull<u8>) -> Option<NonNull<u8>> {
    // SAFETY: an object is at least a word, word-aligned, and the caller owns this one.
    let word = unsafe { object.cast::<*mut u8>().read() };
    #[cfg(feature = "encoded-free-lists")]
    let word = super::encoding::decode(word, object);
    NonNull::new(word)
}

/// Makes the free object `object` point to `next`.
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
