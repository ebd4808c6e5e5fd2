//! Frees and sizes of callers that know addresses, and no layouts.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, totals};
use topomem_percpu::{Heap, InvalidFree, MAX_CLASS_SIZE, SizeClass};

const MEGABYTE: usize = 1 << 20;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Sizes below, at and above every class, and of large objects.
fn sizes() -> impl Iterator<Item = usize> {
    let classes = SizeClass::all().map(SizeClass::size);
    let step = if cfg!(miri) { 7 } else { 1 };
    let small = classes.flat_map(|size| [size - 1, size, size + 1]).filter(|&size| size > 0).step_by(step);
    small.chain([3, 5, 8, 12].map(|pages| pages * 4096 - 1)).chain([MEGABYTE / 8])
}

/// Large objects that are held, and their bytes.
fn large_left(heap: &TestHeap<'_>) -> (u64, u64) {
    let stats = heap.large_stats();
    (stats.live, stats.bytes)
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>) -> Result<(), InvalidFree> {
    // SAFETY: each test frees what it allocated, and does not use it any more; what is wrong is to be
    // refused.
    unsafe { heap.free_by_address(memory) }
}

#[test]
fn the_address_tells_the_size_of_every_allocation() {
    let machine = Machine::new(1, 1, 16 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let pattern = vec![0xa5; MEGABYTE];
    for align in [1, 8, 16, 64, 4096, 32 * 1024] {
        let held: Vec<_> = sizes()
            .map(|size| {
                let layout = layout(size, align);
                let memory = heap.try_alloc(layout).unwrap();
                let usable = heap.usable_size(memory).unwrap();
                assert!(usable >= size, "{usable} bytes for {layout:?}");
                if let Some(class) = SizeClass::of(layout) {
                    assert_eq!(usable, class.size(), "{layout:?}");
                }
                // SAFETY: all of them are the owner's.
                unsafe { memory.write_bytes(0xa5, usable) };
                (memory, usable)
            })
            .collect();
        heap.validate().unwrap();
        for (memory, usable) in held {
            assert_eq!(heap.usable_size(memory), Some(usable));
            // SAFETY: as above; only bytes that were written are read.
            let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), usable) };
            assert!(bytes == &pattern[..usable], "another's bytes in {usable}");
            free(&heap, memory).unwrap();
        }
    }
    assert_eq!(large_left(&heap), (0, 0));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn a_layout_of_the_usable_size_is_as_good() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    for size in sizes() {
        let memory = heap.try_alloc(layout(size, 8)).unwrap();
        let usable = heap.usable_size(memory).unwrap();
        // SAFETY: allocated above, and each time the address that is the allocation's now.
        unsafe {
            let moved = heap.try_realloc(memory, layout(usable, 8), 2 * usable).unwrap();
            let twice = heap.usable_size(moved).unwrap();
            assert!(twice >= 2 * usable);
            heap.free(moved, layout(twice, 8)).unwrap();
        }
    }
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn another_cpu_frees_by_address() {
    // Two CPUs of a node, and one of another.
    let machine = Machine::new(2, 2, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    for cpu in [1, 2] {
        become_cpu(0);
        let held: Vec<_> = sizes().map(|size| heap.try_alloc(layout(size, 1)).unwrap()).collect();
        become_cpu(cpu);
        held.into_iter().for_each(|memory| free(&heap, memory).unwrap());
    }
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    assert_eq!(large_left(&heap), (0, 0));
}

#[test]
fn an_address_where_nothing_starts_is_refused_in_every_build() {
    let machine = Machine::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let large = heap.try_alloc(layout(10 * 4096, 8)).unwrap();
    let mut local = 0u64;
    // SAFETY: the offsets lie inside the object.
    let inside = [8, 4096, 5 * 4096].map(|offset| unsafe { large.add(offset) });
    let elsewhere = [NonNull::from(&mut local).cast(), NonNull::dangling()];
    for wrong in inside.into_iter().chain(elsewhere) {
        let address = wrong.addr().get();
        assert_eq!(heap.usable_size(wrong), None, "{address:#x}");
        assert_eq!(free(&heap, wrong), Err(InvalidFree::NotAllocated { address }));
    }
    free(&heap, large).unwrap();
    let address = large.addr().get();
    assert_eq!(heap.usable_size(large), None);
    assert_eq!(free(&heap, large), Err(InvalidFree::NotAllocated { address }));
    assert_eq!(large_left(&heap), (0, 0));
}

#[test]
fn the_usable_size_of_an_address_inside_an_object_is_unknown() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    for size in [8, 48, 1024, MAX_CLASS_SIZE] {
        let memory = heap.try_alloc(layout(size, 8)).unwrap();
        for offset in [1, 4, size / 2, size - 1] {
            // SAFETY: the offset lies inside the object.
            let inner = unsafe { memory.add(offset) };
            assert_eq!(heap.usable_size(inner), None, "{offset} of {size}");
        }
        free(&heap, memory).unwrap();
    }
}

#[test]
#[cfg(any(debug_assertions, feature = "hardened"))]
fn wrong_frees_inside_slabs_are_refused_where_frees_are_checked() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let memory = heap.try_alloc(layout(96, 8)).unwrap();
    let (address, class) = (memory.addr().get(), SizeClass::of(layout(96, 8)).unwrap());
    // SAFETY: the offset lies inside the object.
    let inner = unsafe { memory.add(16) };
    assert_eq!(free(&heap, inner), Err(InvalidFree::InsideObject { address: address + 16, class }));
    free(&heap, memory).unwrap();
    assert_eq!(free(&heap, memory), Err(InvalidFree::DoubleFree { address, class }));
}

#[test]
#[cfg(feature = "hardening")]
fn a_hardened_heap_needs_layouts() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::with_hardening(&machine, &machine, topomem_percpu::Hardening::ALL);
    all_online(&heap);
    for size in [40, 100_000] {
        let memory = heap.try_alloc(layout(size, 8)).unwrap();
        let address = memory.addr().get();
        assert_eq!(heap.usable_size(memory), None);
        assert_eq!(free(&heap, memory), Err(InvalidFree::NotAllocated { address }));
        // SAFETY: allocated above, and not freed yet.
        unsafe { heap.free(memory, layout(size, 8)) }.unwrap();
    }
}
