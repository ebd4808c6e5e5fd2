//! A slab: a run of pages, aligned to its own size, with this header at its base and objects of one
//! class behind it.

use core::mem;
use core::ptr::{self, NonNull};

use super::chain::Chain;
use super::class::SizeClass;
use super::links::{link, next};
use super::live::{LiveMap, MAX_OBJECTS};
use super::partial::Vacancy;
use super::shape::SlabShape;
use super::tag::SlabTag;
use crate::NodeId;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::cell::UnsafeCell;

/// Bytes of a slab used by its header.
pub(crate) const HEADER_BYTES: usize = mem::size_of::<Header>();

const _: () = {
    let mut class = 0;
    while class < SlabShape::ALL.len() {
        assert!(cfg!(loom) || SlabShape::ALL[class].capacity <= MAX_OBJECTS);
        class += 1;
    }
};

/// Two cache lines. Unless the build checks frees, the first line is only read while the slab is
/// alive, by every free. The second line is written by the holder of the shelf's lock, and by
/// remote frees.
#[repr(C, align(64))]
pub(crate) struct Header {
    /// The [`SlabTag`] combined with the slab's address while the slab is alive.
    seal: usize,
    /// Changed by every allocation and free in builds that check them, and never in other builds.
    live: LiveMap,
    /// Accessed under the lock of the home shelf only.
    pub(super) shelved: UnsafeCell<Shelved>,
    remote: Remote,
}

const _: () = assert!(cfg!(loom) || HEADER_BYTES == 128);

/// The list of a slab on its shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// No list yet: the slab is new, and on its way in the shelf's inbox.
    Unshelved,
    /// Some objects are free; the vacancy tells how many.
    Partial(Vacancy),
    /// No object is free.
    Full,
    /// All objects are free. If the shelf keeps the slab, it saves the next allocation a call to
    /// the source.
    Spare,
}

/// The part of a slab guarded by its shelf's lock.
pub(super) struct Shelved {
    pub(super) place: Place,
    pub(super) previous: Option<Slab>,
    pub(super) next: Option<Slab>,
    pub(super) free: Chain,
}

/// The part of a slab open to pushes from any CPU; see [`Shelf`](super::Shelf) for the protocol.
struct Remote {
    /// Stack of objects freed without the lock.
    freed: AtomicPtr<u8>,
    /// The next slab in the shelf's inbox; valid while the slab is in it.
    next_in_inbox: AtomicPtr<Header>,
}

/// The position of a pushed object in the slab's remote stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The first object: the pushing context must put the slab into its shelf's inbox.
    First,
    /// A later object: another context has put the slab there, or will.
    Later,
}

/// The rest of a remote stack after an object was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// At least one object: the slab must go back into its shelf's inbox.
    Objects,
    /// No object: the next object pushed there is the first.
    Nothing,
}

/// The state of a shelf's inbox found by an arriving slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The slabs in the inbox, including this one. While other contexts take slabs out, the number
    /// may be too large.
    pub(crate) waiting: usize,
    /// Whether the inbox was empty.
    pub(crate) first: WasFirst,
}

/// Whether a slab was the first in its shelf's inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WasFirst {
    Yes,
    No,
}

/// A handle to a live slab: some object of it is allocated, or the holder has the slab from a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slab(NonNull<Header>);

// SAFETY: a handle is an address; the memory behind it is atomic, or guarded by the shelf's lock.
unsafe impl Send for Slab {}

impl Slab {
    /// Divides the run at `base` into a slab. Returns its free objects as a chain, in descending
    /// order of address, or in an unpredictable order (`encoded-free-lists`). The slab belongs to
    /// the shelf of `home`, even if its pages lie elsewhere.
    ///
    /// # Safety
    ///
    /// `base` is a run of the class's [`SlabShape::order`], owned by the caller alone.
    pub(crate) unsafe fn new_in(base: NonNull<u8>, class: SizeClass, home: NodeId) -> (Slab, Chain) {
        let slab = Slab(base.cast());
        let header = Header {
            seal: SlabTag::new(class, home).seal(base.addr().get()),
            live: LiveMap::new(),
            shelved: UnsafeCell::new(Shelved {
                place: Place::Unshelved,
                previous: None,
                next: None,
                free: Chain::EMPTY,
            }),
            remote: Remote {
                freed: AtomicPtr::new(ptr::null_mut()),
                next_in_inbox: AtomicPtr::new(ptr::null_mut()),
            },
        };
        // SAFETY: the context owns the run, which is larger and more strictly aligned than a
        // header.
        unsafe { slab.0.write(header) };
        let shape = SlabShape::ALL[class.index()];
        let mut objects = Chain::EMPTY;
        #[cfg(not(feature = "encoded-free-lists"))]
        let order = (0..shape.capacity).rev();
        #[cfg(feature = "encoded-free-lists")]
        let order = super::encoding::shuffled(shape.capacity, base);
        for index in order {
            // SAFETY: `SlabShape` keeps every object inside the run, behind the header; each is
            // pushed once.
            unsafe { objects.push(base.add(shape.first + index * class.size())) };
        }
        (slab, objects)
    }

