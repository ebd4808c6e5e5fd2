//! What only the inside can show: locks held by an interrupted context, corrupted slabs, and
//! depots that overflow.

#[path = "../../tests/common/mod.rs"]
pub(super) mod common;

use core::alloc::Layout;
use std::vec::Vec;

use self::common::{Machine, TestHeap, all_drained, all_online, pin, totals};
use super::*;
use crate::NodeId;
use crate::SizeClass;
use crate::depot::places_of;
use crate::slab::SlabShape;

const OBJECT: Layout = match Layout::from_size_align(64, 8) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// More than a magazine holds.
const OBJECTS: usize = if cfg!(miri) { 40 } else { 300 };

fn class() -> SizeClass {
    SizeClass::of(OBJECT).unwrap()
}

fn free(heap: &TestHeap<'_>, object: NonNull<u8>) {
    // SAFETY: the tests free what they allocated, once.
    unsafe { heap.free(object, OBJECT) }.unwrap();
}

#[test]
fn a_held_lock_stops_nobody() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    // Offline, then online: the shared path, then the magazines.
    for _ in 0..2 {
        let first = heap.try_alloc(OBJECT).unwrap();
        let shelf = &heap.existing(NodeId::ZERO).unwrap().class(class()).shelf;
        let held = shelf.lock(&&machine, &pin(), Patience::None).unwrap();
        assert!(shelf.lock(&&machine, &pin(), Patience::None).is_none());
        let mut objects: Vec<_> = (0..OBJECTS).map(|_| heap.try_alloc(OBJECT).unwrap()).collect();
        objects.push(first);
        objects.into_iter().for_each(|object| free(&heap, object));
        assert_eq!(heap.validate(), Err(Corruption::Busy { node: NodeId::ZERO, class: class() }));
        drop(held);
        heap.validate().unwrap();
        assert_eq!(heap.class_stats(class()).live, 0);
        all_drained(&heap);
        assert_eq!(totals(&heap), (0, 0, 0, 0));
        all_online(&heap);
    }
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

/// Under Miri, which reports an object whose link is followed before the write of the link is visible.
#[test]
fn an_object_that_another_thread_freed_without_the_lock_is_whole() {
    // Miri chooses which of several stores a load sees.
    (0..if cfg!(miri) { 6 } else { 1 }).for_each(|_| free_beside_a_held_lock());
}

fn free_beside_a_held_lock() {
    let machine = Machine::new(1, 2, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    let [first, second] = [(); 2].map(|()| heap.try_alloc(OBJECT).unwrap());
    let address = second.addr();
    let shelf = &heap.existing(NodeId::ZERO).unwrap().class(class()).shelf;
    let held = shelf.lock(&&machine, &pin(), Patience::None).unwrap();
    // The slab is in the inbox from here on, and the second object only joins the first.
    free(&heap, first);
    // Relaxed: it tells that the free is done, and orders nothing.
    let is_freed = std::sync::atomic::AtomicBool::new(false);
    let second = std::sync::atomic::AtomicPtr::new(second.as_ptr());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::become_cpu(1);
            free(&heap, NonNull::new(second.load(std::sync::atomic::Ordering::Relaxed)).unwrap());
            is_freed.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !is_freed.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let taken = [(); 2].map(|()| heap.try_alloc(OBJECT).unwrap());
        assert!(cfg!(miri) || taken[0].addr() == address);
        assert!(taken.iter().all(|object| [first.addr(), address].contains(&object.addr())));
        taken.into_iter().for_each(|object| free(&heap, object));
    });
    drop(held);
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

/// Under Miri, which reports a node's heap or a table of the record that is found before the writes to it are visible.
#[test]
fn what_another_thread_made_is_found_whole() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let machine = Machine::new(1, 2, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    // Relaxed: it tells an address, and orders nothing.
    let address = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::become_cpu(1);
            let node = loop {
                match heap.existing(NodeId::ZERO) {
                    Some(node) => break node,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!((node.node, node.class(class()).depot.magazines()), (NodeId::ZERO, 0));
            while heap.runs.at(address.load(Ordering::Relaxed)).is_none() {
                std::thread::yield_now();
            }
        });
        let large = Layout::from_size_align(20_000, 8).unwrap();
        free(&heap, heap.try_alloc(OBJECT).unwrap());
        // Stays: the other thread waits for its entry.
        address.store(heap.try_alloc(large).unwrap().addr().get(), Ordering::Relaxed);
    });
}

/// Under Miri, as above. Two threads make the same node's heap, and one of them uses that of the other.
#[test]
fn of_two_heaps_of_a_node_both_threads_use_one() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    // Both get the pages of a heap before one of them is the node's.
    let machine = Machine::new(1, 2, 1 << 20).hooked(|| {
        if INSIDE.fetch_add(1, Ordering::Relaxed) < 2 {
            while INSIDE.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
        }
    });
    let heap = Heap::new(&machine, &machine);
    let pair = || free(&heap, heap.try_alloc(OBJECT).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::become_cpu(1);
            pair();
        });
        pair();
    });
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn a_slab_made_while_the_lock_was_held_is_collected_later() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let first = heap.try_alloc(OBJECT).unwrap();
    heap.drain(&pin());
    let shelf = &heap.existing(NodeId::ZERO).unwrap().class(class()).shelf;
    let held = shelf.lock(&&machine, &pin(), Patience::None).unwrap();
    // Past the magazines, with no slab in the inbox: a new one.
    let second = heap.caches.with(&pin(), |_| heap.try_alloc(OBJECT).unwrap()).unwrap();
    drop(held);
    heap.run_pending_work(&pin());
    assert!(shelf.take_waiting().is_none(), "the slab still waits");
    [first, second].into_iter().for_each(|object| free(&heap, object));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of uses")]
