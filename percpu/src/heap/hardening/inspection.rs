//! The large object under inspection by a list of live objects.
//!
//! No lock keeps a large object in place while the list reads its tail. So the list names the
//! object first, and then checks in the record that the object is still live. A free removes the
//! object from the record first, and then checks that the object is not named. If it is named, the
//! free leaves the run to the list, which returns the run after reading. At least one of the two
//! sees the other, and no context waits.

use crate::sync::atomic::{AtomicUsize, Ordering, fence};

/// No object is inspected.
const NOTHING: usize = 0;

/// Set beside the address of the object: the object was freed meanwhile. Large objects begin at
/// pages.
const FREED: usize = 1;

/// The inspected object, one of a heap at a time.
pub(in crate::heap) struct Inspection(AtomicUsize);

/// The outcome of an inspection for the object's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Left {
    /// The object is still its owner's, or was not there.
    ToItsOwner,
    /// The object was freed, and the caller is to return its run.
    ToTheCaller,
}

/// Another context is inspecting an object of the heap.
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

    /// Calls `read` if an object is at `address` according to the record, asked by `is_there`. The
    /// object's run stays allocated meanwhile.
    pub(in crate::heap) fn look<R>(
        &self,
        address: usize,
        is_there: impl FnOnce() -> bool,
        read: impl FnOnce() -> R,
    ) -> Result<(Option<R>, Left), Busy> {
        // Acquire pairs with the Release below: the run returned by the last inspection is not used
        // any more.
        self.0.compare_exchange(NOTHING, address, Ordering::Acquire, Ordering::Relaxed).map_err(|_| Busy)?;
        // Pairs with the fence in `takes_over`: either the record here shows the object removed, or
        // its free sees the inspection there.
        fence(Ordering::SeqCst);
        let found = is_there().then(read);
        // Release pairs with the Acquire in `takes_over`: the freeing context sees the reads as
        // done. Acquire pairs with the Release in `takes_over`: the freeing context does not use
        // the object any more.
        let left = match self.0.swap(NOTHING, Ordering::AcqRel) & FREED {
            0 => Left::ToItsOwner,
            _ => Left::ToTheCaller,
        };
        Ok((found, left))
    }

    /// Returns true if an inspection of the object at `address` returns its run. The object was
    /// removed from the record, and its owner does not use it any more.
    pub(in crate::heap) fn takes_over(&self, address: usize) -> bool {
        fence(Ordering::SeqCst);
        // Acquire pairs with the Release in `look` of an earlier inspection.
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

    /// A large object, its entry in the record, and its inspection.
    struct Heap {
        inspection: Inspection,
        is_there: AtomicBool,
        /// The number of returns of the run; returning it writes to it, as its next owner does.
        returned: UnsafeCell<u32>,
    }

    // SAFETY: loom checks each access of the cell.
    unsafe impl Sync for Heap {}
    // SAFETY: nothing in it is tied to a thread.
    unsafe impl Send for Heap {}

    impl Heap {
        fn give_back(&self) {
            // SAFETY: loom checks that there is no concurrent access.
            self.returned.with_mut(|returned| unsafe { *returned += 1 });
        }

        fn look(&self) -> bool {
            let is_there = || self.is_there.load(Ordering::Relaxed);
            // SAFETY: loom checks that there is no concurrent write.
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
