//! The heap on a machine of threads: layouts, travel between nodes, nesting, exhaustion.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin, totals};
use topomem_percpu::{
    AllocError, CpuId, Heap, InvalidFree, MAX_CLASS_SIZE, ReallocError, SizeClass, Unavailable,
};

const MEGABYTE: usize = 1 << 20;
/// Which bytes of large objects are looked at; Miri takes its time for each.
const STRIDE: usize = if cfg!(miri) { 101 } else { 1 };

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

#[test]
fn every_layout_is_aligned_disjoint_and_returned() {
    let machine = Machine::new(1, 1, 8 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let sizes = if cfg!(miri) { vec![1] } else { (1..3000).step_by(7).collect() };
    let stride = if cfg!(miri) { 3 } else { 1 };
    let mut held = Vec::new();
    for size in sizes.into_iter().chain([4096, 10000, MAX_CLASS_SIZE, 20000, 65536]) {
        for align in [1, 8, 16, 64, 512, 4096, 32768].into_iter().step_by(stride) {
            let layout = layout(size, align);
            let Ok(memory) = heap.try_alloc(layout) else { continue };
            assert_eq!(memory.addr().get() % align, 0);
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(size as u8, size) };
            held.push((memory, layout));
        }
    }
    let mut ranges: Vec<_> = held.iter().map(|(m, l)| (m.addr().get(), l.size())).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    for (memory, layout) in held {
        for at in [0, layout.size() / 2, layout.size() - 1] {
            // SAFETY: inside the allocation, which was filled.
            assert_eq!(unsafe { memory.add(at).read() }, layout.size() as u8);
        }
        free(&heap, memory, layout);
    }
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    assert_eq!(heap.large_stats().live, 0);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn edge_layouts() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let nothing = layout(0, 64);
    let memory = heap.try_alloc(nothing).unwrap();
    assert_eq!(memory.addr().get() % 64, 0);
    free(&heap, memory, nothing);
    assert_eq!(machine.outstanding(), 0);
    let giant = layout((1 << 30) + 1, 8);
    assert_eq!(heap.try_alloc(giant), Err(AllocError::TooLarge { size: (1 << 30) + 1, align: 8 }));
    assert_eq!(heap.try_alloc(layout(1 << 29, 8)), Err(AllocError::OutOfMemory));
    assert_eq!(heap.try_alloc(layout(8, 1 << 31)), Err(AllocError::TooLarge { size: 8, align: 1 << 31 }));
}

#[test]
fn zeroed_memory_is_zero_after_use() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    for size in [24, 16000, 40000] {
        let layout = layout(size, 8);
        for _ in 0..2 {
            let memory = heap.try_alloc_zeroed(layout).unwrap();
            // SAFETY: inside the allocation, which was zeroed.
            assert!((0..size).step_by(STRIDE).all(|at| unsafe { memory.add(at).read() } == 0));
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(0xff, size) };
            free(&heap, memory, layout);
        }
    }
}