fn a_cpu_that_was_asked_returns_what_it_and_the_depot_have_once() {
    let machine = Machine::new(1, 2, 4 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let count = 4 * class().rounds();
    let use_many = || {
        let objects: Vec<_> = (0..count).map(|_| heap.try_alloc(OBJECT).unwrap()).collect();
        objects.into_iter().for_each(|object| free(&heap, object));
        heap.class_stats(class()).cached
    };
    heap.reclaim(&pin());
    common::become_cpu(1);
    // After the call, and before the other CPU comes to it.
    assert!(use_many() >= count as u64);
    assert!(heap.existing(NodeId::ZERO).unwrap().class(class()).depot.magazines() > 0);
    assert!(heap.run_pending_work(&pin()) > 0);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    // It was asked once.
    let cached = use_many();
    assert_eq!((heap.run_pending_work(&pin()), heap.class_stats(class()).cached), (0, cached));
    all_drained(&heap);
}

#[test]
fn uses_that_do_not_get_the_lock_share_slabs() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    let first = heap.try_alloc(OBJECT).unwrap();
    let shelf = &heap.existing(NodeId::ZERO).unwrap().class(class()).shelf;
    let held = shelf.lock(&&machine, &pin(), Patience::None).unwrap();
    let before = machine.outstanding();
    let mut objects: Vec<_> = (0..OBJECTS).map(|_| heap.try_alloc(OBJECT).unwrap()).collect();
    for _ in 0..OBJECTS {
        free(&heap, objects.pop().unwrap());
        objects.push(heap.try_alloc(OBJECT).unwrap());
    }
    drop(held);
    let slabs = OBJECTS.div_ceil(SlabShape::ALL[class().index()].capacity);
    let pages = SlabShape::ALL[class().index()].order.frames() as usize;
    assert_eq!(machine.outstanding() - before, slabs * pages);
    objects.push(first);
    objects.into_iter().for_each(|object| free(&heap, object));
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn a_cell_in_use_sends_nested_uses_past_it() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let before = heap.try_alloc(OBJECT).unwrap();
    let nested = heap
        .caches
        .with(&pin(), |_| {
            free(&heap, before);
            // As after an interrupt in the middle of the shelf's lock, in the worst case.
            let shelf = &heap.existing(NodeId::ZERO).unwrap().class(class()).shelf;
            let held = shelf.lock(&&machine, &pin(), Patience::None);
            let nested = heap.try_alloc(OBJECT).unwrap();
            drop(held);
            heap.drain(&pin());
            assert_eq!(heap.cpu_offline(&pin()), Err(Unavailable::Busy));
            nested
        })
        .unwrap();
    assert_eq!(heap.cpu_stats(crate::CpuId::BOOT).unwrap().nested, 2);
    free(&heap, nested);
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn overflowing_depots_return_objects_to_their_slabs() {
    let machine = Machine::new(1, 1, 4 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    // More than the depot and the CPU hold.
    let places = places_of(class());
    let objects = (places + 4) * class().rounds() + OBJECTS;
    for _ in 0..if cfg!(miri) { 1 } else { 3 } {
        let objects: Vec<_> = (0..objects).map(|_| heap.try_alloc(OBJECT).unwrap()).collect();
        objects.into_iter().for_each(|object| free(&heap, object));
        let stats = heap.class_stats(class());
        assert_eq!(stats.live, 0);
        // The depot's magazines, and the CPU's two, one of them part full.
        let magazines = (stats.cached as usize).div_ceil(class().rounds());
        assert!((places + 1..=places + 2).contains(&magazines), "{stats:?}");
        heap.validate().unwrap();
    }
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn validate_finds_a_broken_free_list() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    let kept = heap.try_alloc(OBJECT).unwrap();
    let freed = heap.try_alloc(OBJECT).unwrap();
    free(&heap, freed);
    heap.validate().unwrap();
    // Use after free: the object's first word is its place in the free list.
    // SAFETY: the slab's pages are still out, since `kept` is.
    unsafe {
        let link = freed.cast::<*mut u8>();
        let saved = link.read();
        link.write(kept.as_ptr().wrapping_add(1));
        assert!(matches!(heap.validate(), Err(Corruption::FreeList { found: 1, .. })));
        link.write(ptr::null_mut());
        assert!(matches!(heap.validate(), Err(Corruption::FreeList { found: 1, .. })));
        link.write(freed.as_ptr());
        assert!(matches!(heap.validate(), Err(Corruption::FreeList { .. })));
        link.write(saved);
    }
    heap.validate().unwrap();
    free(&heap, kept);
}
