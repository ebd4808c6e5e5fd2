//! The large object that a list of what is out looks at.
//!
//! No lock keeps a large object where it is while the list reads its tail. So the list names the object first, and
//! then asks the record whether it is still there. A free strikes the object off the record first, and then looks
//! whether it is named: if so, it leaves the run to the list, which returns it when it has read. One of the two
//! sees the other, and nobody waits.

use crate::sync::atomic::{AtomicUsize, Ordering, fence};

/// Nobody looks at an object.
const NOTHING: usize = 0;

/// Beside the address of the object: it was freed meanwhile. Large objects begin at pages.
const FREED: usize = 1;

/// The object that is looked at, one of a heap at a time.
pub(in crate::heap) struct Inspection(AtomicUsize);

/// What became of an object that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Left {
    /// Its owner, or nobody else, has it.
    ToItsOwner,
    /// It was freed, and the caller is to return its run.
    ToTheCaller,
}

/// Another context looks at an object of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) struct Busy;

impl Inspection {
    #[cfg(not(loom))]
    pub(in crate::heap) const fn new() -> Inspection {
        Inspection(AtomicUsize::new(NOTHING))
    }

    #[cfg(loom)]
    pub(in crate::heap) fn new() -> Inspection {
        Inspection(AtomicUsize::new(NOTHING))
    }

    /// Calls `read` if an object is at `address`, which `is_there` tells by the record. Meanwhile its run stays
    /// where it is.
    pub(in crate::heap) fn look<R>(
        &self,
        address: usize,
        is_there: impl FnOnce() -> bool,
        read: impl FnOnce() -> R,
    ) -> Result<(Option<R>, Left), Busy> {
        // Acquire pairs with the Release below: what the last one who looked has returned is not used any more.
        self.0.compare_exchange(NOTHING, address, Ordering::Acquire, Ordering::Relaxed).map_err(|_| Busy)?;
        // Pairs with the fence in `takes_over`: either the record says here that the object is gone, or its free
        // sees there that it is looked at.
        fence(Ordering::SeqCst);
        let found = is_there().then(read);
        // Release: whoever frees the object sees that it was read. Acquire pairs with the Release in `takes_over`:
        // whoever freed it does not use it any more.
        let left = match self.0.swap(NOTHING, Ordering::AcqRel) & FREED {
            0 => Left::ToItsOwner,
            _ => Left::ToTheCaller,
        };
        Ok((found, left))
    }

    /// Does somebody look at the object at `address`, who then returns its run? It was struck off the record, and
    /// its owner does not use it any more.
    pub(in crate::heap) fn takes_over(&self, address: usize) -> bool {
        fence(Ordering::SeqCst);
        // Acquire pairs with the Release in `look`, of whoever has looked before.
        self.0.load(Ordering::Acquire) == address
            && self.0.compare_exchange(address, address | FREED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::prelude::rust_2024::*;
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::sync::atomic::AtomicBool;
    use crate::sync::cell::UnsafeCell;

    const ADDRESS: usize = 0x1000;

    /// A large object, its entry on the record, and whoever looks.
    struct Heap {
        inspection: Inspection,
        is_there: AtomicBool,
        /// How often the run was returned; who returns it writes to it, as its next owner does.
        returned: UnsafeCell<u32>,
    }

    // SAFETY: loom checks each access of the cell.
    unsafe impl Sync for Heap {}
    // SAFETY: nothing of it is a thread's.
    unsafe impl Send for Heap {}

    impl Heap {
        fn give_back(&self) {
            // SAFETY: loom checks that nobody else reads or writes it.
            self.returned.with_mut(|returned| unsafe { *returned += 1 });
        }

        fn look(&self) -> bool {
            let is_there = || self.is_there.load(Ordering::Relaxed);
            // SAFETY: loom checks that nobody writes to it.
            let read = || self.returned.with(|returned| assert_eq!(unsafe { *returned }, 0));
            let Ok((found, left)) = self.inspection.look(ADDRESS, is_there, read) else { return false };
            if left == Left::ToTheCaller {
                self.give_back();
            }
            found.is_some()
        }
    }

    #[test]
    fn a_run_is_returned_once_and_not_while_it_is_read() {
        loom::model(|| {
            let heap = Arc::new(Heap {
                inspection: Inspection::new(),
                is_there: AtomicBool::new(true),
                returned: UnsafeCell::new(0),
            });
            let other = Arc::clone(&heap);
            let reader = thread::spawn(move || other.look());
            heap.is_there.store(false, Ordering::Relaxed);
            if !heap.inspection.takes_over(ADDRESS) {
                heap.give_back();
            }
            reader.join().unwrap();
            assert!(!heap.look(), "it is off the record");
            // SAFETY: all threads have ended.
            heap.returned.with(|returned| assert_eq!(unsafe { *returned }, 1));
        });
    }
}
