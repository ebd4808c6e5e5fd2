//! The true place of memory, if its layout does not determine it.
//!
//! [`Heap::try_realloc`] leaves memory in place if no smaller memory is available. Then the owner's
//! layout belongs to another size class, or another length, than the memory. A mark in the last
//! word of the memory, behind the layout's bytes, records the layout of the object left there. So
//! freeing it with that layout is right, and freeing other memory with a wrong layout is refused.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Heap, InvalidFree};
use crate::heap::large::run::{LargeRun, Run};
use crate::slab::{CHECKED, SizeClass, Slab, SlabShape, WasLive};
use crate::try_lock::Patience;
use crate::{CpuPin, PageSource, Platform, RunLength};

/// The kind of memory for a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// An object of a slab.
    Object(SizeClass),
    /// A run of pages of its own.
    Pages(RunLength),
}

impl Room {
    /// Returns `None` if the layout is larger than the largest run.
    pub(super) fn of(layout: Layout) -> Option<Room> {
        match SizeClass::of(layout) {
            Some(class) => Some(Room::Object(class)),
            None => RunLength::of(layout).map(Room::Pages),
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Room::Object(class) => class.size(),
            Room::Pages(length) => length.bytes() as usize,
        }
    }

    fn number(self) -> usize {
        match self {
            Room::Object(class) => class.index(),
            Room::Pages(length) => 128 + length.index(),
        }
    }
}

/// The place of memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// An object of a slab.
    Object { slab: Slab, class: SizeClass, index: usize },
    /// A run of pages of its own.
    Pages(LargeRun),
}

impl Place {
    /// Returns the bytes from its start to its end.
    pub(super) fn bytes(self) -> usize {
        self.room().bytes()
    }

    pub(super) fn room(self) -> Room {
        match self {
            Place::Object { class, .. } => Room::Object(class),
            Place::Pages(run) => Room::Pages(run.length),
        }
    }
}

/// Returns the mark in the last word of `memory` if it was left there for a layout of `room`.
fn mark(memory: NonNull<u8>, room: Room) -> usize {
    // Arbitrary, but neither an address nor a small number.
    memory.addr().get() ^ (0x6c65_6674_0000_0000 + room.number())
}

/// Returns the last word of the memory at `place`.
fn last_word(memory: NonNull<u8>, place: Place) -> NonNull<usize> {
    let offset = place.room().bytes() - size_of::<usize>();
    // SAFETY: the place has that many bytes, a multiple of a word.
    unsafe { memory.add(offset) }.cast()
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns the place of the memory at `memory`, according to the record of all runs. Returns
    /// `None` if no allocatable memory starts there.
    pub(super) fn place_of(&self, memory: NonNull<u8>) -> Option<Place> {
        let address = memory.addr().get();
        if let Some(Run::Large(run)) = self.runs.at(address) {
            return Some(Place::Pages(run));
        }
        let class = self.runs.slab_around(address)?;
        // SAFETY: a recorded slab is alive, so the memory can be read back to its base.
        let slab = unsafe { Slab::of(memory, class) };
        let index = SlabShape::ALL[class.index()].index_of(class, address - slab.address())?;
        Some(Place::Object { slab, class, index })
    }

    /// Returns the place of the memory at `memory`, if it was left there for a layout of `room`.
    pub(super) fn left_place(&self, memory: NonNull<u8>, room: Room) -> Option<Place> {
        let place = self.place_of(memory).filter(|place| place.room().bytes() > room.bytes())?;
        // SAFETY: the place is in a run of the heap.
        let word = unsafe { last_word(memory, place).read() };
        (word == mark(memory, room)).then_some(place)
    }

    /// Leaves the memory of `memory` in place for `layout`, if it is large enough.
    ///
    /// # Safety
    ///
    /// The caller owns the memory, aligned for `layout`.
    pub(super) unsafe fn leave(&self, memory: NonNull<u8>, layout: Layout) -> Option<NonNull<u8>> {
        let room = Room::of(layout)?;
        let place = self.place_of(memory).filter(|place| place.room().bytes() >= room.bytes())?;
        if place.room() != room {
            // SAFETY: the caller owns the word, which is behind the bytes of `layout`: rooms differ
            // by a word at least.
            unsafe { last_word(memory, place).write(mark(memory, room)) };
        }
        Some(memory)
    }

    /// Frees memory left in place for a layout of `room`. For any other memory returns the error
    /// `otherwise`.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[cold]
    pub(super) unsafe fn dealloc_left(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        room: Room,
        otherwise: InvalidFree,
    ) -> Result<(), InvalidFree> {
        let place = self.left_place(memory, room).ok_or(otherwise)?;
        match place {
            // SAFETY: the caller's promise. The run goes to the source, so its mark cannot confirm
            // a wrong layout.
            Place::Pages(run) => unsafe { self.free_large(pin, memory, run) },
            Place::Object { slab, class, index } => {
                if CHECKED && slab.live().clear(index) == WasLive::No {
                    return Err(InvalidFree::DoubleFree { address: memory.addr().get(), class });
                }
                // SAFETY: the context owns the memory by now. A stale mark would confirm a wrong
                // layout of the next owner.
                unsafe { last_word(memory, place).write(0) };
                self.dealloc_shared(pin, slab, class, memory, Patience::Bounded)
            }
        }
    }
}
