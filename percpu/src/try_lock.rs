//! A lock with a fallback: no caller has to wait for it.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::{CpuPin, Platform};

/// The spinning allowed to a caller of [`TryLock::lock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// No spinning: the caller is nested in another use of the heap, which may hold a resource that
    /// the lock's holder waits for.
    None,
    /// A bounded number of turns, and only while the holder is on another CPU. A holder on the
    /// caller's own CPU is a context interrupted by the caller, so it cannot continue before the
    /// caller has returned. The bound makes waiting for other CPUs safe: two CPUs whose handlers
    /// want each other's locks both give up and take their fallback.
    Bounded,
}

/// Turns of [`Patience::Bounded`]: far longer than any holder takes, and short against a tick.
/// (Interpreters and models count every turn.)
const TURNS: usize = if cfg!(any(loom, miri)) { 4 } else { 4096 };

/// No CPU holds the lock.
const FREE: u32 = 0;

/// Data behind one word. Every user has a fallback for a taken lock, so the lock can be used in any
/// context, NMI handlers included.
pub(crate) struct TryLock<T> {
    /// [`FREE`], or the number of the holder's CPU plus one.
    holder: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: `holder` admits one context at a time to `value`, which therefore only moves.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// Creates a free lock around `value`.
    pub(crate) fn new(value: T) -> TryLock<T> {
        TryLock { holder: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, or returns the word of the holder's CPU.
    fn try_lock(&self, me: u32) -> Result<Guard<'_, T>, u32> {
        // The load keeps a taken lock's line shared. Acquire pairs with the Release of the last
        // guard's drop: makes the writes of the last holder visible.
        match self.holder.load(Ordering::Relaxed) {
            FREE => {}
            holder => return Err(holder),
        }
        self.holder.compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed)?;
        Ok(Guard { lock: self })
    }

    /// Takes the lock, spinning as long as `patience` allows. Returns `None` if the lock stayed
    /// taken.
    pub(crate) fn lock<P: Platform>(
        &self,
        platform: &P,
        pin: &CpuPin,
        patience: Patience,
    ) -> Option<Guard<'_, T>> {
        // A CPU's index is below `MAX_CPUS`.
        let me = pin.cpu().index() as u32 + 1;
        let turns = match patience {
            Patience::None => 0,
            Patience::Bounded => TURNS,
        };
        for _ in 0..turns {
            match self.try_lock(me) {
                Ok(guard) => return Some(guard),
                Err(holder) if holder == me => return None,
                Err(_) => platform.relax(),
            }
        }
        self.try_lock(me).ok()
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
        // SAFETY: the guard holds the lock, so no other context accesses the value.
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
        self.lock.holder.store(FREE, Ordering::Release);
    }
}
