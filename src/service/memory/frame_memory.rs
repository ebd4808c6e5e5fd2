//! Frames as the memory of page tables.

use core::ptr::NonNull;

use topomem_numa::frames::{AllocError, FrameInfo, FrameRequest, Frames};
use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use super::references::{JOINED, PART, PARTS, is_run};
use super::shares;
use crate::page_table::{Leaf, Level, Ownership, SharesFull, TableMemory};

/// Returns the per-frame entry of an allocated frame.
#[inline]
pub(in crate::service) fn info<P: Platform>(frames: &Frames<P>, frame: PhysFrame) -> &FrameInfo {
    debug_assert!(frames.info(frame).is_some(), "{frame:?} is outside the per-frame table");
    // SAFETY: boot refuses an allocator without a per-frame table, and only allocated frames become
    // tables or owned leaves.
    unsafe { frames.info_unchecked(frame) }
}

// SAFETY: `allocate` and `free` are the allocator's. The direct map is the platform's promise. The
// aux word belongs to a frame's owner. `link` is the number of the frame's entry in the per-frame
// table, from 1 on; boot checks the fit in 31 bits.
unsafe impl<P: Platform> TableMemory for Frames<P> {
    type Error = AllocError;

    fn allocate(&self, pin: &CpuPin) -> Result<PhysFrame, AllocError> {
        let request = FrameRequest::frame().zeroed();
        // What frees memory may need a table: tables may use the reserve.
        let reserve = |error| self.alloc(pin, &request.emergency()).map_err(|_| error);
        let frame = self.alloc(pin, &request).or_else(reserve)?;
        // Relaxed: the frame is ours alone until it is linked or locked.
        info(self, frame).aux.store(0, Ordering::Relaxed);
        Ok(frame)
    }

    unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame) {
        // SAFETY: the caller's promise.
        unsafe { release_own(self, pin, frame, Order::FRAME) };
    }

    #[inline]
    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        self.platform().phys_to_virt(frame.start_address())
    }

    #[inline(always)]
    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &info(self, frame).aux
    }

    #[inline(always)]
    fn link(&self, frame: PhysFrame) -> u32 {
        // SAFETY: as in `info`.
        unsafe { self.info_number_unchecked(frame) as u32 }
    }

    #[inline(always)]
    fn frame_of(&self, link: u32) -> PhysFrame {
        self.frame_of_info(link.into())
    }

    fn split_run(&self, first: PhysFrame) {
        // Relaxed: the leaf mapping the run is claimed, and the parts go to their last user through
        // the same claim.
        let shared_once = is_run(info(self, first).references.load(Ordering::Relaxed));
        if take_joined(self, first) {
            if shared_once {
                // Cut leaves of the run in remote spaces are gone.
                mark_run(self, first, 0);
            }
            return;
        }
        mark_run(self, first, PART);
        info(self, first).references.store(PART | Order::HUGE.frames() as u32, Ordering::Relaxed);
    }

    fn join_run(&self, first: PhysFrame) {
        // Relaxed, as in `split_run`.
        if is_part(self, first) {
            // All parts are present: the run is whole again.
            mark_run(self, first, 0);
        } else {
            info(self, first).references.store(JOINED, Ordering::Relaxed);
        }
    }

    #[inline]
    fn share(&self, first: PhysFrame, level: Level) -> Result<(), SharesFull> {
        shares::share(self, first, level)
    }

    #[inline]
    fn drop_share(&self, first: PhysFrame, level: Level) -> Option<(PhysFrame, Level)> {
        shares::drop_share(self, first, level)
    }

    fn is_sole_holder(&self, first: PhysFrame, level: Level) -> bool {
        shares::is_sole_holder(self, first, level)
    }

    fn split_shared(&self, first: PhysFrame) {
        shares::split(self, first);
    }

    fn relax(&self) {
        self.platform().relax();
    }
}

