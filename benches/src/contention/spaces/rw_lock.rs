//! A readers' and writers' lock of the two-level baseline, on observed atomics.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use topomem_percpu::sync::atomic::{AtomicU32, Ordering};

use super::super::machine::count;

/// In the lock word: a writer has the lock. The rest counts readers.
const WRITER: u32 = 1 << 31;

/// Does what `spin`'s lock does: readers add themselves to the word, a writer waits for 0. The word has a line
/// of its own, which is the best case for it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct RwLock<T> {
    word: AtomicU32,
    /// Borrowed as the word says; else this would panic.
    value: RefCell<T>,
}

impl<T> RwLock<T> {
    pub(super) fn new(value: T) -> RwLock<T> {
        RwLock { word: AtomicU32::new(0), value: RefCell::new(value) }
    }

    /// Calls `body` while there is no writer.
    pub(super) fn read<R>(&self, body: impl FnOnce(&T) -> R) -> R {
        // Acquire pairs with the Release in `write`: a reader sees what the last writer wrote.
        self.take(|| self.word.fetch_add(1, Ordering::Acquire) & WRITER == 0 || self.give_up());
        let result = body(self.value.borrow().deref());
        self.word.fetch_sub(1, Ordering::Release);
        result
    }

    /// Takes a reader off the word that has found a writer.
    fn give_up(&self) -> bool {
        self.word.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Calls `body` while nobody else has the lock.
    pub(super) fn write<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        // Acquire pairs with the Releases here and in `read`.
        self.take(|| self.word.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok());
        let result = body(self.value.borrow_mut().deref_mut());
        self.word.fetch_and(!WRITER, Ordering::Release);
        result
    }

    fn take(&self, attempt: impl Fn() -> bool) {
        count(|counts| counts.locks += 1);
        if attempt() {
            return;
        }
        count(|counts| counts.contended += 1);
        loop {
            // Relaxed: only a hint that another try is worth it.
            while self.word.load(Ordering::Relaxed) != 0 {}
            if attempt() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::super::machine::{reset, run, step};
    use super::*;
    use topomem_percpu::sync::observed::Access;

    #[test]
    fn writers_are_alone() {
        let lock = Rc::new(RwLock::new(0_u64));
        let program = |cpu: usize, lock: Rc<RwLock<u64>>| -> Box<dyn FnOnce()> {
            Box::new(move || {
                for _ in 0..100 {
                    if cpu.is_multiple_of(2) {
                        lock.write(|value| {
                            let before = *value;
                            step(Access::Load(0));
                            *value = before + 1;
                        });
                    } else {
                        lock.read(|value| {
                            let before = *value;
                            step(Access::Load(0));
                            assert_eq!(*value, before);
                        });
                    }
                }
            })
        };
        reset();
        let counts = run((0..4).map(|cpu| program(cpu, lock.clone())).collect(), 3);
        assert_eq!(lock.read(|value| *value), 200);
        assert_eq!(counts.locks, 400);
        assert!(counts.contended > 0, "{counts:?}");
    }
}
