//! `buddy_system_allocator`'s frame allocator, in a spin lock.

use buddy_system_allocator::FrameAllocator;
use topomem_percpu::Order;

use crate::subject::Subject;

/// One buddy over all frames in one spin lock.
pub struct Buddy(spin::Mutex<FrameAllocator>);

impl Subject for Buddy {
    const NAME: &'static str = "buddy_system_allocator";
    type Frame = usize;
    type Cpu = ();

    fn new(frames: usize, _cpus: usize) -> Buddy {
        let mut buddy = FrameAllocator::new();
        buddy.add_frame(0, frames);
        Buddy(spin::Mutex::new(buddy))
    }

    fn cpu(&self, _cpu: usize) {}

    #[inline]
    fn alloc(&self, (): &(), order: Order) -> Option<usize> {
        self.0.lock().alloc(order.frames() as usize)
    }

    #[inline]
    fn free(&self, (): &(), frame: usize, order: Order) {
        self.0.lock().dealloc(frame, order.frames() as usize);
    }

    #[inline]
    fn free_list(&self, (): &(), frames: &[usize]) {
        let mut buddy = self.0.lock();
        for &frame in frames {
            buddy.dealloc(frame, 1);
        }
    }
}
