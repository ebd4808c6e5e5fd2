//! Whole blocks held by a CPU: freed runs of order 9, for its next requests.
//!
//! A block enters by one compare-and-swap on the block's entry, with double frees detected, and
//! leaves by a store. Written by the owning CPU alone, read by all CPUs.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::frames::region::block::{BlockEntry, HugeBlock};
use crate::frames::types::FrameNumber;

/// The maximum number of blocks: 16 MiB.
pub(crate) const MOST: usize = 8;

/// A stack of whole blocks.
#[derive(Debug)]
pub(crate) struct HugeSlots {
    /// The maximum number of held blocks.
    room: u32,
    held: AtomicU32,
    slots: [Slot; MOST],
}

#[derive(Debug)]
struct Slot {
    /// The number of the block's first frame.
    first: AtomicU64,
    entry: AtomicPtr<BlockEntry>,
}

impl Slot {
    fn first(&self) -> FrameNumber {
        FrameNumber::new(self.first.load(Ordering::Relaxed))
    }
}

impl HugeSlots {
    #[cfg(not(loom))]
    pub(super) const fn new(room: usize) -> HugeSlots {
        HugeSlots {
            room: capped(room),
            held: AtomicU32::new(0),
            slots: [const { Slot { first: AtomicU64::new(0), entry: AtomicPtr::new(ptr::null_mut()) } };
                MOST],
        }
    }

    /// Creates empty slots (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new(room: usize) -> HugeSlots {
        let vacant = || Slot { first: AtomicU64::new(0), entry: AtomicPtr::new(ptr::null_mut()) };
        HugeSlots { room: capped(room), held: AtomicU32::new(0), slots: core::array::from_fn(|_| vacant()) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.room
    }

    /// Puts a block on top, unless the stack is full.
    pub(super) fn push(&self, block: HugeBlock) {
        let held = self.held.load(Ordering::Relaxed);
        let Some(slot) = self.slots.get(held as usize) else { return };
        slot.first.store(block.first.get(), Ordering::Relaxed);
        slot.entry.store(ptr::from_ref(block.entry).cast_mut(), Ordering::Relaxed);
        // Release pairs with the Acquire in `iter`: a reader that sees the count sees the block.
        self.held.store(held + 1, Ordering::Release);
    }

    /// Returns the first frame of the top block.
    pub(super) fn top(&self) -> Option<FrameNumber> {
        let held = self.held.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.slots.get(held as usize)?.first())
    }

    /// Takes the top block, which the caller has counted as taken, or is in transit with.
    pub(super) fn pop(&self) -> Option<HugeBlock> {
        let held = self.held.load(Ordering::Relaxed).checked_sub(1)?;
        let slot = self.slots.get(held as usize)?;
        // Release pairs with the Acquire in `iter`: a reader that finds the block gone sees that
        // count.
        self.held.store(held, Ordering::Release);
        // SAFETY: below `held`, so `push` stored the address of a `&'static`.
        let entry = unsafe { &*slot.entry.load(Ordering::Relaxed) };
        Some(HugeBlock { first: slot.first(), entry })
    }

    /// Returns the first frames of the blocks; an estimate while the owner continues. Acquire pairs
    /// with the Release in `push` and `pop`.
    pub(super) fn iter(&self) -> impl Iterator<Item = FrameNumber> {
        let held = self.held.load(Ordering::Acquire) as usize;
        self.slots.iter().take(held).map(Slot::first)
    }
}

const fn capped(room: usize) -> u32 {
    if room < MOST { room as u32 } else { MOST as u32 }
}
