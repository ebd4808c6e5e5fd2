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

/// Prepares the processor's cache for [`next`] of `object`, and for the owner's writes after that, if there is an
/// object: nothing is read or written. The object that is handed out next was often used last on another CPU, or long
/// ago.
#[inline(always)]
pub(crate) fn prefetch(object: Option<NonNull<u8>>) {
    let address = object.map_or(ptr::null_mut(), NonNull::as_ptr);
    #[cfg(all(target_arch = "x86_64", not(any(miri, loom))))]
    // SAFETY: a hint, which faults at no address. Processors without it do nothing (AMD64 manual 3, PREFETCHW).
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(any(miri, loom))))]
    // SAFETY: a hint, which faults at no address (Arm ARM, PRFM).
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) address.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), miri, loom))]
    let _ = address;
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
