//! The heap on top of the frames: what is said here comes on top of `frames.rs`. The heap serves before there are
//! frames, from a first area of 128 KiB.

#[path = "frames.rs"]
mod frames;

pub(crate) use frames::{FRAMES, Kernel, boot, interrupt};
use topomem_numa::Platform;
use topomem_numa::frames::Frames;
use topomem_percpu::{EarlyArea, EarlyPages, Heap};

use crate::must;

pub(crate) const AREA_PAGES: usize = 32;
pub(crate) static AREA: EarlyArea<AREA_PAGES> = EarlyArea::new();

#[global_allocator]
pub(crate) static HEAP: Heap<Kernel, EarlyPages<AREA_PAGES, &Frames<Kernel>>> =
    Heap::new(Kernel, EarlyPages::new(&AREA, &FRAMES));

pub(crate) fn cpu_online() {
    frames::cpu_online();
    must("heap", HEAP.cpu_online(&Kernel.pin()));
}

pub(crate) fn cpu_offline() {
    must("heap", HEAP.cpu_offline(&Kernel.pin()).map_err(|_| "busy"));
    frames::cpu_offline();
}
