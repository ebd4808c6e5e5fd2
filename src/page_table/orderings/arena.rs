//! Frames whose every use as a table must come before their free.

use core::ptr::NonNull;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::AtomicU32;
use x86_64::structures::paging::PhysFrame;

use super::super::table::Table;
use super::super::{Chain, TableMemory};
use super::foreign;

struct Frame {
    table: Table,
    aux: AtomicU32,
    /// Written by the allocator, which zeroes it, and by the free, read by each use: loom finds
    /// a use that isn't ordered between them.
    used: UnsafeCell<()>,
}

pub(super) struct Arena {
    frames: Box<[Frame]>,
    /// Those never handed out. Not loom's mutex: frames do not come back, so it orders nothing.
    fresh: Mutex<Vec<u64>>,
    freed: Mutex<usize>,
}

// SAFETY: loom checks the accesses to `used`, which is what the models are for.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

/// No frame is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Empty;

impl Arena {
    /// Frames 1 to `frames`.
    pub(super) fn new(frames: u64) -> Arena {
        let frame = |_| Frame { table: Table::new(), aux: AtomicU32::new(0), used: UnsafeCell::new(()) };
        Arena {
            frames: (0..=frames).map(frame).collect(),
            fresh: Mutex::new((1..=frames).collect()),
            freed: Mutex::new(0),
        }
    }

    /// How many frames are handed out.
    pub(super) fn allocated(&self) -> usize {
        self.frames.len() - 1 - self.fresh.lock().unwrap().len() - *self.freed.lock().unwrap()
    }

    pub(super) fn free_chain(&self, pin: &CpuPin, mut chain: Chain) {
        while let Some(frame) = chain.pop(self) {
            // SAFETY: the model checks that nobody uses it.
            unsafe { self.free(pin, frame) };
        }
    }

    fn frame(&self, frame: PhysFrame) -> &Frame {
        &self.frames[(frame.start_address().as_u64() / 4096) as usize]
    }
}

// SAFETY: a frame is handed out once; the tables live as long as the arena.
unsafe impl TableMemory for Arena {
    type Error = Empty;

    fn allocate(&self, _: &CpuPin) -> Result<PhysFrame, Empty> {
        let frame = foreign(self.fresh.lock().unwrap().pop().ok_or(Empty)?);
        self.frame(frame).used.with_mut(|_| ());
        Ok(frame)
    }

    unsafe fn free(&self, _: &CpuPin, frame: PhysFrame) {
        self.frame(frame).used.with_mut(|_| ());
        *self.freed.lock().unwrap() += 1;
    }

    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        let frame = self.frame(frame);
        frame.used.with(|_| ());
        NonNull::from(&frame.table).cast()
    }

    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &self.frame(frame).aux
    }

    fn link(&self, frame: PhysFrame) -> u32 {
        (frame.start_address().as_u64() / 4096) as u32
    }

    fn frame_of(&self, link: u32) -> PhysFrame {
        foreign(u64::from(link))
    }

    fn split_run(&self, _: PhysFrame) {}

    fn join_run(&self, _: PhysFrame) {}

    fn relax(&self) {
        loom::thread::yield_now();
    }
}
