//! The heap's large objects that are ranges of kernel addresses.
// Whole machines take Miri too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

mod range_support;

use std::alloc::Layout;
use std::ptr::NonNull;

use range_support::{
    MEGABYTE, addresses, allocated, booted, booted_with, check_pages, give_back, leave_frames, number_pages,
    page,
};
use topomem::percpu::{AllocError, InvalidFree};
use topomem::ranges::{RangeRequest, RangesConfig};
use topomem::sim::Sim;
use topomem::{CpuId, NodeId, VirtAddr};

fn layout(size: u64) -> Layout {
    Layout::from_size_align(size as usize, 8).unwrap()
}

fn address(memory: NonNull<u8>) -> VirtAddr {
    VirtAddr::new_truncate(memory.addr().get() as u64)
}

#[test]
fn large_objects_of_the_heap_are_ranges() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let (run, large) = (layout(2 * MEGABYTE), layout(5 * MEGABYTE - 3));
        let memory = heap.try_alloc(run).unwrap();
        assert!(!ranges.contains(address(memory)));
        // SAFETY: allocated with that layout, and not used any more.
        unsafe { heap.free(memory, run) }.unwrap();
        let stats = heap.large_stats();
        let memory = heap.try_alloc_zeroed(large).unwrap();
        assert!(ranges.contains(address(memory)));
        (0..1280).for_each(|index| assert_eq!(sim.load(page(address(memory), index)), Ok(0)));
        assert_eq!(heap.usable_size(memory), Some(5 << 20));
        assert_eq!(heap.large_stats().live, stats.live + 1);
        let wrong = InvalidFree::WrongRange { address: memory.addr().get(), size: 6 << 20, pages: 1280 };
        // SAFETY: wrong frees are refused; the last one is right.
        unsafe {
            assert_eq!(heap.free(memory, layout(6 * MEGABYTE)), Err(wrong));
            assert!(heap.free(memory.add(4096), large).is_err());
            heap.free(memory, large).unwrap();
            assert!(heap.free(memory, large).is_err());
        }
        let memory = heap.try_alloc(large).unwrap();
        // SAFETY: allocated above.
        unsafe {
            heap.free_by_address(memory).unwrap();
            assert!(heap.free_by_address(memory).is_err());
        }
        assert_eq!(heap.large_stats().live, stats.live);
        heap.validate().unwrap();
        ranges.validate(pin).unwrap();
        let node = NodeId::ZERO;
        let memory = heap.alloc_on(node, large).unwrap();
        assert!(ranges.contains(address(memory)));
        // SAFETY: allocated with that layout.
        unsafe { heap.free(memory, large) }.unwrap();
    });
}

#[test]
fn objects_of_more_than_a_gigabyte_are_ranges() {
    // The pages are scarce; what is said of the size is the matter.
    let (sim, service, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(8192)));
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let before = allocated(service);
        assert_eq!(heap.try_alloc(layout(1 << 31)), Err(AllocError::OutOfMemory));
        assert!(matches!(heap.try_alloc(layout(1 << 40)), Err(AllocError::OutOfMemory)));
        ranges.flush(pin);
        ranges.validate(pin).unwrap();
        assert!(allocated(service) <= before + 8);
        heap.validate().unwrap();
    });
    let sim = Sim::builder().nodes(1).cpus(1).memory(64 * MEGABYTE).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |_| {
        let heap = service.heap().unwrap().heap();
        let error = heap.try_alloc(layout(1 << 31)).unwrap_err();
        assert!(matches!(error, AllocError::TooLarge { .. }), "without ranges: {error}");
    });
}

#[test]
fn an_object_is_a_range_if_no_run_is_long_enough() {
    let (sim, service, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(256)));
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let wanted = layout(MEGABYTE);
        let whole = heap.try_alloc(wanted).unwrap();
        assert!(!ranges.contains(address(whole)));
        // Every second frame is free.
        let mut taken = leave_frames(service, pin, 0);
        taken.sort_by_key(|frame| frame.start_address());
        let (mut kept, mut freed) = (Vec::new(), Vec::new());
        taken
            .into_iter()
            .enumerate()
            .for_each(|(index, frame)| if index % 2 == 0 { kept.push(frame) } else { freed.push(frame) });
        give_back(service, pin, freed);
        let memory = heap.try_alloc(wanted).unwrap();
        assert!(ranges.contains(address(memory)));
        number_pages(sim, address(memory), 0..256);
        check_pages(sim, address(memory), 0..256);
        // SAFETY: both allocated with that layout, and not used any more.
        unsafe {
            heap.free(memory, wanted).unwrap();
            heap.free(whole, wanted).unwrap();
        }
        ranges.validate(pin).unwrap();
        heap.validate().unwrap();
        give_back(service, pin, kept);
    });
}

#[test]
fn realloc_of_a_range_copies_nothing() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let [small, large] = [4 * MEGABYTE, 8 * MEGABYTE].map(layout);
        let memory = heap.try_alloc(small).unwrap();
        let neighbour = heap.try_alloc(small).unwrap();
        number_pages(sim, address(memory), 0..1024);
        let bytes = heap.large_stats().bytes;
        // A copy would be an access that the host cannot make: these addresses are the machine's.
        // SAFETY: the layouts are those that the objects have.
        unsafe {
            let moved = heap.try_realloc(memory, small, large.size()).unwrap();
            assert_ne!(moved, memory);
            check_pages(sim, address(moved), 0..1024);
            assert_eq!(heap.large_stats().bytes, bytes + 4 * MEGABYTE);
            let same = heap.try_realloc(moved, large, large.size() - 5000).unwrap();
            assert_eq!(same, moved);
            let same = heap.try_realloc(moved, layout(8 * MEGABYTE - 5000), small.size()).unwrap();
            assert_eq!(same, moved);
            check_pages(sim, address(moved), 0..1024);
            heap.free(moved, small).unwrap();
            heap.free(neighbour, small).unwrap();
        }
        ranges.flush(pin);
        ranges.validate(pin).unwrap();
        heap.validate().unwrap();
        assert_eq!((ranges.stats().live, ranges.stats().freed_pages), (0, 0));
    });
}

#[test]
fn ranges_lie_on_the_node_that_is_asked_for() {
    let sim = Sim::builder().nodes(2).cpus(2).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses(64))).unwrap();
        let kernel = service.kernel_space().unwrap();
        for (node, pages) in [(0, 3), (1, 3), (1, 700), (0, 700)] {
            let node = NodeId::new(node).unwrap();
            let range = ranges.allocate(pin, &RangeRequest::pages(pages).node(node)).unwrap();
            for index in 0..pages {
                let found = kernel.translate(pin, page(range.start(), index)).unwrap();
                assert_eq!(service.frames().node_of(found.leaf.frame), Some(node), "page {index}");
            }
        }
    });
}
