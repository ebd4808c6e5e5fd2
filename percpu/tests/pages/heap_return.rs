//! What is freed comes back, whoever freed it, wherever its pages lie, and wherever its CPU is.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin, totals};
use topomem_percpu::{CpuHeapStats, CpuId, Heap, NodeId, Order, PageSource, SizeClass};

const MEGABYTE: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

fn allocate(heap: &TestHeap<'_>, layout: Layout, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| heap.try_alloc(layout).unwrap()).collect()
}

fn cpu_stats(heap: &TestHeap<'_>, cpu: usize) -> CpuHeapStats {
    heap.cpu_stats(CpuId::new(cpu).unwrap()).unwrap()
}

/// Takes every page of `node`.
fn fill_node(machine: &Machine, node: usize) {
    while let Ok(run) = machine.allocate(&pin(), NodeId::new(node).unwrap(), Order::FRAME) {
        if machine.node_of(run).index() != node {
            // SAFETY: the run was just allocated.
            unsafe { machine.free(&pin(), run, Order::FRAME) };
            break;
        }
    }
}

#[test]
fn slabs_emptied_from_another_node_return_their_pages() {
    let machine = Machine::new(2, 1, 8 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let (layout, count) = (layout(1024), if cfg!(miri) { 200 } else { 4000 });
    let objects = allocate(&heap, layout, count);
    let full = machine.outstanding();
    // No CPU of node 0 comes by any more.
    heap.cpu_offline(&pin()).unwrap();
    become_cpu(1);
    objects.into_iter().for_each(|object| free(&heap, object, layout));
    let left = machine.outstanding();
    assert!(left < full / 4 || cfg!(miri), "{left} of {full} pages are held, with nothing live");
    // Under pressure the last few slabs come, too, from a CPU of another node.
    assert!(heap.reclaim(&pin()) > 0);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    assert!(machine.outstanding() < left);
    become_cpu(0);
}

#[test]
fn a_service_task_collects_what_was_freed_from_another_node() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(16 * 1024);
    // Two slabs: too few for the CPU that frees to collect them.
    let objects = allocate(&heap, layout, 8);
    heap.cpu_offline(&pin()).unwrap();
    heap.cpu_online(&pin()).unwrap();
    let before = machine.outstanding();
    become_cpu(1);
    objects.into_iter().for_each(|object| free(&heap, object, layout));
    assert_eq!(machine.outstanding(), before);
    become_cpu(0);
    let freed = heap.run_pending_work(&pin());
    assert!(freed > 0);
    assert_eq!(machine.outstanding() as u64, before as u64 - freed);
    assert_eq!(heap.run_pending_work(&pin()), 0);
}