#[test]
fn realloc_keeps_contents_and_stays_where_it_can() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let sizes = [1, 7, 8, 9, 100, 112, 113, 16384, 16385, 30000, 40000, 9, 0, 50];
    let mut size = 1;
    let mut memory = heap.try_alloc(layout(size, 8)).unwrap();
    for new_size in sizes {
        for at in (0..size).step_by(STRIDE) {
            // SAFETY: inside the allocation.
            unsafe { memory.add(at).write(at as u8) };
        }
        // SAFETY: allocated with that layout; only the new place is used from here on.
        let moved = unsafe { heap.try_realloc(memory, layout(size, 8), new_size) }.unwrap();
        for at in (0..size.min(new_size)).step_by(STRIDE) {
            // SAFETY: inside the new allocation, and copied from what was written.
            assert_eq!(unsafe { moved.add(at).read() }, at as u8);
        }
        (memory, size) = (moved, new_size);
    }
    // SAFETY: allocated with that layout; only the new place is used from here on.
    let grown = unsafe { heap.try_realloc(memory, layout(50, 8), 56) }.unwrap();
    assert_eq!(grown, memory, "same class, same place");
    free(&heap, grown, layout(56, 8));
    let large = heap.try_alloc(layout(40_000, 8)).unwrap();
    // SAFETY: as above.
    let grown = unsafe { heap.try_realloc(large, layout(40_000, 8), 40_960) }.unwrap();
    assert_eq!(grown, large, "same run, same place");
    // SAFETY: as above, and what fails leaves the old place valid.
    let impossible = unsafe { heap.try_realloc(grown, layout(40_960, 8), 1 << 31) };
    assert!(matches!(impossible, Err(ReallocError::Alloc(AllocError::TooLarge { .. }))));
    free(&heap, grown, layout(40_960, 8));
    all_drained(&heap);
    assert_eq!(totals(&heap).0, 0);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn memory_is_local_and_remote_frees_go_home() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(64, 8);
    let count = if cfg!(miri) { 120 } else { 500 };
    let objects: Vec<_> = (0..count).map(|_| heap.try_alloc(layout).unwrap()).collect();
    assert!(objects.iter().all(|&object| machine.node_of(object).index() == 0));
    become_cpu(1);
    for &object in &objects {
        free(&heap, object, layout);
    }
    let own = heap.try_alloc(layout).unwrap();
    assert_eq!(machine.node_of(own).index(), 1, "another node's objects are not cached here");
    free(&heap, own, layout);
    assert_eq!(heap.cpu_stats(CpuId::new(1).unwrap()).unwrap().remote_frees, count);
    become_cpu(0);
    let again: HashSet<_> = (0..count).map(|_| heap.try_alloc(layout).unwrap()).collect();
    let reused = objects.iter().filter(|object| again.contains(object)).count();
    assert!(reused as u64 > count - 100, "home again, they are used again: {reused}");
    again.into_iter().for_each(|object| free(&heap, object, layout));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn most_uses_hit_the_magazines() {
    let machine = Machine::new(1, 2, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(64, 8);
    let rounds = if cfg!(miri) { 1 } else { 10 };
    for _ in 0..rounds {
        let objects: Vec<_> = (0..100).map(|_| heap.try_alloc(layout).unwrap()).collect();
        objects.into_iter().for_each(|object| free(&heap, object, layout));
    }
    let stats = heap.cpu_stats(CpuId::BOOT).unwrap();
    assert_eq!(stats.hits + stats.misses, rounds * 200);
    assert!(stats.hits > rounds * 185, "{stats:?}");
    // Another CPU of the node lives on what the first one left in the depot.
    let pages = machine.outstanding();
    become_cpu(1);
    let object = heap.try_alloc(layout).unwrap();
    assert_eq!(machine.outstanding(), pages);
    free(&heap, object, layout);
    become_cpu(0);
}

#[test]
fn works_before_any_cpu_is_online_and_after() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let layout = layout(32, 8);
    let early = heap.try_alloc(layout).unwrap();
    assert_eq!(heap.cpu_offline(&pin()), Err(Unavailable::NotInstalled));
    heap.cpu_online(&pin()).unwrap();
    let middle = heap.try_alloc(layout).unwrap();
    free(&heap, early, layout);
    heap.cpu_offline(&pin()).unwrap();
    free(&heap, middle, layout);
    let late = heap.try_alloc(layout).unwrap();
    let class = SizeClass::of(layout).unwrap();
    assert_eq!((heap.class_stats(class).live, heap.class_stats(class).cached), (1, 0));
    heap.cpu_online(&pin()).unwrap();
    free(&heap, late, layout);
    assert_eq!((heap.class_stats(class).live, heap.class_stats(class).cached), (0, 1));
    heap.validate().unwrap();
}

#[test]
fn emptied_slabs_return_but_for_a_magazine_of_objects() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let layout = layout(512, 8);
    let (count, slabs) = if cfg!(miri) { (100, 1) } else { (1000, 10) };
    let objects: Vec<_> = (0..count).map(|_| heap.try_alloc(layout).unwrap()).collect();
    let class = SizeClass::of(layout).unwrap();
    assert!(heap.class_stats(class).slabs > slabs);
    let slab_bytes = heap.class_stats(class).slab_bytes / heap.class_stats(class).slabs;
    objects.into_iter().for_each(|object| free(&heap, object, layout));
    let kept = (class.rounds() * class.size()) as u64 / slab_bytes;
    assert_eq!(heap.class_stats(class).slabs, kept.max(1));
    heap.drain(&pin());
    assert_eq!(heap.class_stats(class).slabs, 0);
}

#[test]
fn nested_uses_are_served() {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    static HEAP: OnceLock<TestHeap<'static>> = OnceLock::new();
    static QUIET: AtomicBool = AtomicBool::new(false);
    // The source is called from inside the CPU's cell: what it does there is what an interrupt
    // handler does that comes at this point.
    let machine = MACHINE.get_or_init(|| {
        Machine::new(2, 1, 2 * MEGABYTE).hooked(|| {
            let Some(heap) = HEAP.get() else { return };
            if QUIET.load(Ordering::SeqCst) {
                return;
            }
            for size in [8, 248, 256, 4000, 20000] {
                let layout = layout(size, 8);
                let memory = heap.try_alloc(layout).unwrap();
                // SAFETY: the heap gave that many bytes.
                unsafe { memory.write_bytes(1, size) };
                free(heap, memory, layout);
            }
        })
    });
    let heap = HEAP.get_or_init(|| Heap::new(machine, machine));
    all_online(heap);
    let mut held = Vec::new();
    for round in 0..if cfg!(miri) { 10 } else { 200 } {
        let layout = layout([8, 64, 256, 1024, 9000][round % 5], 8);
        become_cpu(round % 2);
        held.push((heap.try_alloc(layout).unwrap(), layout));
    }
    become_cpu(0);
    assert!(heap.cpu_stats(CpuId::BOOT).unwrap().nested > 0);
    held.into_iter().for_each(|(memory, layout)| free(heap, memory, layout));
    heap.validate().unwrap();
    QUIET.store(true, Ordering::SeqCst);
    all_drained(heap);
    assert_eq!(totals(heap), (0, 0, 0, 0));
}

