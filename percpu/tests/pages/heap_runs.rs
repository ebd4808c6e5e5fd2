//! The runs that CPUs keep for the next large objects.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::atomic::Ordering;

use common::counting::{Counting, MEGABYTE, PAGE, cached, free, layout};
use common::{Machine, all_online, become_cpu, pin};
use topomem_percpu::{Heap, InvalidFree, LargeStats, MAX_CLASS_SIZE, RunLength};

#[test]
fn pairs_leave_the_source_alone() {
    let source = Counting::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&source.machine, &source);
    heap.cpu_online(&pin()).unwrap();
    for size in [MAX_CLASS_SIZE + 1, 2 * MAX_CLASS_SIZE, 100_000, 5 * MAX_CLASS_SIZE] {
        let layout = layout(size);
        let first = heap.try_alloc(layout).unwrap();
        free(&heap, first, layout);
        source.calls();
        for _ in 0..if cfg!(miri) { 3 } else { 100 } {
            let memory = heap.try_alloc(layout).unwrap();
            assert_eq!(memory, first);
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(0xff, size) };
            free(&heap, memory, layout);
        }
        assert_eq!(source.calls(), 0);
        heap.validate().unwrap();
    }
    assert_eq!(heap.large_stats().cached, 4);
    heap.drain(&pin());
    assert_eq!(heap.large_stats(), LargeStats::default());
    drop(heap);
    assert_eq!(source.machine.outstanding(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "fills megabytes; the other tests run the same unsafe code")]
