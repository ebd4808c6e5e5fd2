//! A spin lock whose waiters poll the shootdown queue.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};

use topomem_percpu::Platform;
use topomem_percpu::sync::atomic::{AtomicBool, Ordering};

/// A value used by a single context at a time, for a short time with a stated bound.
///
/// Unlike `spin::Mutex`, waiters spin through the platform's own `relax`, which serves shootdowns.
/// Not for interrupt handlers.
pub(crate) struct SpinLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `held` lets only one context at a time reach the value.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> SpinLock<T> {
        SpinLock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[cfg(loom)]
    pub fn new(value: T) -> SpinLock<T> {
        SpinLock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free, and locks it.
    pub(crate) fn lock(&self, platform: &impl Platform) -> SpinGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            while self.held.load(Ordering::Relaxed) {
                platform.relax();
            }
        }
    }

    /// Locks the lock if it is free.
    pub(crate) fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        // Acquire pairs with the Release in the guard's drop.
        if self.held.swap(true, Ordering::Acquire) { None } else { Some(SpinGuard { lock: self }) }
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock").finish_non_exhaustive()
    }
}

pub(crate) struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and `self` is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use core::ptr::NonNull;

    use topomem_percpu::CpuId;

    use super::*;

    static LOCK: SpinLock<u32> = SpinLock::new(7);

    /// A CPU whose lock's holder proceeds only when the CPU relaxes.
    struct Waiting;

    // SAFETY: a lock asks neither for the CPU nor for memory.
    unsafe impl Platform for Waiting {
        fn current_cpu(&self) -> CpuId {
            CpuId::BOOT
        }

        fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
            NonNull::dangling()
        }

        fn relax(&self) {
            LOCK.held.store(false, Ordering::Release);
        }
    }

    #[test]
    fn waiters_turn_through_relax() {
        core::mem::forget(LOCK.try_lock());
        assert_eq!(*LOCK.lock(&Waiting), 7);
    }
}
