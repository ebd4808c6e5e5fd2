//! The kernel's lock: whoever has it spins, and is interrupted by nothing.

use core::cell::UnsafeCell;
use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::interrupts;

/// Something that one CPU uses at a time, with interrupts off.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    taken: AtomicBool,
    inner: UnsafeCell<T>,
}

// SAFETY: `with` gives it to one context at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(inner: T) -> Lock<T> {
        Lock { taken: AtomicBool::new(false), inner: UnsafeCell::new(inner) }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        interrupts::without_interrupts(|| {
            // Acquire pairs with the Release below.
            while self.taken.swap(true, Ordering::Acquire) {
                hint::spin_loop();
            }
            // SAFETY: the lock is this context's, and no handler comes between.
            let result = f(unsafe { &mut *self.inner.get() });
            self.taken.store(false, Ordering::Release);
            result
        })
    }
}
