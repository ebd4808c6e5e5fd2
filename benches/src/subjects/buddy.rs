//! `buddy_system_allocator`'s frame allocator, in a spin lock.

use buddy_system_allocator::FrameAllocator;
use topomem_percpu::Order;

use crate::subject::Subject;

/// One buddy over all frames in one spin lock.
pub struct Buddy(spin::Mutex<FrameAllocator>);

impl Subject for Buddy {
    const NAME: &'static str = "buddy_system_allocator";

    fn new(frames: usize, _cpus: usize) -> Buddy {
        let mut buddy = FrameAllocator::new();
        buddy.add_frame(0, frames);
        Buddy(spin::Mutex::new(buddy))
    }

    fn alloc(&self, _cpu: usize, order: Order) -> Option<u64> {
        self.0.lock().alloc(order.frames() as usize).map(|frame| frame as u64)
    }

    fn free(&self, _cpu: usize, frame: u64, order: Order) {
        self.0.lock().dealloc(frame as usize, order.frames() as usize);
    }
}
