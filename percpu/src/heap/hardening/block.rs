//! The block of an object: the object itself, and what a hardened heap keeps around it.
//!
//! ```text
//!          front          object          red zone         seal
//!    |---------------|--------------|-----------------|-----------|
//!    start           memory                                       end of the size class
//! ```
//!
//! - The *front* is a word, or as long as the object's alignment. While the block is free, the plain
//!   heap has a link there, so the object's own bytes keep their pattern. Blocks that are aligned to
//!   more than [`MAX_FRONT`], and large ones, have no front.
//! - The *red zone* reaches from the object's last byte to the seal. So an object that does not fill
//!   its size class has a longer one. In a large block it is shorter than a word.
//! - The *seal* is one word that names the layout ([`seal`](super::seal)).

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::place::Room;
use super::seal::{self, Damage};
use super::{Hardening, Measure};
use crate::CpuId;
use crate::slab::SizeClass;

/// Bytes of a link, and of a seal.
const WORD: usize = 8;

/// The longest front. A longer one would cost more than the object.
const MAX_FRONT: usize = 64;

/// What fills the red zone and the front of an object that is out.
const RED: u8 = 0xbd;

/// How an object lies in its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// What the plain heap is asked for.
    pub(super) outer: Layout,
    /// What the caller asked for.
    inner: Layout,
    front: usize,
    /// Bytes to the end of the seal.
    end: usize,
    has_seal: bool,
}

impl Block {
    /// The block of an object with `layout`, or `None` if no layout is large enough.
    pub(super) fn of(layout: Layout, hardening: Hardening) -> Option<Block> {
        let has_seal = hardening.has(Measure::RedZones);
        let has_front = has_seal || hardening.has(Measure::Poison);
        let front = if has_front && layout.align() <= MAX_FRONT { layout.align().max(WORD) } else { 0 };
        let with_front = Block::with(layout, front, has_seal)?;
        match with_front.class() {
            Some(_) => Some(with_front),
            // Large, or too large for a front.
            None => Block::with(layout, 0, has_seal),
        }
    }

    fn with(layout: Layout, front: usize, has_seal: bool) -> Option<Block> {
        let object_end = layout.size().checked_next_multiple_of(WORD)?.checked_add(front)?;
        let size = if has_seal { object_end.checked_add(WORD)? } else { object_end };
        let outer = Layout::from_size_align(size, layout.align()).ok()?;
        let end = SizeClass::of(outer).map_or(size, SizeClass::size);
        Some(Block { outer, inner: layout, front, end, has_seal })
    }

    /// The size class of the block, or `None` if it is a large one.
    pub(super) fn class(&self) -> Option<SizeClass> {
        SizeClass::of(self.outer)
    }

    /// Where the block of the object at `memory` begins.
    pub(super) fn start(&self, memory: NonNull<u8>) -> Option<NonNull<u8>> {
        NonNull::new(memory.as_ptr().wrapping_sub(self.front))
    }

    /// Where the object in the block at `start` begins.
    pub(super) fn object(&self, start: NonNull<u8>) -> Option<NonNull<u8>> {
        NonNull::new(start.as_ptr().wrapping_add(self.front))
    }

    /// Bytes of the object.
    pub(super) fn size(&self) -> usize {
        self.inner.size()
    }

    /// Can an object with either layout be in the same block, at the same place?
    pub(super) fn shares(&self, other: &Block) -> bool {
        self.front == other.front && Room::of(self.outer) == Room::of(other.outer)
    }

    /// Makes the block at `start` ready for its owner, which is where the object begins that comes
    /// back.
    ///
    /// # Safety
    ///
    /// The caller owns the block, and it has this layout.
    pub(super) unsafe fn prepare(&self, start: NonNull<u8>, cpu: CpuId) -> NonNull<u8> {
        // SAFETY: front, red zone and seal are inside the block.
        unsafe {
            if self.has_seal {
                start.write_bytes(RED, self.front);
                let red = self.red_zone();
                start.add(red).write_bytes(RED, self.seal_at() - red);
                let word = seal::of(start.addr().get(), self.inner, cpu);
                start.add(self.seal_at()).cast::<u64>().write(word);
            }
            start.add(self.front)
        }
    }

    /// Is all around the object in the block at `start` as [`Block::prepare`] left it? Offsets in the
    /// answer count from the object's first byte.
    ///
    /// # Safety
    ///
    /// The block is out with this outer layout.
    pub(super) unsafe fn check(&self, start: NonNull<u8>) -> Result<(), Damage> {
        if !self.has_seal {
            return Ok(());
        }
        let at = |place: usize| place as isize - self.front as isize;
        // SAFETY: front, red zone and seal are inside the block.
        unsafe {
            let word = start.add(self.seal_at()).cast::<u64>().read();
            // Another layout than this one has its red zone elsewhere.
            let intact = seal::check(word, start.addr().get(), self.inner)?;
            let red = (0..self.front).chain(self.red_zone()..self.seal_at());
            let broken = red.into_iter().find(|&place| start.add(place).read() != RED);
            match broken {
                Some(place) => Err(Damage::Overwritten { offset: at(place) }),
                None if !intact => Err(Damage::Overwritten { offset: at(self.seal_at()) }),
                None => Ok(()),
            }
        }
    }

    fn red_zone(&self) -> usize {
        self.front + self.inner.size()
    }

    fn seal_at(&self) -> usize {
        self.end - WORD
    }
}
