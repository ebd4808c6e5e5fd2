//! The block of an object: the object itself, and the data that a hardened heap keeps around it.
//!
//! ```text
//!          front          object          red zone         tail
//!    |---------------|--------------|-----------------|-----------|
//!    start           memory                                       end of the block
//! ```
//!
//! - The *front* is a word, or as long as the object's alignment. While the block is free, the
//!   plain heap has a link there, so the object's own bytes keep their pattern. Blocks aligned to
//!   more than [`MAX_FRONT`], and large ones, have no front.
//! - The *red zone* reaches from the object's last byte to the tail, but for no more than
//!   [`MAX_RED`] bytes.
//! - The *tail* is the seal, one word with the layout ([`seal`](super::seal)), and before it the
//!   site, a word that names the allocating call ([`tracking`](super::tracking)).

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::super::place::Room;
use super::report::Origin;
use super::seal::Damage;
use super::site::Site;
use super::tail::{Tail, tail};
use super::{Hardening, Measure};
use crate::CpuId;
use crate::slab::SizeClass;

/// Bytes of a link.
const WORD: usize = 8;

/// The longest front. A longer front would cost more than the object.
const MAX_FRONT: usize = 64;

/// The byte in the red zone and the front of a live object.
const RED: u8 = 0xbd;

/// The longest red zone. Bytes of the size class beyond it are not checked.
const MAX_RED: usize = 64;

/// The position of an object in its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The layout requested from the plain heap.
    pub(super) outer: Layout,
    /// The layout requested by the caller.
    inner: Layout,
    front: usize,
    /// Bytes to the end of the tail.
    end: usize,
    hardening: Hardening,
}

impl Block {
    /// Returns the block of an object with `layout`, or `None` if no layout is large enough.
    pub(super) fn of(layout: Layout, hardening: Hardening) -> Option<Block> {
        let has_front = hardening.has(Measure::Poison)
            || hardening.has(Measure::RedZones)
            || hardening.has(Measure::Quarantine);
        let front = if has_front && layout.align() <= MAX_FRONT { layout.align().max(WORD) } else { 0 };
        let with_front = Block::with(layout, front, hardening)?;
        match with_front.class() {
            Some(_) => Some(with_front),
            // Large, or too large for a front.
            None => Block::with(layout, 0, hardening),
        }
    }

    fn with(layout: Layout, front: usize, hardening: Hardening) -> Option<Block> {
        let object_end = layout.size().checked_next_multiple_of(WORD)?.checked_add(front)?;
        let size = object_end.checked_add(tail(hardening))?;
        let outer = Layout::from_size_align(size, layout.align()).ok()?;
        let end = Room::of(outer)?.bytes();
        Some(Block { outer, inner: layout, front, end, hardening })
    }

    /// Returns the size class of the block, or `None` if the block is large.
    pub(super) fn class(&self) -> Option<SizeClass> {
        SizeClass::of(self.outer)
    }

    /// Returns the start of the block of the object at `memory`.
    pub(super) fn start(&self, memory: NonNull<u8>) -> Option<NonNull<u8>> {
        NonNull::new(memory.as_ptr().wrapping_sub(self.front))
    }

    /// Returns the start of the object in the block at `start`.
    pub(super) fn object(&self, start: NonNull<u8>) -> Option<NonNull<u8>> {
        NonNull::new(start.as_ptr().wrapping_add(self.front))
    }

    /// Returns the bytes of the object.
    pub(super) fn size(&self) -> usize {
        self.inner.size()
    }

    /// Returns true if objects with either layout fit the same block, at the same position.
    pub(super) fn shares(&self, other: &Block) -> bool {
        self.front == other.front && Room::of(self.outer) == Room::of(other.outer)
    }

    /// Prepares the block at `start` for its owner. Returns the start of the object.
    ///
    /// # Safety
    ///
    /// The caller owns the block, and it has this layout.
    pub(super) unsafe fn prepare(&self, start: NonNull<u8>, cpu: CpuId, site: Option<Site>) -> NonNull<u8> {
        // SAFETY: front, red zone and tail are inside the block.
        unsafe {
            if self.hardening.has(Measure::RedZones) {
                start.write_bytes(RED, self.front);
                let red = self.red_zone();
                start.add(red.start).write_bytes(RED, red.len());
            }
            if tail(self.hardening) > 0 {
                Tail::of(start, self.end, self.hardening).write(start, self.inner, cpu, site);
            }
            start.add(self.front)
        }
    }

    /// Checks that the bytes around the object in the block at `start` are as [`Block::prepare`]
    /// left them. Returned offsets count from the object's first byte.
    ///
    /// # Safety
    ///
    /// The block is live with this outer layout.
    pub(super) unsafe fn check(&self, start: NonNull<u8>) -> Result<(), Damage> {
        let at = |place: usize| place as isize - self.front as isize;
        // SAFETY: front, red zone and tail are inside the block.
        unsafe {
            // Another layout has its red zone elsewhere.
            let intact = tail(self.hardening) == 0
                || Tail::of(start, self.end, self.hardening).check(start, self.inner)?;
            if self.hardening.has(Measure::RedZones) {
                let mut red = (0..self.front).chain(self.red_zone());
                if let Some(place) = red.find(|&place| start.add(place).read() != RED) {
                    return Err(Damage::Overwritten { offset: at(place) });
                }
            }
            if intact {
                Ok(())
            } else {
                Err(Damage::Overwritten { offset: at(self.end - tail(self.hardening)) })
            }
        }
    }

    /// Returns the origin of the object in the block at `start`, if known.
    ///
    /// # Safety
    ///
    /// The block is live with this outer layout.
    pub(super) unsafe fn origin(&self, start: NonNull<u8>) -> Option<Origin> {
        // SAFETY: the tail is inside the block.
        unsafe { origin(start, self.end, self.hardening) }.map(|(origin, _)| origin)
    }

    fn red_zone(&self) -> Range<usize> {
        let start = self.front + self.inner.size();
        start..(self.end - tail(self.hardening)).min(start + MAX_RED)
    }
}

/// Returns the origin and the size of the object in the block of `bytes` at `start`, if the tail is
/// intact.
///
/// # Safety
///
/// The block is in a slab or a run of the heap.
pub(super) unsafe fn origin(
    start: NonNull<u8>,
    bytes: usize,
    hardening: Hardening,
) -> Option<(Origin, usize)> {
    if tail(hardening) == 0 {
        return None;
    }
    // SAFETY: the caller's promise: the tail is inside the block.
    unsafe { Tail::of(start, bytes, hardening) }.origin(start)
}
