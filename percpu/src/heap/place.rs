//! Where memory really is, if its layout does not say.
//!
//! [`Heap::realloc`] leaves memory where it is if nothing smaller can be had. Then the owner's
//! layout asks for another size class, or another length, than the memory has. A mark in the last
//! word of the memory, which is behind the layout's bytes, says for which layout it was left: so
//! freeing it with that layout is right, and freeing other memory with a wrong layout is refused.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::runs::{LargeRun, Run};
use super::{Heap, InvalidFree};
use crate::slab::{CHECKED, SizeClass, Slab, SlabShape, WasLive};
use crate::try_lock::Patience;
use crate::{CpuPin, PageSource, Platform, RunLength};

/// What a layout asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// An object of a slab.
    Object(SizeClass),
    /// A run of pages of its own.
    Pages(RunLength),
}

impl Room {
    /// `None` if the layout is larger than the largest run.
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

/// Where memory is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// An object of a slab.
    Object { slab: Slab, class: SizeClass, index: usize },
    /// A run of pages of its own.
    Pages(LargeRun),
}

impl Place {
    /// Bytes from its start to its end.
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

/// What the last word of `memory` says if it was left there for a layout that asks for `room`.
fn mark(memory: NonNull<u8>, room: Room) -> usize {
    // Arbitrary, but no address and no small number.
    memory.addr().get() ^ (0x6c65_6674_0000_0000 + room.number())
}

/// The last word of the memory at `place`.
fn last_word(memory: NonNull<u8>, place: Place) -> NonNull<usize> {
    let offset = place.room().bytes() - size_of::<usize>();
    // SAFETY: the place's room has so many bytes, and is a multiple of a word.
    unsafe { memory.add(offset) }.cast()
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Where the memory at `memory` is, by the record of all runs. `None` if no memory that could be
    /// handed out starts there.
    pub(super) fn place_of(&self, memory: NonNull<u8>) -> Option<Place> {
        let address = memory.addr().get();
        if let Some(Run::Large(run)) = self.runs.at(address) {
            return Some(Place::Pages(run));
        }
        let class = self.runs.slab_around(address)?;
        // SAFETY: a recorded slab lives, so the memory can be read back to its base.
        let slab = unsafe { Slab::of(memory, class) };
        let index = SlabShape::ALL[class.index()].index_of(class, address - slab.address())?;
        Some(Place::Object { slab, class, index })
    }

    /// Where the memory at `memory` is, if it was left there for a layout that asks for `room`.
    pub(super) fn left_place(&self, memory: NonNull<u8>, room: Room) -> Option<Place> {
        let place = self.place_of(memory).filter(|place| place.room().bytes() > room.bytes())?;
        // SAFETY: the place is in a run of the heap's.
        let word = unsafe { last_word(memory, place).read() };
        (word == mark(memory, room)).then_some(place)
    }

    /// Leaves the memory of `memory` where it is for `layout`, if it is large enough there.
    ///
    /// # Safety
    ///
    /// The memory is the caller's, aligned as `layout` asks.
    pub(super) unsafe fn leave(&self, memory: NonNull<u8>, layout: Layout) -> Option<NonNull<u8>> {
        let room = Room::of(layout)?;
        let place = self.place_of(memory).filter(|place| place.room().bytes() >= room.bytes())?;
        if place.room() != room {
            // SAFETY: the word is the caller's, and behind what `layout` has: rooms differ by a
            // word at least.
            unsafe { last_word(memory, place).write(mark(memory, room)) };
        }
        Some(memory)
    }

    /// Takes back memory that was left where it is for a layout that asks for `room`; with any
    /// other memory, says `otherwise`.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
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
            // SAFETY: the caller's promise. The run goes to the source, so its mark vouches for nothing.
            Place::Pages(run) => unsafe { self.free_large(pin, memory, run) },
            Place::Object { slab, class, index } => {
                if CHECKED && slab.live().clear(index) == WasLive::No {
                    return Err(InvalidFree::DoubleFree { address: memory.addr().get(), class });
                }
                // SAFETY: the memory is ours by now. A stale mark would vouch for a wrong layout of
                // its next owner's.
                unsafe { last_word(memory, place).write(0) };
                self.dealloc_shared(pin, slab, class, memory, Patience::Bounded)
            }
        }
    }
}
