//! The peers' lock, written again on observed atomics.

use std::cell::RefCell;

use topomem_percpu::sync::atomic::{AtomicBool, Ordering};

use super::machine::count;

/// Does what `spin`'s mutex does: a compare-and-swap, and loads until it is worth another. The
/// lock word has a line of its own, which is the best case for it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct SpinLock<T> {
    taken: AtomicBool,
    /// Borrowed by the holder only; were there two, this would panic.
    value: Aligned<RefCell<T>>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Aligned<T>(T);

impl<T> SpinLock<T> {
    pub(super) fn new(value: T) -> SpinLock<T> {
        SpinLock { taken: AtomicBool::new(false), value: Aligned(RefCell::new(value)) }
    }

    /// Calls `body` with the lock taken.
    pub(super) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        count(|counts| counts.locks += 1);
        let mut tries = 0_u32;
        // Acquire pairs with the Release below: the holder sees what the last one wrote.
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            // Relaxed: only a hint that another try is worth it.
            while self.taken.load(Ordering::Relaxed) {}
        }
        count(|counts| counts.contended += u64::from(tries > 0));
        let result = body(&mut self.value.0.borrow_mut());
        self.taken.store(false, Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::machine::{reset, run, step};
    use super::*;
    use topomem_percpu::sync::observed::Access;

    #[test]
    fn one_holder_at_a_time() {
        let lock = Rc::new(SpinLock::new(0));
        let program = |lock: Rc<SpinLock<u64>>| -> Box<dyn FnOnce()> {
            Box::new(move || {
                for _ in 0..200 {
                    lock.with(|value| {
                        let before = *value;
                        step(Access::Load(0));
                        *value = before + 1;
                    });
                }
            })
        };
        reset();
        let counts = run((0..4).map(|_| program(lock.clone())).collect(), 3);
        assert_eq!(lock.with(|value| *value), 800);
        assert_eq!(counts.locks, 800);
        assert!(counts.contended > 0 && counts.contended <= 800, "{counts:?}");
    }
}
