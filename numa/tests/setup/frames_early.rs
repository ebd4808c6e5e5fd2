//! Frames that a kernel takes before the topology is known, and frees when there is a frame allocator.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
#[path = "../tables/tables_support/mod.rs"]
mod tables_support;

use std::alloc::Layout;
use std::ptr::NonNull;

use frames_support::{Host, MIB, build, number, online, pin};
use tables_support::model::{Cpu, Machine, Memory};
use topomem_numa::frames::{DoubleFrees, FrameRequest, Frames, FramesConfig, FreeError, Zeroing};
use topomem_numa::{
    ApicId, BootAllocator, EarlyMemory, FirmwareTables, MemoryMap, MemoryRange, NodeId, Order, PhysFrame,
    Topology,
};
use topomem_percpu::{AllocError, EarlyArea, EarlyPages, Heap};

/// Two nodes of 16 MiB from 16 MiB on.
const END: u64 = 48 * MIB;
/// More than a block of 2 MiB.
const EARLY: usize = 700;

/// What is left to a kernel that has booted.
struct Booted {
    frames: &'static Frames<Host>,
    early: Vec<PhysFrame>,
}

/// Boots as a kernel does: takes frames, learns of the nodes, takes more, and hands all over.
fn boot(config: &FramesConfig) -> Booted {
    let memory: &'static EarlyMemory = Box::leak(Box::new(EarlyMemory::new()));
    let mut early = memory.open().unwrap();
    early.map.add_usable(MemoryRange::from_bounds(16 * MIB, END)).unwrap();
    let host = Host::with(END);
    let mut taken = Vec::new();
    let mut take = |frame: PhysFrame| {
        use topomem_percpu::Platform;
        let place = host.phys_to_virt(frame.start_address()).cast::<u64>();
        // SAFETY: the frame is the test's.
        unsafe { place.write(frame.start_address().as_u64() ^ 0x5a) };
        taken.push(frame);
    };
    (0..EARLY / 2).for_each(|_| take(early.allocator().early_frame().unwrap()));
    // Something that stays the kernel's lies between.
    early.allocator().alloc(3 * 4096, 4096, NodeId::ZERO).unwrap();
    let machine = Machine {
        cpus: (0..2).map(|apic| Cpu { apic, proximity: Some(apic), enabled: true }).collect(),
        memory: (0..2)
            .map(|node| Memory {
                proximity: node,
                base: (1 + u64::from(node)) * 16 * MIB,
                bytes: 16 * MIB,
                flags: 1,
            })
            .collect(),
        distances: Some(vec![vec![10, 20], vec![20, 10]]),
        ..Machine::default()
    };
    early.topology.discover(&machine.tables().firmware(), ApicId(0), &mut |found| panic!("{found}"));
    (EARLY / 2..EARLY).for_each(|_| take(early.allocator().early_frame().unwrap()));
    let frames = build(host, &mut early.allocator(), config);
    online(frames, 2);
    Booted { frames, early: taken }
}

fn all_free(frames: &Frames<Host>) -> u64 {
    (0..2).for_each(|cpu| _ = frames.drain(&pin(cpu)));
    (0..2).filter_map(NodeId::new).map(|node| frames.stats(node).unwrap().all_free()).sum()
}

fn contents(frames: &Frames<Host>, frame: PhysFrame) -> u64 {
    use topomem_percpu::Platform;
    let place = frames.platform().phys_to_virt(frame.start_address()).cast::<u64>();
    // SAFETY: the frame is the test's.
    unsafe { place.read() }
}

fn handed_over(config: &FramesConfig) {
    let Booted { frames, early } = boot(config);
    let (at_first, totals) = (all_free(frames), frames.validate().unwrap());
    // Nobody else gets them, and nobody writes to them.
    let taken: Vec<PhysFrame> =
        std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame().emergency()).ok()).collect();
    assert_eq!(taken.len() as u64, at_first);
    for frame in &early {
        assert!(!taken.contains(frame), "{frame:?} was handed out");
        assert_eq!(contents(frames, *frame), frame.start_address().as_u64() ^ 0x5a);
    }
    for &frame in &taken {
        // SAFETY: allocated above.
        unsafe { frames.free(&pin(0), frame, Order::FRAME) }.unwrap();
    }
    for &frame in &early {
        // SAFETY: nobody uses it.
        unsafe { frames.free(&pin(0), frame, Order::FRAME) }.unwrap();
    }
    // SAFETY: refused.
    let again = unsafe { frames.free(&pin(1), early[3], Order::FRAME) };
    assert!(again.is_err() || config.double_frees == DoubleFrees::FoundLate, "{again:?}");
    if again.is_err() {
        assert_eq!(all_free(frames), at_first + EARLY as u64);
        let now = frames.validate().unwrap();
        assert_eq!((now.free, now.allocated + EARLY as u64), (at_first + EARLY as u64, totals.allocated));
    }
}

