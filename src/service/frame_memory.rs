//! Frames as the memory of page tables.

use core::ptr::NonNull;

use topomem_numa::frames::{AllocError, FrameInfo, FrameRequest, Frames};
use topomem_percpu::sync::atomic::{AtomicU32, Ordering};
use topomem_percpu::{CpuPin, Order, Platform};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::page_table::TableMemory;

/// In a frame's reference word: it is a part of a 2 MiB run that was split. The run's first
/// frame counts the parts that are still in use in the bits below.
const PART: u32 = 1 << 31;

/// The entry of a frame that the allocator handed out.
fn info<P: Platform>(frames: &Frames<P>, frame: PhysFrame) -> &FrameInfo {
    let info = frames.info(frame);
    debug_assert!(info.is_some(), "{frame:?} is outside the per-frame table");
    // SAFETY: boot refuses an allocator without a per-frame table, and only frames that the
    // allocator handed out become tables or owned leaves.
    unsafe { info.unwrap_unchecked() }
}

// SAFETY: `allocate` and `free` are the allocator's; the direct map is the platform's promise;
// the aux word belongs to a frame's owner, and `link` is the frame's number, of which boot
// checks that it fits (frame 0 is never handed out: address 0 is the BIOS's).
unsafe impl<P: Platform> TableMemory for Frames<P> {
    type Error = AllocError;

    fn allocate(&self, pin: &CpuPin) -> Result<PhysFrame, AllocError> {
        let frame = self.alloc(pin, &FrameRequest::frame().zeroed())?;
        // Relaxed: the frame is ours alone until it is linked or locked.
        info(self, frame).aux.store(0, Ordering::Relaxed);
        Ok(frame)
    }

    unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame) {
        // SAFETY: the caller's promise.
        unsafe { release(self, pin, frame, Order::FRAME) };
    }

    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        self.platform().phys_to_virt(frame.start_address())
    }

    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &info(self, frame).aux
    }

    fn link(&self, frame: PhysFrame) -> u32 {
        (frame.start_address().as_u64() / 4096) as u32
    }

    fn frame_of(&self, link: u32) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new_truncate(u64::from(link) * 4096))
    }

    fn split_run(&self, first: PhysFrame) {
        // Relaxed: the leaf that maps the run is exclusively locked, and the parts go to their
        // last user through the same lock.
        for part in 0..Order::HUGE.frames() {
            info(self, first + part).references.store(PART, Ordering::Relaxed);
        }
        info(self, first).references.store(PART | Order::HUGE.frames() as u32, Ordering::Relaxed);
    }

    fn relax(&self) {
        self.platform().relax();
    }
}

/// Frees a run, or a part of a split run: the run is free when its last part is.
///
/// # Safety
///
/// The caller owns the run or part, and nobody uses or maps it any more.
pub(crate) unsafe fn release<P: Platform>(frames: &Frames<P>, pin: &CpuPin, frame: PhysFrame, order: Order) {
    let (run, order) = if order == Order::FRAME && is_part(frames, frame) {
        let number = frame.start_address().as_u64() / 4096;
        let first = frame - number % Order::HUGE.frames();
        // AcqRel: the last part's release acquires the others' last uses.
        if info(frames, first).references.fetch_sub(1, Ordering::AcqRel) & !PART != 1 {
            return;
        }
        for part in 0..Order::HUGE.frames() {
            info(frames, first + part).references.store(0, Ordering::Relaxed);
        }
        (first, Order::HUGE)
    } else {
        (frame, order)
    };
    // SAFETY: the caller's promise; of a split run, every part's.
    let freed = unsafe { frames.free(pin, run, order) };
    debug_assert!(freed.is_ok(), "{freed:?}");
}

fn is_part<P: Platform>(frames: &Frames<P>, frame: PhysFrame) -> bool {
    info(frames, frame).references.load(Ordering::Relaxed) & PART != 0
}