/// Makes the run from `first` a mapping's run. From now on the reference word of its first frame
/// tells how to free the run. Returns the word's former value, left by the frame's last user.
#[inline]
pub(crate) fn take_over<P: Platform>(frames: &Frames<P>, first: PhysFrame) -> u32 {
    let word = &info(frames, first).references;
    // Relaxed: the caller owns the frame until it is mapped.
    let before = word.load(Ordering::Relaxed);
    word.store(0, Ordering::Relaxed);
    before
}

/// Copies the contents of the frame `from` to the frame `to`.
///
/// # Safety
///
/// Both frames are allocated and stay allocated meanwhile, and the caller owns `to`. Programs may
/// write to `from` meanwhile: their memory has no types.
pub(crate) unsafe fn copy<P: Platform>(frames: &Frames<P>, from: PhysFrame, to: PhysFrame) {
    // In cache lines: a turn of the loop copies 8 words.
    let [from, to] = [from, to].map(|frame| frames.direct_map(frame).cast::<[[AtomicU64; 8]; 64]>());
    // SAFETY: the direct maps of allocated frames are valid and aligned; words are only read and
    // written as atomics.
    let (from, to) = unsafe { (from.as_ref(), to.as_ref()) };
    for (from, to) in from.iter().zip(to) {
        for (from, to) in from.iter().zip(to) {
            // Relaxed: the caller's claim of the entry orders the copies.
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Undoes [`take_over`] if the run was not mapped: the former user of the word keeps it.
pub(crate) fn give_up<P: Platform>(frames: &Frames<P>, first: PhysFrame, before: u32) {
    // Relaxed, as above.
    info(frames, first).references.store(before, Ordering::Relaxed);
}

/// Frees a run never owned by a leaf, whatever its reference words are: a table's frame, or memory
/// of the service itself.
///
/// # Safety
///
/// As for [`release`].
pub(crate) unsafe fn release_own<P: Platform>(
    frames: &Frames<P>,
    pin: &CpuPin,
    frame: PhysFrame,
    order: Order,
) {
    // SAFETY: the caller's promise.
    let freed = unsafe { frames.free(pin, frame, order) };
    debug_assert!(freed.is_ok(), "{freed:?}");
}

/// Frees `count` consecutive frames of tables.
///
/// # Safety
///
/// As for [`release`], for each frame.
pub(crate) unsafe fn release_tables<P: Platform>(
    frames: &Frames<P>,
    pin: &CpuPin,
    first: PhysFrame,
    count: u64,
) {
    for (first, count) in by_block(first, count) {
        // SAFETY: the caller's promise.
        if count == 1 || unsafe { frames.free_run(pin, first, count) }.is_err() {
            // A single frame, or frames of two nodes, or partly reserved frames: free them one by
            // one. SAFETY: as above.
            (0..count).for_each(|frame| unsafe { release_own(frames, pin, first + frame, Order::FRAME) });
        }
    }
}

/// Returns the frames from `first` in parts accepted by the allocator in a single call: less than 2
/// MiB, of a single block.
fn by_block(first: PhysFrame, count: u64) -> impl Iterator<Item = (PhysFrame, u64)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = count.checked_sub(done).filter(|&left| left > 0)?;
        let start = first + done;
        let in_block = Order::HUGE.frames() - number(start) % Order::HUGE.frames();
        let part = left.min(in_block).min(Order::HUGE.frames() - 1);
        done += part;
        Some((start, part))
    })
}

