//! Freed blocks held back from reuse.
//!
//! Each CPU has a queue, linked through the blocks' first words. A freed block goes to the end of
//! the queue. Blocks with [`QUARANTINE_BYTES`] or more behind them leave at its beginning. So a
//! block is handed out again only after that many bytes of later frees on that CPU. If memory is
//! short, the queue is emptied.
//!
//! The queue is in the CPU's cell. A free nested in another use of the heap finds the cell in use,
//! and bypasses the queue.

use core::cell::Cell;
use core::ptr::NonNull;

use super::super::place::Place;
use super::super::{Heap, InvalidFree};
use super::Finding;
use crate::heap::stats::counters::bump;
use crate::slab::{CLASS_COUNT, SizeClass, Slab, WasLive, link, next};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::try_lock::Patience;
use crate::{CpuPin, PageSource, Platform};

/// The bytes of blocks freed on a CPU before a block freed there is handed out again.
pub const QUARANTINE_BYTES: usize = 64 * 1024;

/// One CPU's queue.
pub(in crate::heap) struct Quarantine {
    oldest: Cell<Option<NonNull<u8>>>,
    newest: Cell<Option<NonNull<u8>>>,
    bytes: Cell<usize>,
    /// Blocks added and blocks removed, by class. Remote CPUs read these counters.
    came: [AtomicU64; CLASS_COUNT],
    went: [AtomicU64; CLASS_COUNT],
}

/// A block leaving a queue.
struct Released {
    slab: Slab,
    class: SizeClass,
    block: NonNull<u8>,
}

/// The first word of the oldest block is no link to a block of the queue. The blocks behind it are
/// lost.
struct Broken {
    block: NonNull<u8>,
}

impl Quarantine {
    pub(in crate::heap) fn new() -> Quarantine {
        Quarantine {
            oldest: Cell::new(None),
            newest: Cell::new(None),
            bytes: Cell::new(0),
            came: core::array::from_fn(|_| AtomicU64::new(0)),
            went: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Returns the number of blocks of `class` in the queue.
    pub(in crate::heap) fn held(&self, class: SizeClass) -> u64 {
        let index = class.index();
        self.came[index].load(Ordering::Relaxed).wrapping_sub(self.went[index].load(Ordering::Relaxed))
    }

    /// Appends a block to the queue.
    ///
    /// # Safety
    ///
    /// The caller owns the block, which is of `class`.
    unsafe fn push(&self, block: NonNull<u8>, class: SizeClass) {
        // SAFETY: the context owns the block, and the queue owns the newest block.
        unsafe {
            link(block, None);
            match self.newest.replace(Some(block)) {
                Some(newest) => link(newest, Some(block)),
                None => self.oldest.set(Some(block)),
            }
        }
        self.bytes.set(self.bytes.get() + class.size());
        bump(&self.came[class.index()]);
    }

    /// Takes the block at the beginning, if `bytes` or more are behind it.
    fn pop<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        bytes: usize,
    ) -> Result<Option<Released>, Broken> {
        let Some(block) = self.oldest.get().filter(|_| self.bytes.get() > bytes) else { return Ok(None) };
        // SAFETY: the block is in the queue, so the queue owns it; a link is looked up in the
        // record before it is followed.
        let behind = unsafe { next(block) };
        let intact = |block: NonNull<u8>| match heap.place_of(block) {
            Some(Place::Object { slab, class, index }) if slab.live().get(index) == WasLive::No => {
                Some((slab, class))
            }
            _ => None,
        };
        let ends = self.newest.get() == Some(block);
        let Some((slab, class)) = intact(block)
            .filter(|_| ends == behind.is_none() && behind.is_none_or(|block| intact(block).is_some()))
        else {
            self.oldest.set(None);
            self.newest.set(None);
            self.bytes.set(0);
            return Err(Broken { block });
        };
        let later = self.bytes.get().saturating_sub(class.size());
        if later < bytes {
            return Ok(None);
        }
        self.oldest.set(behind);
        if ends {
            self.newest.set(None);
        }
        self.bytes.set(later);
        bump(&self.went[class.index()]);
        Ok(Some(Released { slab, class, block }))
    }

    /// Returns all blocks to their slabs, inside the CPU's cell. Returns the number of frames freed
    /// by that.
    pub(in crate::heap) fn empty<P: Platform, S: PageSource>(&self, heap: &Heap<P, S>, pin: &CpuPin) -> u64 {
        let mut frames = 0;
        // Frees report a broken queue: here the cell is in use.
        while let Ok(Some(Released { slab, class, block })) = self.pop(heap, 0) {
            if let Some(home) = slab.home(class).and_then(|home| heap.existing(home)) {
                home.class(class).ops.freed();
                frames += heap.give(pin, home, class, slab, block, Patience::Bounded);
            }
        }
        frames
    }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Puts a freed block into the CPU's queue, and frees the blocks that have left it.
    ///
    /// # Safety
    ///
    /// The caller owns the block, an object of `class` of `slab`.
    pub(super) unsafe fn put_in_quarantine(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        block: NonNull<u8>,
    ) -> Result<(), InvalidFree> {
        let kept = self.caches.with(pin, |cache| {
            let takes = cache.is_online();
            if takes {
                // SAFETY: the caller's promise.
                unsafe { cache.quarantine.push(block, class) };
            }
            takes
        });
        if kept != Ok(true) {
            // SAFETY: the caller's promise.
            return unsafe { self.put_back(pin, slab, class, block) };
        }
        loop {
            match self.caches.with(pin, |cache| cache.quarantine.pop(self, QUARANTINE_BYTES)) {
                Ok(Ok(Some(Released { slab, class, block }))) => {
                    // SAFETY: the queue owned the block.
                    unsafe { self.put_back(pin, slab, class, block) }?;
                }
                Ok(Err(Broken { block })) => {
                    self.report(Finding::WriteAfterFree { offset: 0 }, block.addr().get(), None, None);
                    return Ok(());
                }
                Ok(Ok(None)) | Err(_) => return Ok(()),
            }
        }
    }
}
