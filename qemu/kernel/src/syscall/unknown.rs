//! System calls that the kernel does not have.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::log;

/// Numbers below this may be a system call of Linux's.
const NUMBERS: usize = 512;

/// Which numbers were reported, a bit each.
static REPORTED: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// Reports that a program has made the system call of this number: once each, as programs go on without.
pub(super) fn report(number: u32) {
    let bit = 1 << (number % 64);
    // Relaxed: only that one caller finds it clear.
    let is_new = |word: &AtomicU64| word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
    if REPORTED.get(number as usize / 64).is_some_and(is_new) {
        log!("there is no system call {number}");
    }
}