#[test]
fn exhaustion_at_every_step_loses_nothing() {
    let (allowances, rounds) = if cfg!(miri) { (5..6, 12) } else { (0..60, 120) };
    for allowance in allowances {
        let machine = Machine::new(2, 1, 2 * MEGABYTE);
        let heap = Heap::new(&machine, &machine);
        machine.allowance.store(allowance, Ordering::SeqCst);
        let mut held = Vec::new();
        for cpu in [0, 1] {
            become_cpu(cpu);
            // Without its magazines a CPU is slower, not wrong.
            let _ = heap.cpu_online(&pin());
            for round in 0..rounds {
                let layout = layout([24, 256, 700, 9000, 20000][round % 5], 8);
                if let Ok(memory) = heap.try_alloc(layout) {
                    // SAFETY: the heap gave that many bytes.
                    unsafe { memory.write_bytes(round as u8, layout.size()) };
                    held.push((memory, layout, round as u8));
                }
                if round % 3 == 0
                    && let Some((memory, layout, tag)) = held.pop()
                {
                    // SAFETY: the last byte of an allocation that was filled.
                    assert_eq!(unsafe { memory.add(layout.size() - 1).read() }, tag);
                    free(&heap, memory, layout);
                }
            }
        }
        heap.validate().unwrap();
        let live = held.iter().filter(|(_, layout, _)| layout.size() <= MAX_CLASS_SIZE).count();
        assert_eq!(totals(&heap).0, live as u64);
        for (memory, layout, tag) in held {
            // SAFETY: the first byte of an allocation that was filled.
            assert_eq!(unsafe { memory.read() }, tag);
            free(&heap, memory, layout);
        }
        all_drained(&heap);
        assert_eq!(totals(&heap), (0, 0, 0, 0), "allowance {allowance}");
        drop(heap);
        assert_eq!(machine.outstanding(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "fills two nodes; the other tests run the same unsafe code")]
fn the_last_free_object_is_found_wherever_it_is() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(2048, 8);
    let mut held = Vec::new();
    while let Ok(memory) = heap.try_alloc(layout) {
        held.push(memory);
    }
    assert!(held.len() > 700, "{}", held.len());
    // Free one of each node from CPU 0; both come back to CPU 1.
    for node in 0..2 {
        let at = held.iter().position(|&memory| machine.node_of(memory).index() == node).unwrap();
        free(&heap, held.swap_remove(at), layout);
    }
    heap.drain(&pin());
    become_cpu(1);
    held.push(heap.try_alloc(layout).unwrap());
    held.push(heap.try_alloc(layout).unwrap());
    assert_eq!(heap.try_alloc(layout), Err(AllocError::OutOfMemory));
    held.into_iter().for_each(|memory| free(&heap, memory, layout));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
#[cfg(any(debug_assertions, feature = "hardened"))]
fn wrong_frees_are_refused() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let small = layout(64, 8);
    let class = SizeClass::of(small).unwrap();
    let first = heap.try_alloc(small).unwrap();
    let second = heap.try_alloc(small).unwrap();
    let address = first.addr().get();
    let wrong = layout(128, 8);
    // SAFETY: wrong frees are refused in checking builds, before they touch anything; each allocation
    // is freed once besides.
    unsafe {
        let inside = heap.free(first.add(8), small);
        assert_eq!(inside, Err(InvalidFree::InsideObject { address: address + 8, class }));
        let other = SizeClass::of(wrong).unwrap();
        assert_eq!(heap.free(first, wrong), Err(InvalidFree::NotInSlab { address, class: other }));
        heap.free(first, small).unwrap();
        // In a magazine, and after going home from another node.
        assert_eq!(heap.free(first, small), Err(InvalidFree::DoubleFree { address, class }));
        become_cpu(1);
        heap.free(second, small).unwrap();
        assert!(matches!(heap.free(second, small), Err(InvalidFree::DoubleFree { .. })));
        become_cpu(0);
        let large = layout(20000, 8);
        let run = heap.try_alloc(large).unwrap();
        assert!(matches!(heap.free(run.add(64), large), Err(InvalidFree::NotLarge { .. })));
        heap.free(run, large).unwrap();
        // As the global allocator, which has nobody to return it to.
        std::alloc::GlobalAlloc::dealloc(&heap, first.as_ptr(), small);
    }
    assert_eq!(machine.refused.load(Ordering::SeqCst), 1);
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}
