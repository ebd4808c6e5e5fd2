//! A lock that nobody has to wait for.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::Platform;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::cell::UnsafeCell;

/// How long a caller of [`TryLock::lock`] may spin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: an interrupted context of this CPU may be the holder, or may hold what the
    /// holder waits for.
    None,
    /// For a while. The bound is what makes waiting safe: two CPUs whose handlers want each
    /// other's locks both give up and take their fallback.
    Bounded,
}

/// Turns of [`Patience::Bounded`]: far longer than any holder takes, short against a tick.
/// (Interpreters and models count every turn.)
const TURNS: usize = if cfg!(any(loom, miri)) { 4 } else { 4096 };

/// Data behind one flag. Every user has a fallback for the case that the lock is taken, so it
/// can be used in any context, NMI handlers included.
pub(crate) struct TryLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `taken` lets one context at a time reach `value`, which therefore only moves.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// A free lock around `value`.
    pub(crate) fn new(value: T) -> TryLock<T> {
        TryLock { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        // The load keeps a taken lock's line shared. Acquire pairs with the Release of the
        // last guard's drop: we see what the last holder wrote.
        if self.taken.load(Ordering::Relaxed) {
            return None;
        }
        self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Guard { lock: self })
    }

    /// Takes the lock, spinning as long as `patience` allows; `None` where it stayed taken.
    pub(crate) fn lock<P: Platform>(&self, platform: &P, patience: Patience) -> Option<Guard<'_, T>> {
        let turns = match patience {
            Patience::None => 0,
            Patience::Bounded => TURNS,
        };
        for _ in 0..turns {
            if let Some(guard) = self.try_lock() {
                return Some(guard);
            }
            platform.relax();
        }
        self.try_lock()
    }
}

impl<T> fmt::Debug for TryLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryLock").finish_non_exhaustive()
    }
}

/// Access to a [`TryLock`]'s data until dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    lock: &'a TryLock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, so nobody else reaches the value.
        self.lock.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is itself borrowed exclusively.
        self.lock.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `try_lock`.
        self.lock.taken.store(false, Ordering::Release);
    }
}