#[test]
#[cfg_attr(miri, ignore = "fills a node page by page; the other tests run the same unsafe code")]
fn a_cpu_whose_node_is_full_reuses_its_slabs() {
    for online in [true, false] {
        let machine = Machine::new(2, 1, 2 * MEGABYTE);
        let heap = Heap::new(&machine, &machine);
        if online {
            all_online(&heap);
        }
        let layout = layout(64);
        free(&heap, heap.try_alloc(layout).unwrap(), layout);
        heap.drain(&pin());
        fill_node(&machine, 0);
        let before = machine.outstanding();
        for _ in 0..2000 {
            allocate(&heap, layout, 3).into_iter().for_each(|object| free(&heap, object, layout));
        }
        // A slab of objects.
        assert!(machine.outstanding() <= before + 8, "{} pages more", machine.outstanding() - before);
        if online {
            let stats = cpu_stats(&heap, 0);
            assert!(stats.misses < 10 && stats.remote_frees == 0, "{stats:?}");
        }
        all_drained(&heap);
        assert_eq!(machine.outstanding(), before);
        assert_eq!(totals(&heap), (0, 0, 0, 0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "fills a node page by page; the other tests run the same unsafe code")]
fn a_cpu_whose_node_has_no_memory_reuses_its_slabs() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    // From the start: not even the CPU's own area is on its node.
    fill_node(&machine, 1);
    let before = machine.outstanding();
    {
        let heap = Heap::new(&machine, &machine);
        become_cpu(1);
        heap.cpu_online(&pin()).unwrap();
        let layout = layout(256);
        for _ in 0..200 {
            allocate(&heap, layout, 200).into_iter().for_each(|object| free(&heap, object, layout));
        }
        let stats = cpu_stats(&heap, 1);
        assert_eq!(stats.remote_frees, 0, "{stats:?}");
        assert!(stats.misses * 10 < stats.hits, "{stats:?}");
        assert!(machine.outstanding() < before + 200, "{}", machine.outstanding() - before);
        heap.drain(&pin());
        assert_eq!(totals(&heap), (0, 0, 0, 0));
    }
    assert_eq!(machine.outstanding(), before);
    become_cpu(0);
}

#[test]
fn other_cpus_return_their_magazines_when_asked() {
    let machine = Machine::new(2, 2, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let bare = {
        all_online(&heap);
        machine.outstanding()
    };
    let layout = layout(512);
    for cpu in 0..machine.cpus() {
        become_cpu(cpu);
        allocate(&heap, layout, 40).into_iter().for_each(|object| free(&heap, object, layout));
    }
    become_cpu(0);
    heap.reclaim(&pin());
    assert!(totals(&heap).1 > 0, "the other CPUs' magazines are theirs");
    let mut freed = 0;
    for cpu in 1..machine.cpus() {
        become_cpu(cpu);
        freed += heap.run_pending_work(&pin());
        assert_eq!(heap.run_pending_work(&pin()), 0, "one request is answered once");
    }
    become_cpu(0);
    assert!(freed > 0);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    // What is left are the two nodes' own structures.
    let nodes = machine.outstanding() - bare;
    heap.reclaim(&pin());
    assert_eq!(machine.outstanding() - bare, nodes);
}

#[test]
fn the_page_source_may_reclaim_inside_an_allocation() {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    static HEAP: OnceLock<TestHeap<'static>> = OnceLock::new();
    static RECLAIMED: AtomicU64 = AtomicU64::new(0);
    static QUIET: AtomicBool = AtomicBool::new(false);
    let machine = MACHINE.get_or_init(|| {
        Machine::new(2, 1, 4 * MEGABYTE).hooked(|| {
            if let Some(heap) = HEAP.get()
                && !QUIET.load(Ordering::SeqCst)
            {
                RECLAIMED.fetch_add(heap.reclaim(&pin()), Ordering::SeqCst);
            }
        })
    });
    let heap = HEAP.get_or_init(|| Heap::new(machine, machine));
    all_online(heap);
    let mut held: Vec<(NonNull<u8>, Layout)> = Vec::new();
    for round in 0..if cfg!(miri) { 60 } else { 2000 } {
        become_cpu(round / 3 % 2);
        let layout = layout([64, 256, 1000, 9000, 40_000][round % 5]);
        if let Ok(memory) = heap.try_alloc(layout) {
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(round as u8, layout.size()) };
            held.push((memory, layout));
        }
        if round % 4 != 0 {
            let (memory, layout) = held.swap_remove(round * 7 % held.len());
            free(heap, memory, layout);
        }
    }
    assert!(RECLAIMED.load(Ordering::SeqCst) > 0);
    held.into_iter().for_each(|(memory, layout)| free(heap, memory, layout));
    heap.validate().unwrap();
    QUIET.store(true, Ordering::SeqCst);
    all_drained(heap);
    assert_eq!(totals(heap), (0, 0, 0, 0));
}

#[test]
fn alternating_at_a_magazines_edge_leaves_the_depot_alone() {
    let machine = Machine::new(1, 2, 8 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(64);
    let rounds = SizeClass::of(layout).unwrap().rounds();
    // CPU 0 only frees until it has one full magazine, and then goes to and fro around that.
    become_cpu(1);
    let mut objects = allocate(&heap, layout, rounds + 2);
    become_cpu(0);
    for object in objects.drain(2..) {
        free(&heap, object, layout);
    }
    let before = cpu_stats(&heap, 0).misses;
    for _ in 0..if cfg!(miri) { 10 } else { 1000 } {
        objects.drain(..).for_each(|object| free(&heap, object, layout));
        objects = allocate(&heap, layout, 3);
    }
    let misses = cpu_stats(&heap, 0).misses - before;
    assert!(misses < 5, "{misses}");
    objects.into_iter().for_each(|object| free(&heap, object, layout));
}

/// The page that an object lies in; a slab of 656 bytes is one page, of six objects.
fn page(object: NonNull<u8>) -> usize {
    object.addr().get() / 4096
}

#[test]
fn an_allocation_takes_from_the_fullest_slab() {
    let machine = Machine::new(1, 1, MEGABYTE);
    // A CPU that never came online uses slabs without a magazine in front.
    let heap = Heap::new(&machine, &machine);
    let layout = layout(656);
    let mut objects = allocate(&heap, layout, 5 * 6);
    objects.sort();
    // Of each slab one more is free than of the slab before.
    let slabs: Vec<_> = objects.chunks(6).collect();
    for (index, slab) in slabs.iter().enumerate().rev() {
        slab[..=index].iter().for_each(|&object| free(&heap, object, layout));
    }
    heap.validate().unwrap();
    // Slabs with few free objects first. The last one, of which one object is in use, waits to the end.
    let refilled: Vec<_> = allocate(&heap, layout, 15).into_iter().map(page).collect();
    let expected: Vec<_> =
        slabs.iter().enumerate().flat_map(|(index, slab)| vec![page(slab[0]); index + 1]).collect();
    assert_eq!(refilled, expected);
    heap.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "replaces thousands of objects; the other tests run the same unsafe code")]
fn slabs_that_are_mostly_free_empty_while_objects_come_and_go() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let layout = layout(656);
    let mut random = 1u64;
    let mut random_index = |below: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    let mut objects = allocate(&heap, layout, 1200);
    while objects.len() > 360 {
        let object = objects.swap_remove(random_index(objects.len()));
        free(&heap, object, layout);
    }
    let class = SizeClass::of(layout).unwrap();
    let before = heap.class_stats(class).slabs;
    // Each object is replaced five times.
    for _ in 0..5 * objects.len() {
        let index = random_index(objects.len());
        free(&heap, objects[index], layout);
        objects[index] = heap.try_alloc(layout).unwrap();
    }
    let after = heap.class_stats(class).slabs;
    assert!(before > 150 && after < 80, "{before} slabs, then {after}, where 60 are enough");
    heap.validate().unwrap();
}
