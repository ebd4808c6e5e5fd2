//! The pattern in free blocks.
//!
//! All bytes of a free block hold the pattern, but for its first word, in which the plain heap has a
//! link. A new slab is filled as a whole, so no block is an exception.

use core::ptr::NonNull;

use crate::Order;
use crate::slab::SizeClass;

const PATTERN: u8 = 0x6b;
const PATTERN_WORD: u64 = u64::from_ne_bytes([PATTERN; 8]);

/// Bytes of the link.
const LINK: usize = 8;

/// Fills the block at `start`.
///
/// # Safety
///
/// The caller owns the block, which is of `class`.
pub(super) unsafe fn fill(start: NonNull<u8>, class: SizeClass) {
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(PATTERN, class.size()) };
}

/// Fills a run that becomes a slab.
///
/// # Safety
///
/// The caller owns the run.
pub(super) unsafe fn fill_run(run: NonNull<u8>, order: Order) {
    // SAFETY: the caller's promise.
    unsafe { run.write_bytes(PATTERN, order.bytes() as usize) };
}

/// Looks for the pattern in the block at `start`, which was free until now.
///
/// # Errors
///
/// The offset of the first byte that differs.
///
/// # Safety
///
/// The caller owns the block, which is of `class`.
pub(super) unsafe fn check(start: NonNull<u8>, class: SizeClass) -> Result<(), usize> {
    for offset in (LINK..class.size()).step_by(size_of::<u64>()) {
        // SAFETY: a block is aligned to a word, and as long as a multiple of a word.
        let word = unsafe { start.add(offset).cast::<u64>().read() };
        if word != PATTERN_WORD {
            return Err(offset + (word ^ PATTERN_WORD).trailing_zeros() as usize / 8);
        }
    }
    Ok(())
}
