//! No allocator: what is left is the cases' own work.

use std::hint::black_box;

use topomem_percpu::Order;

use crate::subject::Subject;

/// Hands out frame 0, always.
pub struct Nothing;

impl Subject for Nothing {
    const NAME: &'static str = "(loop)";
    type Frame = usize;
    type Cpu = ();

    fn new(_frames: usize, _cpus: usize) -> Nothing {
        Nothing
    }

    fn cpu(&self, _cpu: usize) {}

    #[inline]
    fn alloc(&self, (): &(), _order: Order) -> Option<usize> {
        Some(black_box(0))
    }

    #[inline]
    fn free(&self, (): &(), frame: usize, _order: Order) {
        black_box(frame);
    }
}
