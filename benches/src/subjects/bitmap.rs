//! `bitmap-allocator`'s cascade of 16-bit bitmaps, in a spin lock.

use bitmap_allocator::{BitAlloc, BitAlloc1M};
use topomem_percpu::Order;

use crate::subject::Subject;

/// One bitmap over up to 1 Mi frames in one spin lock.
pub struct Bitmap(spin::Mutex<Box<BitAlloc1M>>);

impl Subject for Bitmap {
    const NAME: &'static str = "bitmap-allocator";

    fn new(frames: usize, _cpus: usize) -> Bitmap {
        let mut bitmap = Box::new(BitAlloc1M::DEFAULT);
        bitmap.insert(0..frames);
        Bitmap(spin::Mutex::new(bitmap))
    }

    fn alloc(&self, _cpu: usize, order: Order) -> Option<u64> {
        let mut bitmap = self.0.lock();
        let frame = match order {
            Order::FRAME => bitmap.alloc(),
            _ => bitmap.alloc_contiguous(None, order.frames() as usize, order.get() as usize),
        };
        frame.map(|frame| frame as u64)
    }

    fn free(&self, _cpu: usize, frame: u64, order: Order) {
        let mut bitmap = self.0.lock();
        match order {
            Order::FRAME => bitmap.dealloc(frame as usize),
            _ => bitmap.dealloc_contiguous(frame as usize, order.frames() as usize),
        };
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(size_of::<BitAlloc1M>())
    }
}