/// Frees a run, or a part of a split run. A split run is freed with its last part. A joined run is
/// freed in its parts.
///
/// # Safety
///
/// The caller owns the run or part, and nothing uses or maps it any more.
#[inline]
pub(crate) unsafe fn release<P: Platform>(frames: &Frames<P>, pin: &CpuPin, frame: PhysFrame, order: Order) {
    if order == Order::FRAME && is_part(frames, frame) {
        // SAFETY: the caller's promise.
        unsafe { release_parts(frames, pin, frame, 1) };
        return;
    }
    if order == Order::HUGE && take_joined(frames, frame) {
        // SAFETY: the caller's promise.
        unsafe { release_run(frames, pin, frame, order.frames()) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { release_own(frames, pin, frame, order) };
}

/// Frees the frame of the 4 KiB leaf `leaf`, or drops its share of the frame.
///
/// # Safety
///
/// The leaf is in no page table any more, and no CPU has its translation.
pub(crate) unsafe fn release_leaf<P: Platform>(frames: &Frames<P>, pin: &CpuPin, leaf: &Leaf) {
    let freed = match leaf.ownership {
        Ownership::Owned => Some((leaf.frame, Level::PAGE)),
        Ownership::Shared => frames.drop_share(leaf.frame, Level::PAGE),
        Ownership::Borrowed => None,
    };
    if let Some((first, level)) = freed {
        let order = if level == Level::PAGE { Order::FRAME } else { Order::HUGE };
        // SAFETY: the caller's promise; the leaf was the last holder of a shared frame.
        unsafe { release(frames, pin, first, order) };
    }
}

/// Frees `count` consecutive frames, allocated one by one, or parts of split runs.
///
/// Cost: an access to the per-frame table for each touched 2 MiB, and an atomic operation for 64
/// frames.
///
/// # Safety
///
/// As for [`release`], for each frame.
#[inline]
pub(crate) unsafe fn release_consecutive<P: Platform>(
    frames: &Frames<P>,
    pin: &CpuPin,
    first: PhysFrame,
    count: u64,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if count == 1 {
            release(frames, pin, first, Order::FRAME);
        } else {
            release_run(frames, pin, first, count);
        }
    }
}

/// Frees several consecutive frames.
///
/// # Safety
///
/// As for [`release_consecutive`].
unsafe fn release_run<P: Platform>(frames: &Frames<P>, pin: &CpuPin, first: PhysFrame, count: u64) {
    for (first, count) in by_block(first, count) {
        // A block is split as a whole or not at all. SAFETY: the caller's promise.
        unsafe {
            if is_part(frames, first) {
                release_parts(frames, pin, first, count);
            } else if frames.free_run(pin, first, count).is_err() {
                // Frames of two nodes, or partly reserved: free them one by one.
                (0..count).for_each(|frame| release(frames, pin, first + frame, Order::FRAME));
            }
        }
    }
}

/// Frees `count` parts of the split run around `part`.
///
/// # Safety
///
/// As for [`release`], for each part.
#[cold]
unsafe fn release_parts<P: Platform>(frames: &Frames<P>, pin: &CpuPin, part: PhysFrame, count: u64) {
    let first = run_of(part);
    let count = count as u32;
    // AcqRel: the release of the last part acquires the last uses of the rest. The bits above may
    // count further holders of the first part.
    if info(frames, first).references.fetch_sub(count, Ordering::AcqRel) & PARTS != count {
        return;
    }
    mark_run(frames, first, 0);
    // SAFETY: the promises of the callers who released the parts.
    let freed = unsafe { frames.free(pin, first, Order::HUGE) };
    debug_assert!(freed.is_ok(), "{freed:?}");
}

/// Stores `word` as the reference word of each frame of the run from `first`.
fn mark_run<P: Platform>(frames: &Frames<P>, first: PhysFrame, word: u32) {
    for part in 0..Order::HUGE.frames() {
        // Relaxed: the caller owns the run, and the next owner gets it from the caller.
        info(frames, first + part).references.store(word, Ordering::Relaxed);
    }
}

/// Returns the first frame of the 2 MiB around `part`.
pub(super) fn run_of(part: PhysFrame) -> PhysFrame {
    part - number(part) % Order::HUGE.frames()
}

fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / 4096
}

#[inline]
fn is_part<P: Platform>(frames: &Frames<P>, frame: PhysFrame) -> bool {
    info(frames, frame).references.load(Ordering::Relaxed) & PART != 0
}

/// Returns whether the run from `first` was joined, and ends the joining.
fn take_joined<P: Platform>(frames: &Frames<P>, first: PhysFrame) -> bool {
    let references = &info(frames, first).references;
    // Relaxed: a single leaf owns all of the run, and the remover of the leaf from its page table
    // owns it alone.
    let joined = references.load(Ordering::Relaxed) & JOINED != 0;
    if joined {
        references.fetch_and(!JOINED, Ordering::Relaxed);
    }
    joined
}
