//! Free objects linked through their own first words.

use core::ptr::NonNull;

use super::links::{link, next};

/// A stack of owned free objects of one class. Dropping it loses them.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    head: Option<NonNull<u8>>,
    len: usize,
}

impl Chain {
    /// The chain without objects.
    pub(crate) const EMPTY: Chain = Chain { head: None, len: 0 };

    /// Creates the chain of `len` objects that begins at `head`.
    ///
    /// # Safety
    ///
    /// The caller owns the objects, which are linked up to a null.
    pub(crate) const unsafe fn of(head: NonNull<u8>, len: usize) -> Chain {
        Chain { head: Some(head), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the next object of [`Chain::pop`], without taking it. It links to the rest.
    pub(crate) fn head(&self) -> Option<NonNull<u8>> {
        self.head
    }

    /// Creates the chain that begins at `head`, counted by walking it.
    ///
    /// # Safety
    ///
    /// The caller owns every object from `head` on, linked up to a null.
    pub(super) unsafe fn walk(head: Option<NonNull<u8>>) -> Chain {
        let mut len = 0;
        let mut cursor = head;
        while let Some(object) = cursor {
            len += 1;
            // SAFETY: the caller's promise covers every object reached.
            cursor = unsafe { next(object) };
        }
        Chain { head, len }
    }

    /// Adds an object on top.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, which is free, and of the chain's class.
    pub(crate) unsafe fn push(&mut self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { link(object, self.head) };
        self.head = Some(object);
        self.len += 1;
    }

    /// Takes the top object.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let object = self.head?;
        // SAFETY: the chain owns its objects, each written by `link`.
        self.head = unsafe { next(object) };
        self.len -= 1;
        Some(object)
    }

    /// Moves the top `count` objects, or all if there are fewer, on top of `onto`, in their order.
    /// Returns the number of objects moved. If a link is null before the counted end, the objects
    /// behind it are lost.
    pub(crate) fn move_to(&mut self, count: usize, onto: &mut Chain) -> usize {
        let count = count.min(self.len);
        let Some(head) = self.head.filter(|_| count > 0) else { return 0 };
        let (mut last, mut moved) = (head, 1);
        // SAFETY: the chain owns its objects, each written by `link`.
        let mut behind = unsafe { next(last) };
        while moved < count
            && let Some(object) = behind
        {
            last = object;
            moved += 1;
            // SAFETY: as above.
            behind = unsafe { next(last) };
        }
        // SAFETY: as above; both chains are of one class.
        unsafe { link(last, onto.head) };
        self.head = behind;
        self.len = if behind.is_some() { self.len - moved } else { 0 };
        onto.head = Some(head);
        onto.len += moved;
        moved
    }

    /// Walks the chain as long as the objects are `inside` their slab, up to the count. Returns the
    /// count if all objects were found, and a different number if the walk ended elsewhere.
    pub(super) fn recount(&self, inside: impl Fn(NonNull<u8>) -> bool) -> usize {
        let mut found = 0;
        let mut cursor = self.head;
        while let Some(object) = cursor {
            if found == self.len {
                return found + 1;
            }
            if !inside(object) {
                return found;
            }
            found += 1;
            // SAFETY: an object inside the slab can be read, with any contents.
            cursor = unsafe { next(object) };
        }
        found
    }

    /// Takes the objects one by one, and puts them on top of `onto`.
    pub(super) fn pour(mut self, onto: &mut Chain) {
        while let Some(object) = self.pop() {
            // SAFETY: the chain owned the object, and both are of one slab.
            unsafe { onto.push(object) };
        }
    }
}
