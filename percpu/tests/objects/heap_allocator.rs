//! The heap as an allocator of containers, and allocations on a chosen node.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::hash_map::RandomState;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use common::{Machine, TestHeap, all_online, become_cpu, check_empty, totals};
use hashbrown::HashMap;
use topomem_percpu::{AllocError, AllocOnError, Heap, NodeId, SizeClass, UnknownNode};

const MEGABYTE: usize = 1 << 20;
/// Which bytes are looked at; Miri takes its time for each.
const STRIDE: usize = if cfg!(miri) { 1009 } else { 1 };

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

/// In the scope of both traits, each method's name means the trait's: the heap's own methods have other names.
#[test]
fn no_method_of_a_trait_is_shadowed() {
    use std::alloc::GlobalAlloc;
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let (small, large) = (layout(64, 8), layout(100, 8));
    // SAFETY: the memory has the layout that it is resized and freed with, and is freed once.
    unsafe {
        let memory: *mut u8 = heap.alloc(small);
        assert!(!memory.is_null());
        let memory: *mut u8 = heap.realloc(memory, small, large.size());
        assert!(!memory.is_null());
        let () = heap.dealloc(memory, large);
        let zeroed: *mut u8 = heap.alloc_zeroed(small);
        assert!(!zeroed.is_null());
        let () = heap.dealloc(zeroed, small);
        let block: NonNull<[u8]> = heap.allocate(small).unwrap();
        let block = heap.grow(block.cast(), small, large).unwrap();
        let () = heap.deallocate(block.cast(), large);
    }
    check_empty(&machine, heap, "all is freed");
}

#[test]
fn vectors_live_in_the_heap() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let count = if cfg!(miri) { 20 } else { 3000 };
    {
        let mut numbers = Vec::new_in(&heap);
        let mut names = Vec::new_in(heap.on(node(1)).unwrap());
        for number in 0..count {
            numbers.push(number);
            names.push(number.to_string());
        }
        numbers.shrink_to_fit();
        assert!(numbers.iter().zip(&names).all(|(number, name)| number.to_string() == *name));
        assert_eq!(totals(&heap).0 + heap.large_stats().live, 2);
    }
    check_empty(&machine, heap, "vectors");
}

#[test]
#[cfg_attr(
    miri,
    ignore = "boxes of `allocator_api2` give up the right to look at a slab's header, by Stacked Borrows"
)]
fn boxes_and_maps_live_in_the_heap() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let count = 3000;
    {
        let mut names = HashMap::with_hasher_in(RandomState::new(), heap.on(node(1)).unwrap());
        for number in 0..count {
            names.insert(number, Box::new_in(number.to_string(), &heap));
        }
        assert!((0..count).all(|number| **names[&number] == number.to_string()));
        assert!(totals(&heap).0 >= count);
    }
    check_empty(&machine, heap, "boxes and maps");
}

#[test]
fn memory_on_a_node_is_there_and_goes_home() {
    let machine = Machine::new(3, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    // Of slabs, aligned ones, and runs of pages.
    let layouts = [layout(48, 8), layout(200, 64), layout(4096, 4096), layout(40_000, 8)];
    for cpu in 0..3 {
        for target in 0..3 {
            for layout in layouts {
                become_cpu(cpu);
                let memory = heap.alloc_on(node(target), layout).unwrap();
                assert_eq!(machine.node_of(memory), node(target), "{layout:?} from CPU {cpu}");
                assert_eq!(memory.addr().get() % layout.align(), 0);
                // SAFETY: the heap gave that many bytes.
                unsafe { memory.write_bytes(7, layout.size()) };
                become_cpu((cpu + 1) % 3);
                free(&heap, memory, layout);
            }
        }
    }
    // What came home to node 2 is used again there.
    become_cpu(0);
    let remote = heap.on(node(2)).unwrap();
    let (first, pages) = (remote.try_alloc(layouts[0]).unwrap(), machine.outstanding());
    for _ in 0..if cfg!(miri) { 3 } else { 1000 } {
        free(&heap, remote.try_alloc(layouts[0]).unwrap(), layouts[0]);
    }
    assert_eq!(machine.outstanding(), pages, "one object at a time needs no second slab");
    free(&heap, first, layouts[0]);
    check_empty(&machine, heap, "nodes");
}

#[test]
fn edge_cases_of_nodes() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let unknown = UnknownNode { node: node(9) };
    assert_eq!(heap.alloc_on(node(9), layout(8, 8)), Err(AllocOnError::UnknownNode(unknown)));
    assert_eq!(heap.on(node(9)).unwrap_err(), unknown);
    let too_large = layout((1 << 30) + 1, 8);
    let error = AllocError::TooLarge { size: too_large.size(), align: 8 };
    assert_eq!(heap.alloc_on(node(1), too_large), Err(AllocOnError::Alloc(error)));
    let nothing = layout(0, 64);
    let memory = heap.alloc_on(node(1), nothing).unwrap();
    assert_eq!(memory.addr().get() % 64, 0);
    free(&heap, memory, nothing);
    assert_eq!(machine.outstanding(), 0);
    let zeroed = heap.on(node(1)).unwrap().try_alloc_zeroed(layout(100, 8)).unwrap();
    // SAFETY: the heap zeroed that many bytes.
    assert!((0..100).all(|at| unsafe { zeroed.add(at).read() } == 0));
    free(&heap, zeroed, layout(100, 8));
    check_empty(&machine, heap, "edge cases");
}

