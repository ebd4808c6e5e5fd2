//! topomem where the kernel asked for every double free to be found at once.

use topomem_numa::frames::DoubleFrees;
use topomem_percpu::{CpuPin, Order, PhysFrame};

use crate::subject::Subject;
use crate::subjects::Topomem;

/// The allocator with a mark for each frame.
#[derive(Debug)]
pub struct Paranoid(Topomem);

impl Subject for Paranoid {
    const NAME: &'static str = "topomem paranoid";
    type Frame = PhysFrame;
    type Cpu = CpuPin;

    fn new(frames: usize, cpus: usize) -> Paranoid {
        Paranoid(Topomem::on_nodes(frames, cpus, 1, DoubleFrees::FoundAtOnce))
    }

    fn cpu(&self, cpu: usize) -> CpuPin {
        self.0.cpu(cpu)
    }

    #[inline]
    fn alloc(&self, cpu: &CpuPin, order: Order) -> Option<PhysFrame> {
        self.0.alloc(cpu, order)
    }

    #[inline]
    fn free(&self, cpu: &CpuPin, frame: PhysFrame, order: Order) {
        self.0.free(cpu, frame, order);
    }

    #[inline]
    fn free_list(&self, cpu: &CpuPin, frames: &[PhysFrame]) {
        self.0.free_list(cpu, frames);
    }

    fn drain(&self, cpu: &CpuPin) {
        self.0.drain(cpu);
    }

    fn metadata_bytes(&self) -> Option<usize> {
        self.0.metadata_bytes()
    }
}