    /// Returns the slab of an object.
    ///
    /// # Safety
    ///
    /// `object` is an allocated object of `class`, or may at least be read as far back as the
    /// class's slab alignment reaches (then see [`Slab::home`] before anything else).
    #[inline]
    pub(crate) unsafe fn of(object: NonNull<u8>, class: SizeClass) -> Slab {
        // SAFETY: the caller's promise.
        unsafe { Slab::masked(object, SlabShape::ALL[class.index()].mask()) }
    }

    /// Returns the slab of an object like [`Slab::of`], of a class with a known
    /// [`SlabShape::mask`].
    ///
    /// # Safety
    ///
    /// As for [`Slab::of`].
    #[inline]
    pub(crate) unsafe fn masked(object: NonNull<u8>, mask: usize) -> Slab {
        let base = object.as_ptr().map_addr(|address| address & mask);
        // SAFETY: a slab's base is not null, since its runs come as `NonNull`.
        Slab(unsafe { NonNull::new_unchecked(base.cast()) })
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the slab of a handle is alive, and its header is only shared; its mutable parts
        // are atomic or in a cell.
        unsafe { self.0.as_ref() }
    }

    /// Returns the class and home in the header. Other memory has another word there.
    #[inline]
    pub(crate) fn tag(self) -> SlabTag {
        SlabTag::sealed(self.header().seal, self.address())
    }

    /// Returns the node whose shelf owns the slab, or `None` if this is no slab of `class`.
    pub(crate) fn home(self, class: SizeClass) -> Option<NodeId> {
        self.tag().decode().filter(|&(found, _)| found == class).map(|(_, home)| home)
    }

    /// Dissolves the slab. Returns its run.
    ///
    /// # Safety
    ///
    /// All objects are free, none is on its way to the slab, and no list holds the slab.
    pub(crate) unsafe fn into_run(self) -> NonNull<u8> {
        // SAFETY: no other context can reach the slab any more. A stale seal would confirm a wrong
        // free in the next use of the pages.
        unsafe { (&raw mut (*self.0.as_ptr()).seal).write(0) };
        self.0.cast()
    }

    /// Returns the slab's address, for reports and comparisons.
    #[inline]
    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// Returns the object that begins `offset` bytes behind the slab's base.
    #[cfg(feature = "leak-tracking")]
    pub(crate) fn object(self, offset: usize) -> NonNull<u8> {
        // SAFETY: a slab's objects do not wrap around the address space.
        unsafe { NonNull::new_unchecked(self.0.as_ptr().cast::<u8>().wrapping_add(offset)) }
    }

    /// Returns the map of objects held by callers; maintained in hardened builds only.
    pub(crate) fn live(&self) -> &LiveMap {
        &self.header().live
    }

    /// Calls `f` with the part guarded by the shelf's lock.
    ///
    /// # Safety
    ///
    /// The caller holds that lock, and `f` does not use the same slab's part again.
    pub(super) unsafe fn shelved<R>(self, f: impl FnOnce(&mut Shelved) -> R) -> R {
        // SAFETY: the caller's promise makes the reference the only one.
        self.header().shelved.with_mut(|shelved| f(unsafe { &mut *shelved }))
    }

