//! Magazines: full batches of free objects that change hands as a whole (Bonwick and Adams,
//! "Magazines and Vmem", USENIX 2001).
//!
//! A CPU has up to two of each class, *loaded* and *previous*. It allocates from the loaded one and
//! frees into it. When the loaded one is empty and the previous one is full, or the other way round,
//! the two change places; only when both are empty, or both full, does a magazine come from the
//! [depot](crate::depot) or go there. So a CPU that alternates between allocating and freeing at a
//! magazine's edge leaves the depot alone.
//!
//! A magazine needs no memory of its own: its objects are strung together through their first
//! words. So a hit reads no line but the CPU's own and the object's, which its owner uses anyway.

use core::ptr::NonNull;

use crate::slab::{Chain, SizeClass};

/// The most objects that a magazine holds.
pub(crate) const MAX_ROUNDS: usize = 64;

/// A full magazine: [`SizeClass::rounds`] free objects of one class and one node, known by the
/// first of them. Dropping it loses the objects.
#[derive(Debug)]
#[must_use]
pub(crate) struct Magazine(NonNull<u8>);

// SAFETY: a magazine owns its objects, which are memory that nobody uses; nothing of it is tied to a
// CPU.
unsafe impl Send for Magazine {}

impl Magazine {
    /// The magazine that begins with `first`.
    ///
    /// # Safety
    ///
    /// The caller owns the objects from `first` on: they are free, linked to a null, of one class and
    /// one node, and as many as the class's [`SizeClass::rounds`].
    pub(crate) const unsafe fn new(first: NonNull<u8>) -> Magazine {
        Magazine(first)
    }

    /// The first object, which the others hang on.
    pub(crate) const fn into_first(self) -> NonNull<u8> {
        self.0
    }

    /// The objects.
    ///
    /// # Safety
    ///
    /// They are of `class`.
    pub(crate) const unsafe fn into_chain(self, class: SizeClass) -> Chain {
        // SAFETY: the promise of `new`.
        unsafe { Chain::of(self.0, class.rounds()) }
    }
}
