//! `bitmap-allocator`'s cascade of 16-bit bitmaps, in a spin lock.

use bitmap_allocator::{BitAlloc, BitAlloc1M};
use topomem_percpu::Order;

use crate::subject::Subject;

/// One bitmap over up to 1 Mi frames in one spin lock.
pub struct Bitmap(spin::Mutex<Box<BitAlloc1M>>);

impl Subject for Bitmap {
    const NAME: &'static str = "bitmap-allocator";
    type Frame = usize;
    type Cpu = ();

    fn new(frames: usize, _cpus: usize) -> Bitmap {
        let mut bitmap = Box::new(BitAlloc1M::DEFAULT);
        bitmap.insert(0..frames);
        Bitmap(spin::Mutex::new(bitmap))
    }

    fn cpu(&self, _cpu: usize) {}

    #[inline]
    fn alloc(&self, (): &(), order: Order) -> Option<usize> {
        let mut bitmap = self.0.lock();
        match order {
            Order::FRAME => bitmap.alloc(),
            _ => bitmap.alloc_contiguous(None, order.frames() as usize, order.get() as usize),
        }
    }

    #[inline]
    fn free(&self, (): &(), frame: usize, order: Order) {
        let mut bitmap = self.0.lock();
        match order {
            Order::FRAME => bitmap.dealloc(frame),
            _ => bitmap.dealloc_contiguous(frame, order.frames() as usize),
        };
    }

    #[inline]
    fn free_list(&self, (): &(), frames: &[usize]) {
        let mut bitmap = self.0.lock();
        for &frame in frames {
            bitmap.dealloc(frame);
        }
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(size_of::<BitAlloc1M>())
    }
}