#[test]
fn early_frames_are_allocated_until_they_are_freed() {
    handed_over(&FramesConfig::without_reserve());
}

#[test]
fn so_they_are_where_every_free_is_checked() {
    let double_frees = DoubleFrees::FoundAtOnce;
    handed_over(&FramesConfig { double_frees, ..FramesConfig::without_reserve() });
}

#[test]
fn so_they_are_where_frames_are_zeroed_when_freed() {
    handed_over(&FramesConfig { zeroing: Zeroing::OnFree, ..FramesConfig::without_reserve() });
}

/// What is allocated for good is the kernel's for ever.
#[test]
fn boot_allocations_are_not_handed_over() {
    let Booted { frames, early } = boot(&FramesConfig::without_reserve());
    let last = early[EARLY / 2 - 1] + 1;
    assert!(!early.contains(&last), "the boot allocation lies behind");
    // SAFETY: refused.
    let freed = unsafe { frames.free(&pin(0), last, Order::FRAME) };
    assert_eq!(freed, Err(FreeError::Reserved(last)), "{}", number(last));
}

/// The heap is used before there are frames, and goes on with them.
#[test]
fn a_heap_moves_from_its_first_area_to_frames() {
    const PAGES: usize = 64;
    let area: &'static EarlyArea<PAGES> = Box::leak(Box::new(EarlyArea::new()));
    let frames: &'static Frames<Host> = Box::leak(Box::new(Frames::new(Host::with(END))));
    let heap = Heap::new(frames.platform(), EarlyPages::new(area, frames));
    let layout = |size: usize| Layout::from_size_align(size, 16).unwrap();
    let make = |size: usize| {
        let object = heap.try_alloc(layout(size))?;
        // SAFETY: it is the test's, and has so many bytes.
        unsafe { object.write_bytes(size as u8, size) };
        Ok::<(NonNull<u8>, usize), AllocError>((object, size))
    };
    let mut early: Vec<_> = (0..100).map(|_| make(64).unwrap()).collect();
    early.push(make(20 << 10).unwrap());
    early.extend((1..9).map(|size| make(size * 100).unwrap()));
    assert_eq!(make(1 << 20).unwrap_err(), AllocError::OutOfMemory, "more than the area has");
    let used = area.pages_in_use();
    assert!((10..PAGES).contains(&used), "{used}");

    let (mut map, mut topology) = (Box::new(MemoryMap::new()), Box::new(Topology::new()));
    topology.discover(&FirmwareTables::default(), ApicId(0), &mut |_| {});
    map.add_usable(MemoryRange::from_bounds(16 * MIB, END)).unwrap();
    frames.init(&mut BootAllocator::new(&mut map, &topology), &FramesConfig::without_reserve()).unwrap();
    online(frames, 1);
    let at_first = all_free_of_one(frames);
    heap.cpu_online(&pin(0)).unwrap();
    let late: Vec<_> = (0..2000).map(|index| make(1 + index % 9000).unwrap()).collect();
    assert!(at_first - all_free_of_one(frames) > 300, "objects are in frames");
    assert_eq!(area.pages_in_use(), used, "and in no other page of the area");
    // A longer object moves over.
    let (object, size) = early.pop().unwrap();
    // SAFETY: allocated with this layout.
    let longer = unsafe { heap.try_realloc(object, layout(size), 1 << 20) }.unwrap();
    // SAFETY: it is the test's.
    let bytes = unsafe { std::slice::from_raw_parts(longer.as_ptr(), size) };
    assert!(bytes.iter().all(|&byte| byte == size as u8));
    // SAFETY: allocated with this layout.
    unsafe { heap.free(longer, layout(1 << 20)) }.unwrap();
    for (object, size) in early.into_iter().chain(late) {
        // SAFETY: it is the test's.
        let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), size) };
        assert!(bytes.iter().all(|&byte| byte == size as u8));
        // SAFETY: allocated with this layout.
        unsafe { heap.free(object, layout(size)) }.unwrap();
    }
    heap.drain(&pin(0));
    heap.validate().unwrap();
    // What is left is the heap's record of its node and of runs.
    assert!(area.pages_in_use() < used / 2, "{} of {used}", area.pages_in_use());
    drop(heap);
    assert_eq!(area.pages_in_use(), 0);
    assert_eq!(all_free_of_one(frames), at_first);
}

fn all_free_of_one(frames: &Frames<Host>) -> u64 {
    frames.drain(&pin(0));
    frames.stats(NodeId::ZERO).unwrap().all_free()
}
