//! The tasks use Rust's collections, and pages of frames that the kernel's own tables map. At the end no frame is lost.

use topomem_numa::frames::FrameRequest;
use topomem_numa::{NodeId, Order, Platform};
use topomem_percpu::{PhysAddr, PhysFrame};

use crate::machine::at;
use crate::tier::{FRAMES, Kernel};
use crate::{must, paging, println, task};

#[path = "collections.rs"]
mod collections;

pub use collections::tick;

/// Pages that each task maps.
const PAGES: usize = 512;

pub fn begin() {
    collections::begin(free_pages());
}

pub fn task(index: usize) {
    collections::task(index);
    for page in (0..PAGES).map(|page| address(index, page)) {
        let request = FrameRequest::frame();
        let frame = must("a frame", FRAMES.alloc(&Kernel.pin(), &request)).start_address().as_u64();
        paging::map(page, frame, table);
        // SAFETY: this task mapped the page, and nobody else uses it.
        unsafe { at::<u64>(page).write_volatile(page ^ frame) };
        // SAFETY: the frame is mapped to itself, too.
        assert_eq!(unsafe { at::<u64>(frame).read_volatile() }, page ^ frame, "the page is elsewhere");
    }
}

/// A frame for the kernel's tables.
fn table() -> u64 {
    must("a table", FRAMES.alloc(&Kernel.pin(), &FrameRequest::frame())).start_address().as_u64()
}

fn address(task: usize, page: usize) -> u64 {
    paging::WINDOW + ((task * PAGES + page) as u64) * 4096
}

pub fn end() {
    let pin = Kernel.pin();
    for page in (0..task::TASKS).flat_map(|task| (0..PAGES).map(move |page| address(task, page))) {
        let found = paging::read(page);
        let Some(frame) = paging::unmap(page) else { panic!("{page:#x} is not mapped") };
        assert_eq!(found, Some(page ^ frame), "changed: {page:#x}");
        let frame = PhysFrame::containing_address(PhysAddr::new(frame));
        // SAFETY: no task is left that could use the page.
        must("a free", unsafe { FRAMES.free(&pin, frame, Order::FRAME) });
    }
    println!("{} pages were mapped, by {} tables", task::TASKS * PAGES, paging::table_count());
    collections::end(paging::table_count(), free_pages);
    must("validate", FRAMES.validate());
}

fn free_pages() -> u64 {
    FRAMES.drain(&Kernel.pin());
    (0..).map_while(NodeId::new).map_while(|node| FRAMES.stats(node)).map(|stats| stats.all_free()).sum()
}