fn what_a_cpu_keeps_is_bounded() {
    let machine = Machine::new(1, 1, 32 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    // 16 runs of a length.
    let five = layout(5 * PAGE);
    let held: Vec<_> = (0..40).map(|_| heap.try_alloc(five).unwrap()).collect();
    held.into_iter().for_each(|memory| free(&heap, memory, five));
    assert_eq!(heap.large_stats(), cached(16, 16 * 5));
    // 2 MiB in all, whatever the lengths are; the last one freed is among them.
    for pages in [50, 17, 33, 64, 9, 40, 20] {
        let layout = layout(pages * PAGE);
        let held: Vec<_> = (0..20).map(|_| heap.try_alloc(layout).unwrap()).collect();
        for memory in held {
            free(&heap, memory, layout);
            heap.validate().unwrap();
            assert!(heap.large_stats().cached_bytes <= 2 * MEGABYTE as u64);
        }
        let before = heap.large_stats().cached;
        let memory = heap.try_alloc(layout).unwrap();
        assert_eq!(heap.large_stats().cached, before - 1);
        free(&heap, memory, layout);
        assert_eq!(heap.large_stats().live, 0);
    }
    heap.drain(&pin());
    assert_eq!(heap.large_stats(), LargeStats::default());
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn runs_that_are_kept_come_back_when_asked_for() {
    let machine = Machine::new(2, 2, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(30_000);
    let pages = RunLength::of(layout).unwrap().pages();
    let keep = |cpu| {
        become_cpu(cpu);
        free(&heap, heap.try_alloc(layout).unwrap(), layout);
    };
    // By other CPUs' requests.
    (0..4).for_each(keep);
    assert_eq!(heap.large_stats(), cached(4, 4 * pages));
    become_cpu(0);
    assert_eq!(heap.reclaim(&pin()), pages);
    for cpu in 1..4 {
        become_cpu(cpu);
        assert_eq!(heap.run_pending_work(&pin()), pages);
    }
    assert_eq!(heap.large_stats(), LargeStats::default());
    // By a CPU that goes offline: it keeps nothing from then on.
    let bare = machine.outstanding();
    keep(1);
    heap.cpu_offline(&pin()).unwrap();
    assert_eq!(machine.outstanding(), bare);
    keep(1);
    assert_eq!((heap.large_stats(), machine.outstanding()), (LargeStats::default(), bare));
    heap.cpu_online(&pin()).unwrap();
    keep(1);
    assert_eq!(heap.large_stats(), cached(1, pages));
    // By the heap's end.
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
    become_cpu(0);
}

#[test]
fn memory_pressure_inside_an_allocation_takes_kept_runs_back() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let small = layout(100_000);
    let held: Vec<_> = (0..8).map(|_| heap.try_alloc(small).unwrap()).collect();
    held.into_iter().for_each(|memory| free(&heap, memory, small));
    assert_eq!(heap.large_stats().cached, 8);
    // None of the kept runs is long enough, and beside them there is too little.
    let large = layout(64 * PAGE);
    let memory = [(); 3].map(|()| heap.try_alloc(large).unwrap());
    assert_eq!(heap.large_stats().cached, 0);
    memory.into_iter().for_each(|memory| free(&heap, memory, large));
}

#[test]
fn a_run_of_another_node_is_not_kept() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(20_000);
    let memory = heap.try_alloc(layout).unwrap();
    become_cpu(1);
    free(&heap, memory, layout);
    assert_eq!(heap.large_stats(), LargeStats::default());
    free(&heap, heap.try_alloc(layout).unwrap(), layout);
    become_cpu(0);
    let own = heap.try_alloc(layout).unwrap();
    assert_eq!(machine.node_of(own).index(), 0);
    free(&heap, own, layout);
    assert_eq!(heap.large_stats().cached, 2);
}

#[test]
fn a_kept_run_is_freed_once_and_with_its_own_layout() {
    let machine = Machine::new(1, 2, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let (right, other) = (layout(30_000), layout(50_000));
    let memory = heap.try_alloc(right).unwrap();
    let (address, pages) = (memory.addr().get(), machine.outstanding());
    let length = RunLength::of(right).unwrap();
    // SAFETY: wrong frees are refused before they touch anything.
    unsafe {
        let wrong = InvalidFree::WrongSize { address, size: 50_000, length };
        assert_eq!(heap.free(memory, other), Err(wrong));
        let inside = InvalidFree::NotLarge { address: address + 8, size: 30_000 };
        assert_eq!(heap.free(memory.add(8), right), Err(inside));
        assert_eq!(heap.large_stats().live, 1);
        heap.free(memory, right).unwrap();
        for cpu in [0, 1] {
            become_cpu(cpu);
            let twice = InvalidFree::LargeDoubleFree { address, size: 30_000 };
            assert_eq!(heap.free(memory, right), Err(twice));
            let twice = InvalidFree::LargeDoubleFree { address, size: 50_000 };
            assert_eq!(heap.free(memory, other), Err(twice));
        }
    }
    become_cpu(0);
    heap.validate().unwrap();
    assert_eq!((heap.large_stats(), machine.outstanding()), (cached(1, length.pages()), pages));
    // The next one is whole again.
    let again = heap.try_alloc(right).unwrap();
    assert_eq!(again, memory);
    free(&heap, again, right);
}

#[test]
fn a_link_that_was_overwritten_leads_nowhere() {
    let machine = Machine::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(30_000);
    let [first, second] = [(); 2].map(|()| heap.try_alloc(layout).unwrap());
    free(&heap, first, layout);
    free(&heap, second, layout);
    // Use after free, of what is in front.
    // SAFETY: the run's pages are still out.
    unsafe { second.cast::<usize>().write(0x1000) };
    assert!(heap.validate().is_err());
    assert_eq!(heap.try_alloc(layout).unwrap(), second);
    let third = heap.try_alloc(layout).unwrap();
    assert_eq!(machine.refused.load(Ordering::SeqCst), 1, "the source was told");
    assert!(third != first && third != second);
    heap.validate().unwrap();
    free(&heap, second, layout);
    free(&heap, third, layout);
    // And where a drain finds it.
    let front = if heap.try_alloc(layout).unwrap() == third { third } else { second };
    free(&heap, front, layout);
    // SAFETY: as above.
    unsafe { front.cast::<usize>().write(0x1000) };
    heap.drain(&pin());
    heap.validate().unwrap();
}