#[test]
#[cfg_attr(miri, ignore = "fills two nodes; the other tests run the same unsafe code")]
fn a_full_node_is_served_by_the_nearest() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(2048, 8);
    let remote = heap.on(node(1)).unwrap();
    let mut held = std::vec::Vec::new();
    // Of a slab of the CPU's own node, which has more free objects.
    let own = heap.try_alloc(layout).unwrap();
    let error = loop {
        match remote.try_alloc(layout) {
            Ok(memory) => held.push(memory),
            Err(error) => break error,
        }
    };
    assert_eq!(error, AllocError::OutOfMemory);
    let here = held.iter().filter(|&&memory| machine.node_of(memory) == node(1)).count();
    assert!(here > 300 && held.len() - here > 300, "{here} of {}", held.len());
    assert!(held[..here].iter().all(|&memory| machine.node_of(memory) == node(1)), "the node's own first");
    // The last free object is found even if it is in another node's slab.
    let elsewhere = heap.try_alloc(layout);
    assert_eq!(elsewhere, Err(AllocError::OutOfMemory));
    free(&heap, held.pop().unwrap(), layout);
    held.push(remote.try_alloc(layout).unwrap());
    free(&heap, own, layout);
    held.push(remote.try_alloc(layout).unwrap());
    held.into_iter().for_each(|memory| free(&heap, memory, layout));
    check_empty(&machine, heap, "a full node");
}

/// Everything that containers ask of an allocator, with every change of size and alignment.
fn exercise<A: Allocator>(allocator: A, served: &mut usize) {
    let steps = [(24, 8), (0, 8), (100, 8), (100, 64), (9000, 8), (9000, 16), (40_000, 8), (300, 8), (8, 8)];
    let mut held: Option<(NonNull<u8>, Layout)> = None;
    for (at, (size, align)) in steps.into_iter().enumerate() {
        let new = layout(size, align);
        let result = match held {
            None if at % 2 == 0 => allocator.allocate(new),
            None => allocator.allocate_zeroed(new),
            // SAFETY: held with layout `old`; on success only the new block is used.
            Some((memory, old)) => unsafe {
                match size {
                    _ if size < old.size() => allocator.shrink(memory, old, new),
                    _ if at % 2 == 0 => allocator.grow(memory, old, new),
                    _ => allocator.grow_zeroed(memory, old, new),
                }
            },
        };
        let kept = held.map_or(0, |(_, old)| old.size().min(size));
        if let Ok(block) = result {
            *served += 1;
            assert_eq!(block.len(), size);
            assert_eq!(block.cast::<u8>().addr().get() % align, 0);
            held = Some((block.cast(), new));
        }
        // SAFETY: the block is held with that layout; what is looked at was written or zeroed.
        unsafe {
            let Some((memory, now)) = held else { continue };
            assert!((0..kept.min(now.size())).step_by(STRIDE).all(|at| memory.add(at).read() == 0xc3));
            let zeroed = result.is_ok() && at % 2 == 1;
            assert!(!zeroed || (kept..now.size()).step_by(STRIDE).all(|at| memory.add(at).read() == 0));
            memory.write_bytes(0xc3, now.size());
        }
    }
    if let Some((memory, now)) = held {
        // SAFETY: held with that layout, and not used any more.
        unsafe { allocator.deallocate(memory, now) };
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
fn each_failure_of_the_page_source_loses_nothing() {
    let mut complete = false;
    for failure in 0..40 {
        for single in [true, false] {
            let machine = Machine::new(2, 1, MEGABYTE);
            let heap = Heap::new(&machine, &machine);
            if failure % 2 == 0 {
                all_online(&heap);
            }
            let failing = if single { &machine.failing } else { &machine.allowance };
            failing.store(failure, Ordering::SeqCst);
            let mut served = 0;
            exercise(&heap, &mut served);
            for target in 0..2 {
                exercise(heap.on(node(target)).unwrap(), &mut served);
                let mut map = HashMap::with_hasher_in(RandomState::new(), heap.on(node(target)).unwrap());
                if map.try_reserve(200).is_ok() {
                    map.extend((0..200).map(|key| (key, key)));
                }
                let _ = Box::try_new_in([1_u64; 300], &heap);
            }
            failing.store(-1, Ordering::SeqCst);
            assert_eq!(totals(&heap).0 + heap.large_stats().live, 0);
            assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
            complete |= served == 27 && !single;
            check_empty(&machine, heap, &format!("failure {failure}, single: {single}"));
        }
    }
    assert!(complete, "the last run had no failure");
}

#[test]
#[cfg(any(debug_assertions, feature = "hardened"))]
fn refused_changes_are_told_to_the_page_source() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let (small, other) = (layout(64, 8), layout(128, 8));
    let memory = heap.try_alloc(small).unwrap();
    // SAFETY: wrong layouts are refused before anything is touched.
    unsafe {
        heap.deallocate(memory, other);
        assert!(heap.grow(memory, other, layout(500, 8)).is_err());
        assert!(heap.grow(memory, other, layout(500, 16)).is_err());
        assert!(heap.on(node(1)).unwrap().grow(memory, other, layout(500, 8)).is_err());
        heap.on(node(1)).unwrap().deallocate(memory, other);
    }
    assert_eq!(machine.refused.load(Ordering::SeqCst), 5);
    assert_eq!(heap.class_stats(SizeClass::of(small).unwrap()).live, 1);
    free(&heap, memory, small);
    check_empty(&machine, heap, "refusals");
}
