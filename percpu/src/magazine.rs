//! Magazines: fixed-size arrays of free objects that change hands as a whole (Bonwick and
//! Adams, "Magazines and Vmem", USENIX 2001).
//!
//! A CPU has two of each class, *loaded* and *previous*. It allocates from the loaded one and
//! frees into it; when that is empty (or full) and the previous one is not, they swap; only when
//! both are does a magazine go to or come from the [depot](crate::depot). So a CPU that
//! alternates between allocating and freeing at a magazine's edge still leaves the depot alone.

use core::mem::{self, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::SizeClass;

/// The most objects that a magazine holds: with its length it fills 256 bytes.
pub(crate) const MAX_ROUNDS: usize = 31;

/// A stack of free objects, of one class and one node.
pub(crate) struct Magazine {
    len: usize,
    rounds: [MaybeUninit<NonNull<u8>>; MAX_ROUNDS],
}

impl Magazine {
    /// A magazine without objects, outside any [`MagazineBox`]: a batch on the stack.
    pub(crate) const fn new() -> Magazine {
        Magazine { len: 0, rounds: [MaybeUninit::uninit(); MAX_ROUNDS] }
    }

    /// How many objects it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the object put in last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        self.len = self.len.checked_sub(1)?;
        let round = self.rounds.get(self.len)?;
        // SAFETY: `push` initialised every round below the old length.
        Some(unsafe { round.assume_init() })
    }

    /// Puts an object in, unless `class` allows no more.
    ///
    /// # Errors
    ///
    /// The object comes back where the magazine is full.
    #[inline]
    pub(crate) fn push(&mut self, class: SizeClass, object: NonNull<u8>) -> Result<(), NonNull<u8>> {
        if self.len >= class.rounds() {
            return Err(object);
        }
        match self.rounds.get_mut(self.len) {
            Some(round) => {
                round.write(object);
                self.len += 1;
                Ok(())
            }
            None => Err(object),
        }
    }
}

/// The only handle to a magazine, which lives in an object of the heap's own. Dropping it leaks
/// the magazine: give it to a depot, or take it apart with [`MagazineBox::into_object`].
#[must_use]
pub(crate) struct MagazineBox(NonNull<Magazine>);

// SAFETY: the handle owns the magazine and the free objects in it; nothing of it is tied to a CPU.
unsafe impl Send for MagazineBox {}

impl MagazineBox {
    /// The class whose objects house magazines.
    pub(crate) const CLASS: SizeClass = {
        assert!(mem::size_of::<Magazine>() == 256);
        match SizeClass::of(core::alloc::Layout::new::<Magazine>()) {
            Some(class) => class,
            None => unreachable!(),
        }
    };

    /// An empty magazine in `object`.
    ///
    /// # Safety
    ///
    /// `object` is an object of [`MagazineBox::CLASS`] that nobody else uses.
    pub(crate) unsafe fn new_in(object: NonNull<u8>) -> MagazineBox {
        let magazine = object.cast::<Magazine>();
        // SAFETY: the object is ours, large enough and aligned; the rounds may stay
        // uninitialised.
        unsafe { (&raw mut (*magazine.as_ptr()).len).write(0) };
        MagazineBox(magazine)
    }

    /// The object that housed the magazine. What the magazine still held is lost: empty it first.
    pub(crate) fn into_object(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Gives the handle up as an address.
    pub(crate) fn into_raw(self) -> NonNull<Magazine> {
        self.0
    }

    /// The handle again.
    ///
    /// # Safety
    ///
    /// `magazine` came from [`MagazineBox::into_raw`], and comes back only once.
    pub(crate) unsafe fn from_raw(magazine: NonNull<Magazine>) -> MagazineBox {
        MagazineBox(magazine)
    }
}

impl Deref for MagazineBox {
    type Target = Magazine;

    fn deref(&self) -> &Magazine {
        // SAFETY: the handle is the magazine's only one, and the magazine was initialised.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for MagazineBox {
    #[inline]
    fn deref_mut(&mut self) -> &mut Magazine {
        // SAFETY: as in `deref`, and the handle is borrowed exclusively.
        unsafe { self.0.as_mut() }
    }
}
