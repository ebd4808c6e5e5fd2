//! The pattern in free blocks.
//!
//! All bytes of a free block hold the pattern, except its first word, which holds a link of the
//! plain heap. A new slab is filled as a whole, so no block is an exception.

use core::ptr::NonNull;

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Hardening, Measure};
use crate::Order;
use crate::slab::SizeClass;

/// Bytes of the link.
const LINK: usize = 8;

/// Bytes at the end of a block that remote CPUs may read concurrently
/// ([`tracking`](super::tracking)).
const TAIL: usize = 16;

/// Returns the byte that fills free blocks, if any.
pub(super) const fn pattern(hardening: Hardening) -> Option<u8> {
    if hardening.has(Measure::ZeroOnFree) {
        Some(0)
    } else if hardening.has(Measure::Poison) {
        Some(0x6b)
    } else {
        None
    }
}

/// Fills the block at `start`.
///
/// # Safety
///
/// The caller owns the block, which is of `class`.
pub(super) unsafe fn fill(start: NonNull<u8>, class: SizeClass, pattern: u8) {
    // SAFETY: the caller's promise.
    unsafe { fill_bytes(start, class.size(), pattern) };
}

/// Fills the block of `bytes` at `start`.
///
/// # Safety
///
/// The caller owns the block, which is aligned to a word, and as long as a multiple of a word.
pub(super) unsafe fn fill_bytes(start: NonNull<u8>, bytes: usize, pattern: u8) {
    let body = bytes.saturating_sub(TAIL);
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(pattern, body) };
    for offset in (body..bytes).step_by(size_of::<u64>()) {
        // SAFETY: the caller's promise.
        let word = unsafe { AtomicU64::from_ptr(start.add(offset).cast().as_ptr()) };
        word.store(u64::from_ne_bytes([pattern; 8]), Ordering::Relaxed);
    }
}

/// Overwrites the last word of the block at `start`, freed without a pattern: a seal, or the mark
/// of an object left there (see `place`), would confirm a wrong layout of the next owner.
///
/// # Safety
///
/// As for [`fill`].
pub(super) unsafe fn strike(start: NonNull<u8>, class: SizeClass) {
    // SAFETY: the caller's promise; a block is as long as a multiple of a word.
    let last = unsafe { AtomicU64::from_ptr(start.add(class.size() - size_of::<u64>()).cast().as_ptr()) };
    last.store(0, Ordering::Relaxed);
}

/// Fills a run for its use as a slab.
///
/// # Safety
///
/// The caller owns the run.
pub(super) unsafe fn fill_run(run: NonNull<u8>, order: Order, pattern: u8) {
    // SAFETY: the caller's promise.
    unsafe { run.write_bytes(pattern, order.bytes() as usize) };
}

/// Checks the pattern in the block at `start`, free until now.
///
/// # Errors
///
/// Returns the offset of the first byte that differs from the pattern.
///
/// # Safety
///
/// The caller owns the block, which is of `class`.
pub(super) unsafe fn check(start: NonNull<u8>, class: SizeClass, pattern: u8) -> Result<(), usize> {
    let expected = u64::from_ne_bytes([pattern; 8]);
    for offset in (LINK..class.size()).step_by(size_of::<u64>()) {
        // SAFETY: a block is aligned to a word, and as long as a multiple of a word.
        let word = unsafe { start.add(offset).cast::<u64>().read() };
        if word != expected {
            return Err(offset + (word ^ expected).trailing_zeros() as usize / 8);
        }
    }
    Ok(())
}
