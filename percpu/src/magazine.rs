//! Magazines: full batches of free objects, passed on as a whole (Bonwick and Adams, "Magazines and
//! Vmem", USENIX 2001).
//!
//! A CPU has up to two of each class, *loaded* and *previous*. The CPU allocates from the loaded
//! magazine, and frees into the loaded magazine. If the loaded magazine is empty and the previous
//! magazine is full, or the other way round, the two change places. Only if both are empty, or both
//! full, does the CPU use the [depot](crate::depot). A CPU alternating between allocating and freeing
//! at a magazine's edge does not use the depot.
//!
//! A magazine needs no extra memory: the objects are linked through the first words. A hit
//! reads only the CPU's own line and the object's line, used by the object's owner anyway. A hit also
//! prepares the cache for the next object's line, to be read by the next hit.

use core::ptr::NonNull;

use crate::slab::{Chain, SizeClass};

/// The maximum number of objects in a magazine: a batch of twice as many takes no way to the depot.
pub(crate) const MAX_ROUNDS: usize = 256;

/// A full magazine: [`SizeClass::rounds`] free objects of one class and one node, represented by
/// the first object. Dropping the magazine loses the objects.
#[derive(Debug)]
#[must_use]
pub(crate) struct Magazine(NonNull<u8>);

// SAFETY: a magazine owns its objects, memory without other users; nothing in it is tied to a CPU.
unsafe impl Send for Magazine {}

impl Magazine {
    /// Creates the magazine beginning with `first`.
    ///
    /// # Safety
    ///
    /// The caller owns the objects from `first` on: free, linked up to a null, of a single
    /// class and a single node, and as many as the class's [`SizeClass::rounds`].
    pub(crate) const unsafe fn new(first: NonNull<u8>) -> Magazine {
        Magazine(first)
    }

    /// Returns the first object, which links to the rest.
    pub(crate) const fn into_first(self) -> NonNull<u8> {
        self.0
    }

    /// Returns the objects.
    ///
    /// # Safety
    ///
    /// The objects are of `class`.
    pub(crate) const unsafe fn into_chain(self, class: SizeClass) -> Chain {
        // SAFETY: the promise of `new`.
        unsafe { Chain::of(self.0, class.rounds()) }
    }
}
