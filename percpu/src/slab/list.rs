//! Doubly linked lists of slabs, through their headers.

use super::header::Slab;

/// A list of slabs of one shelf, used under its lock only.
#[derive(Debug, Default)]
pub(super) struct SlabList {
    head: Option<Slab>,
}

impl SlabList {
    pub(super) const EMPTY: SlabList = SlabList { head: None };

    pub(super) fn head(&self) -> Option<Slab> {
        self.head
    }

    /// Puts `slab` first.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab belongs to the shelf, and is on no list.
    pub(super) unsafe fn push(&mut self, slab: Slab) {
        let next = self.head.replace(slab);
        // SAFETY: the caller holds the lock, and the two slabs differ.
        unsafe {
            slab.shelved(|shelved| (shelved.previous, shelved.next) = (None, next));
            if let Some(next) = next {
                next.shelved(|shelved| shelved.previous = Some(slab));
            }
        }
    }

    /// Takes `slab` out.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab is on the list.
    pub(super) unsafe fn remove(&mut self, slab: Slab) {
        // SAFETY: the caller holds the lock; one part is used at a time.
        unsafe {
            let (previous, next) = slab.shelved(|shelved| (shelved.previous.take(), shelved.next.take()));
            match previous {
                Some(previous) => previous.shelved(|shelved| shelved.next = next),
                None => self.head = next,
            }
            if let Some(next) = next {
                next.shelved(|shelved| shelved.previous = previous);
            }
        }
    }

    /// Takes the first slab out.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock, or owns the list's slabs alone.
    pub(super) unsafe fn pop(&mut self) -> Option<Slab> {
        let slab = self.head?;
        // SAFETY: the slab is on the list; the rest is the caller's promise.
        unsafe { self.remove(slab) };
        Some(slab)
    }

    /// Returns the slab behind `slab`.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab is on the list.
    pub(super) unsafe fn after(&self, slab: Slab) -> Option<Slab> {
        // SAFETY: the caller's promise.
        unsafe { slab.shelved(|shelved| shelved.next) }
    }
}
