//! The tasks use Rust's collections, and pages of frames that the kernel's own tables map. Before there are frames, the
//! kernel has a list in the heap, of frames that it takes early. At the end no frame is lost.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;

use topomem_numa::frames::FrameRequest;
use topomem_numa::{BootAllocator, NodeId, Order, Platform};
use topomem_percpu::{PhysAddr, PhysFrame};

use crate::lock::Lock;
use crate::machine::at;
use crate::tier::{AREA, AREA_PAGES, FRAMES, Kernel};
use crate::{must, paging, println, task};

#[path = "collections.rs"]
mod collections;

pub(crate) use collections::tick;

/// Pages that each task maps.
const PAGES: usize = 512;

/// Frames that the kernel takes early.
const EARLY: usize = 100;

/// The early frames. Each entry is an object of its own.
#[allow(clippy::vec_box, reason = "the list is to have many objects in the heap's first area")]
static EARLY_FRAMES: Lock<Vec<Box<u64>>> = Lock::new(Vec::new());

/// Takes frames before the topology is known, and lists them in the heap before that has frames.
pub(crate) fn early(memory: &mut BootAllocator<'_>) {
    EARLY_FRAMES.with(|frames| {
        for _ in 0..EARLY {
            let frame = must("an early frame", memory.early_frame()).start_address().as_u64();
            // SAFETY: the frame is the kernel's, and mapped to itself.
            unsafe { at::<u64>(frame).write_volatile(!frame) };
            frames.push(Box::new(frame));
        }
    });
    assert!(AREA.pages_in_use() > 0, "the heap has other pages already");
}

pub(crate) fn begin() {
    collections::begin(free_frames() + AREA_PAGES as u64);
    // The list grows beyond the first area: its pages are frames from now on.
    EARLY_FRAMES.with(|frames| frames.reserve(AREA_PAGES * 4096 / 8));
    assert!(AREA.pages_in_use() > 0, "objects have moved");
}

/// Frees the early frames and their list.
fn end_early() {
    let frames = EARLY_FRAMES.with(core::mem::take);
    let pin = Kernel.pin();
    for address in frames.iter().map(|address| **address) {
        // SAFETY: the frame is the kernel's, and mapped to itself.
        assert_eq!(unsafe { at::<u64>(address).read_volatile() }, !address, "an early frame has changed");
        let frame = PhysFrame::containing_address(PhysAddr::new(address));
        // SAFETY: nobody uses the frame any more.
        must("a free", unsafe { FRAMES.free(&pin, frame, Order::FRAME) });
    }
    println!(
        "{} early frames were freed; {} pages of the first area are in use",
        frames.len(),
        AREA.pages_in_use()
    );
}

pub(crate) fn task(index: usize) {
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

pub(crate) fn end() {
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
    end_early();
    // The early frames were not free before.
    collections::end(paging::table_count(), || free_pages() - EARLY as u64);
    must("validate", FRAMES.validate());
}

/// Free pages: frames, and those of the first area.
fn free_pages() -> u64 {
    free_frames() + (AREA_PAGES - AREA.pages_in_use()) as u64
}

fn free_frames() -> u64 {
    FRAMES.drain(&Kernel.pin());
    (0..).map_while(NodeId::new).map_while(|node| FRAMES.stats(node)).map(|stats| stats.all_free()).sum()
}
