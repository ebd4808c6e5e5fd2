//! The heap on top of the frames: what is said here comes on top of `frames.rs`.

#[path = "frames.rs"]
mod frames;

pub use frames::{FRAMES, Kernel, boot, interrupt};
use topomem_numa::Platform;
use topomem_numa::frames::Frames;
use topomem_percpu::Heap;

use crate::must;

#[global_allocator]
pub static HEAP: Heap<Kernel, &Frames<Kernel>> = Heap::new(Kernel, &FRAMES);

pub fn cpu_online() {
    frames::cpu_online();
    must("heap", HEAP.cpu_online(&Kernel.pin()));
}

pub fn cpu_offline() {
    must("heap", HEAP.cpu_offline(&Kernel.pin()).map_err(|_| "busy"));
    frames::cpu_offline();
}
