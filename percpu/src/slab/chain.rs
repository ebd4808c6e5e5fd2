//! Free objects strung together through their own first words.

use core::ptr::NonNull;

/// A free object's first word: the next free object.
struct Link {
    next: Option<NonNull<u8>>,
}

/// Reads where the free object `object` points.
///
/// # Safety
///
/// `object` is a free object that the caller owns, last written by [`link`].
pub(super) unsafe fn next(object: NonNull<u8>) -> Option<NonNull<u8>> {
    // SAFETY: an object is at least a word, word-aligned, and the caller owns this one.
    unsafe { object.cast::<Link>().read().next }
}

/// Makes the free object `object` point to `next`.
///
/// # Safety
///
/// The caller owns `object`, an object of a slab.
pub(super) unsafe fn link(object: NonNull<u8>, next: Option<NonNull<u8>>) {
    // SAFETY: as in `next`.
    unsafe { object.cast::<Link>().write(Link { next }) };
}

/// A stack of free objects of one slab. It owns them; dropping it loses them.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    head: Option<NonNull<u8>>,
    len: usize,
}

impl Chain {
    /// The chain without objects.
    pub(crate) const EMPTY: Chain = Chain { head: None, len: 0 };

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The object that [`Chain::pop`] would return.
    pub(super) fn head(&self) -> Option<NonNull<u8>> {
        self.head
    }

    /// The chain that begins at `head`, counted by walking it.
    ///
    /// # Safety
    ///
    /// The caller owns every object from `head` on, linked to a null.
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
    /// The caller owns `object`, which is free, and of the chain's slab.
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

    /// Walks the chain as far as the objects are `inside` their slab and no more than counted:
    /// the count again, or where the walk ended, which then differs from it.
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
            // SAFETY: an object inside the slab can be read, whatever it holds.
            cursor = unsafe { next(object) };
        }
        found
    }

    /// Takes the objects apart one by one, and puts them on top of `onto`.
    pub(super) fn pour(mut self, onto: &mut Chain) {
        while let Some(object) = self.pop() {
            // SAFETY: the object was this chain's, and both are of one slab.
            unsafe { onto.push(object) };
        }
    }
}