    /// Frees an object onto the remote stack. Lock-free. The slab may be gone on return, unless the
    /// result is [`Pushed::First`].
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of the slab.
    pub(super) unsafe fn push_remote(self, object: NonNull<u8>) -> Pushed {
        let freed = &self.header().remote.freed;
        let mut head = freed.load(Ordering::Relaxed);
        loop {
            // SAFETY: the context owns the object until the exchange below succeeds.
            unsafe { link(object, NonNull::new(head)) };
            // Release pairs with the Acquire in `take_remote`: the context that takes the stack
            // sees the links, and the last uses of the objects. A head that was removed and pushed
            // again (ABA) is harmless: this code links to it, and reads nothing behind it.
            match freed.compare_exchange_weak(head, object.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) if head.is_null() => return Pushed::First,
                Ok(_) => return Pushed::Later,
                Err(seen) => head = seen,
            }
        }
    }

    /// Makes `objects` the remote stack of a new slab.
    ///
    /// # Safety
    ///
    /// The objects are of the slab, at least one, and the slab was not published yet.
    pub(super) unsafe fn preset_remote(self, objects: Chain) {
        let head = objects.head().map_or(ptr::null_mut(), NonNull::as_ptr);
        // Relaxed: published with the slab, by the push into the inbox.
        self.header().remote.freed.store(head, Ordering::Relaxed);
    }

    /// Takes one object off the remote stack. Lock-free, and free of ABA: only the context that
    /// took the slab from the inbox takes objects, so an object cannot be removed and pushed again.
    ///
    /// # Safety
    ///
    /// The caller took the slab from its shelf's inbox, and has not taken its remote stack since.
    /// With [`Left::Nothing`] the duty ends: the slab may be in the inbox again, or gone once the
    /// object is freed.
    pub(super) unsafe fn pop_remote(self) -> Option<(NonNull<u8>, Left)> {
        let freed = &self.header().remote.freed;
        // Acquire, here and below, pairs with the Release in `push_remote`: makes the link visible.
        let mut head = freed.load(Ordering::Acquire);
        loop {
            let object = NonNull::new(head)?;
            // SAFETY: the object stays on the stack until the context takes it.
            let next = unsafe { next(object) }.map_or(ptr::null_mut(), NonNull::as_ptr);
            match freed.compare_exchange_weak(head, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) if next.is_null() => return Some((object, Left::Nothing)),
                Ok(_) => return Some((object, Left::Objects)),
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes the remote stack.
    ///
    /// # Safety
    ///
    /// The caller took the slab from its shelf's inbox, and calls this once for that.
    pub(super) unsafe fn take_remote(self) -> Chain {
        // Acquire pairs with the Release in `push_remote`.
        let head = self.header().remote.freed.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: the swap transferred every object on the stack to the context.
        unsafe { Chain::walk(NonNull::new(head)) }
    }
}

/// A shelf's inbox: a stack of slabs, pushed by any CPU, taken as a whole.
pub(super) struct Inbox {
    head: AtomicPtr<Header>,
    /// Slabs in the inbox, and those about to be pushed. Relaxed: the number orders nothing.
    waiting: AtomicUsize,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox { head: AtomicPtr::new(ptr::null_mut()), waiting: AtomicUsize::new(0) }
    }

    /// Puts `slab` in.
    ///
    /// # Safety
    ///
    /// The slab is not in the inbox, has objects on its remote stack, and the caller alone has the
    /// duty to push it ([`Pushed::First`], or the slab is new).
    pub(super) unsafe fn push(&self, slab: Slab) -> Arrival {
        // Counted first, so that a context that takes the slab out never counts below zero.
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        let next = &slab.header().remote.next_in_inbox;
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            next.store(head, Ordering::Relaxed);
            // Release pairs with the Acquire in `take`: the context that takes the inbox sees the
            // link and the header. The slab must not be accessed after it.
            match self.head.compare_exchange_weak(head, slab.0.as_ptr(), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    let first = if head.is_null() { WasFirst::Yes } else { WasFirst::No };
                    return Arrival { waiting, first };
                }
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes all slabs out, and calls `f` with each of them. With the slab, `f` takes over the duty
    /// to take its remote stack, or to put the slab back.
    pub(super) fn take(&self, mut f: impl FnMut(Slab)) {
        if self.head.load(Ordering::Relaxed).is_null() {
            return;
        }
        // Acquire pairs with the Release in `push`.
        let mut cursor = NonNull::new(self.head.swap(ptr::null_mut(), Ordering::Acquire));
        while let Some(header) = cursor {
            let slab = Slab(header);
            // Before the duty is passed on: then the next remote free may put the slab in again,
            // and write the link.
            cursor = NonNull::new(slab.header().remote.next_in_inbox.load(Ordering::Relaxed));
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            f(slab);
        }
    }
}
