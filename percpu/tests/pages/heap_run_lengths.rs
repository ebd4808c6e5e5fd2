//! Large objects: lengths that are no power of two, changes of size, and zeroed memory.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::counting::{Counting, MARK, MEGABYTE, PAGE, free, layout};
use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin};
use topomem_percpu::{Heap, LargeStats, MAX_CLASS_SIZE, NodeId, PageSource, RunLength, forward_page_source};

#[test]
#[cfg_attr(miri, ignore = "writes megabytes; the other tests run the same unsafe code")]
fn lengths_that_are_no_power_of_two_cost_none() {
    let machine = Machine::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    // The record of the runs has its tables from here on.
    free(&heap, heap.try_alloc(layout(20_000)).unwrap(), layout(20_000));
    heap.drain(&pin());
    let bare = machine.outstanding();
    for size in (MAX_CLASS_SIZE + 1..64 * PAGE).step_by(777).chain([33 * PAGE, 64 * PAGE]) {
        let layout = layout(size);
        let memory = heap.try_alloc(layout).unwrap();
        // SAFETY: the heap gave that many bytes.
        unsafe { memory.write_bytes(0x77, size) };
        let (least, pages) = (size.div_ceil(PAGE), machine.outstanding() - bare);
        assert!(pages == least || least > 32 && (pages - least) * 16 < least, "{size}: {pages}");
        free(&heap, memory, layout);
        heap.drain(&pin());
        assert_eq!(machine.outstanding(), bare);
    }
}

/// An object that grows step by step moves to where it can grow on.
#[test]
fn an_object_that_grows_moves_into_a_longer_run() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    // Without a run that was freed, there is no such place.
    let long = layout(64 * PAGE);
    let kept = heap.try_alloc(long).unwrap();
    free(&heap, kept, long);
    let held = machine.outstanding();
    let mut now = layout(MAX_CLASS_SIZE);
    let mut memory = heap.try_alloc(now).unwrap();
    // SAFETY: the heap gave that many bytes.
    unsafe { memory.write_bytes(0x5a, now.size()) };
    for pages in [8, 16, 40, 64] {
        // SAFETY: allocated with this layout, and used by its new place from here on.
        memory = unsafe { heap.try_realloc(memory, now, pages * PAGE) }.unwrap();
        assert_eq!(memory, kept, "of {pages} pages");
        now = layout(pages * PAGE);
        // SAFETY: so many bytes are there.
        let bytes = unsafe { core::slice::from_raw_parts(memory.as_ptr(), MAX_CLASS_SIZE) };
        assert!(bytes.iter().all(|&byte| byte == 0x5a));
        let large = heap.large_stats();
        assert_eq!((large.live, large.bytes, large.cached), (1, (pages * PAGE) as u64, 0));
        heap.validate().unwrap();
    }
    free(&heap, memory, now);
    heap.drain(&pin());
    assert!(machine.outstanding() < held);
    heap.validate().unwrap();
}

#[test]
fn alignments_beyond_a_page_are_honoured() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let mut held = Vec::new();
    for (size, align) in [(5, 1), (5, 4), (33, 1), (9, 8), (33, 32), (1, 32), (5, 64), (9, 8), (9, 1)] {
        let layout = Layout::from_size_align(size * PAGE, align * PAGE).unwrap();
        for _ in 0..2 {
            // A kept run that is aligned to a page, and then another.
            let memory = heap.try_alloc(layout).unwrap();
            assert_eq!(memory.addr().get() % layout.align(), 0);
            free(&heap, memory, layout);
            let memory = heap.try_alloc(layout).unwrap();
            assert_eq!(memory.addr().get() % layout.align(), 0);
            held.push((memory, layout));
        }
    }
    // The run that is kept is aligned to less than is asked for.
    let [loose, strict] = [1, 16].map(|align| Layout::from_size_align(17 * PAGE, align * PAGE).unwrap());
    let runs: Vec<_> = (0..4).map(|_| heap.try_alloc(loose).unwrap()).collect();
    let (aligned, other): (Vec<_>, Vec<_>) =
        runs.into_iter().partition(|run| run.addr().get() % strict.align() == 0);
    assert!(!other.is_empty());
    aligned.into_iter().for_each(|memory| held.push((memory, loose)));
    other.into_iter().for_each(|memory| free(&heap, memory, loose));
    let memory = heap.try_alloc(strict).unwrap();
    assert_eq!(memory.addr().get() % strict.align(), 0);
    held.push((memory, strict));
    held.into_iter().for_each(|(memory, layout)| free(&heap, memory, layout));
    heap.validate().unwrap();
    all_drained(&heap);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn what_one_cpu_allocates_another_frees() {
    let machine = Machine::new(1, 2, 8 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = layout(30_000);
    let pass = |heap: &TestHeap<'_>| {
        become_cpu(0);
        let memory = heap.try_alloc(layout).unwrap();
        become_cpu(1);
        free(heap, memory, layout);
    };
    (0..40).for_each(|_| pass(&heap));
    let stats = heap.large_stats();
    assert_eq!((stats.live, stats.bytes), (0, 0));
    assert!(stats.cached <= 16, "{stats:?}");
    become_cpu(0);
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(heap.large_stats(), LargeStats::default());
}

/// Writes a byte that tells where it is to both ends of each page.
fn fill(memory: NonNull<u8>, size: usize) {
    for at in (0..size).step_by(PAGE).chain([size - 1]) {
        // SAFETY: the caller has so many bytes.
        unsafe { memory.add(at).write((at / PAGE) as u8 ^ 0x2f) };
    }
}

fn check(memory: NonNull<u8>, size: usize) {
    for at in (0..size).step_by(PAGE) {
        // SAFETY: the caller has so many bytes.
        assert_eq!(unsafe { memory.add(at).read() }, (at / PAGE) as u8 ^ 0x2f);
    }
}

#[test]
fn changes_of_size_stay_in_place_where_the_neighbours_are_free() {
    let source = Counting::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&source.machine, &source);
    heap.cpu_online(&pin()).unwrap();
    let pages = |pages: usize| layout(pages * PAGE);
    // Behind the first run come the tables of the record, behind the second one nothing.
    let first = heap.try_alloc(pages(5)).unwrap();
    let memory = heap.try_alloc(pages(5)).unwrap();
    fill(memory, 5 * PAGE);
    let bare = source.machine.outstanding() - 5;
    let realloc = |memory, from, to| {
        // SAFETY: the test has the object with that layout, and uses what comes back.
        unsafe { heap.try_realloc(memory, pages(from), to * PAGE) }
    };
    let sizes = [5, 6, 20, 9, 8, 32, 5, 33, 40, 6];
    for pair in sizes.windows(2) {
        source.calls();
        assert_eq!(realloc(memory, pair[0], pair[1]), Ok(memory));
        assert_eq!(source.calls(), 1);
        check(memory, pair[0].min(pair[1]) * PAGE);
        fill(memory, pair[1] * PAGE);
        let length = RunLength::of(pages(pair[1])).unwrap();
        assert_eq!(source.machine.outstanding() - bare, length.pages() as usize);
        let stats = heap.large_stats();
        assert_eq!((stats.live, stats.bytes), (2, 5 * PAGE as u64 + length.bytes()));
        heap.validate().unwrap();
        // The old layout is not right any more.
        // SAFETY: a wrong free is refused before it touches anything.
        assert!(unsafe { heap.free(memory, pages(pair[0])) }.is_err());
    }
    // The neighbour is in use.
    let neighbour = heap.try_alloc(pages(7)).unwrap();
    assert_eq!(neighbour.addr().get(), memory.addr().get() + 6 * PAGE);
    fill(neighbour, 7 * PAGE);
    let moved = realloc(memory, 6, 9).unwrap();
    assert_ne!(moved, memory);
    check(moved, 6 * PAGE);
    check(neighbour, 7 * PAGE);
    free(&heap, first, pages(5));
    free(&heap, neighbour, pages(7));
    free(&heap, moved, pages(9));
    assert_eq!(heap.large_stats().live, 0);
    heap.drain(&pin());
    drop(heap);
    assert_eq!(source.machine.outstanding(), 0);
}

/// Freed neighbours that the CPU keeps for the next objects go back to the source for an object that grows;
/// other runs of their lengths stay.
#[test]
fn an_object_grows_over_runs_that_its_cpu_keeps() {
    let source = Counting::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&source.machine, &source);
    heap.cpu_online(&pin()).unwrap();
    let pages = |pages: usize| layout(pages * PAGE);
    // Behind the first run come the tables of the record.
    let first = heap.try_alloc(pages(5)).unwrap();
    let memory = heap.try_alloc(pages(5)).unwrap();
    fill(memory, 5 * PAGE);
    let others = [6, 7, 6, 6].map(|count| (heap.try_alloc(pages(count)).unwrap(), count));
    for (at, (other, _)) in [5, 11, 18, 24].into_iter().zip(others) {
        assert_eq!(other.addr().get(), memory.addr().get() + at * PAGE, "the runs lie in a row");
    }
    // The first of the row is neither the first nor the last of its list.
    for (other, count) in [others[2], others[0], others[3], others[1]] {
        free(&heap, other, pages(count));
    }
    let kept = heap.large_stats();
    // SAFETY: the test has the object with that layout.
    let grown = unsafe { heap.try_realloc(memory, pages(5), 18 * PAGE) };
    assert_eq!(grown, Ok(memory));
    check(memory, 5 * PAGE);
    heap.validate().unwrap();
    let stats = heap.large_stats();
    let left = (kept.cached - 2, kept.cached_bytes - 13 * PAGE as u64);
    assert_eq!((stats.cached, stats.cached_bytes), left);
    // Those that stayed serve their length without a call.
    source.calls();
    for (other, _) in [others[3], others[2]] {
        assert_eq!(heap.try_alloc(pages(6)), Ok(other));
    }
    assert_eq!(source.calls(), 0);
    free(&heap, others[3].0, pages(6));
    free(&heap, others[2].0, pages(6));
    free(&heap, first, pages(5));
    free(&heap, memory, pages(18));
    heap.drain(&pin());
    heap.validate().unwrap();
    drop(heap);
    assert_eq!(source.machine.outstanding(), 0);
}

/// A source that knows orders only.
struct Orders(Machine);

// SAFETY: the machine's own promises; all else is the trait's own.
unsafe impl PageSource for Orders {
    forward_page_source!(|this| &this.0; allocate, free, node_of_cpu);
}

#[test]
fn a_source_that_knows_orders_only_serves_all_lengths() {
    let source = Orders(Machine::new(1, 1, 2 * MEGABYTE));
    let heap = Heap::new(&source.0, &source);
    heap.cpu_online(&pin()).unwrap();
    let pages = |pages: usize| layout(pages * PAGE);
    let mut memory = heap.try_alloc(pages(33)).unwrap();
    fill(memory, 33 * PAGE);
    // In place as long as the order is the same.
    for (from, to, stays) in
        [(33, 40, true), (40, 64, true), (64, 35, true), (35, 20, false), (20, 32, true), (32, 33, false)]
    {
        // SAFETY: the test has the object with that layout, and uses what comes back.
        let resized = unsafe { heap.try_realloc(memory, pages(from), to * PAGE) }.unwrap();
        assert_eq!(resized == memory, stays, "{from}, {to}");
        check(resized, from.min(to) * PAGE);
        fill(resized, to * PAGE);
        memory = resized;
        heap.validate().unwrap();
    }
    free(&heap, memory, pages(33));
    heap.drain(&pin());
    drop(heap);
    assert_eq!(source.0.outstanding(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
fn what_the_source_refuses_changes_nothing() {
    let pages = |pages: usize| layout(pages * PAGE);
    for allowance in 0..40 {
        let machine = Machine::new(2, 1, 2 * MEGABYTE);
        let heap = Heap::new(&machine, &machine);
        machine.allowance.store(allowance, Ordering::SeqCst);
        let _ = heap.cpu_online(&pin());
        let mut held: Vec<(NonNull<u8>, usize)> = Vec::new();
        for round in 0..12 {
            let size = [5, 9, 33, 6, 40, 12][round % 6];
            let before = (heap.large_stats().live, machine.outstanding());
            let zeroed = round % 2 == 0;
            match if zeroed { heap.try_alloc_zeroed(pages(size)) } else { heap.try_alloc(pages(size)) } {
                Ok(memory) => {
                    fill(memory, size * PAGE);
                    held.push((memory, size));
                }
                // Tables of the record may be new.
                Err(_) => assert_eq!(heap.large_stats().live, before.0),
            }
            heap.validate().unwrap();
            if let Some((memory, size)) = held.pop() {
                let new = [6, 5, 40, 33, 9, 20][round % 6];
                // SAFETY: the test has the object with that layout, and uses what comes back.
                match unsafe { heap.try_realloc(memory, pages(size), new * PAGE) } {
                    Ok(resized) => {
                        check(resized, size.min(new) * PAGE);
                        fill(resized, new * PAGE);
                        held.push((resized, new));
                    }
                    Err(_) => {
                        assert!(new > size, "shrinking failed");
                        check(memory, size * PAGE);
                        held.push((memory, size));
                    }
                }
                heap.validate().unwrap();
            }
            if round % 3 == 2 {
                let (memory, size) = held.pop().unwrap_or((NonNull::dangling(), 0));
                if size > 0 {
                    check(memory, size * PAGE);
                    free(&heap, memory, pages(size));
                }
            }
            assert_eq!(heap.large_stats().live, held.len() as u64);
        }
        for (memory, size) in held {
            check(memory, size * PAGE);
            free(&heap, memory, pages(size));
        }
        all_drained(&heap);
        assert_eq!(heap.large_stats(), LargeStats::default());
        drop(heap);
        assert_eq!(machine.outstanding(), 0, "allowance {allowance}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads megabytes; the other tests run the same unsafe code")]
fn zeroed_runs_of_the_source_are_not_written_to() {
    let source = Counting::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&source.machine, &source);
    heap.cpu_online(&pin()).unwrap();
    for size in [MAX_CLASS_SIZE + 1, 9 * PAGE, 33 * PAGE - 5] {
        let layout = layout(size);
        let memory = heap.try_alloc_zeroed(layout).unwrap();
        // SAFETY: the heap gave that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), size) };
        let written: Vec<_> = bytes.iter().enumerate().filter(|&(_, &byte)| byte != 0).collect();
        assert_eq!(written, [(MARK.0, &MARK.1)]);
        bytes.fill(0x77);
        free(&heap, memory, layout);
        // The CPU has kept that run, which is not zero.
        let again = heap.try_alloc_zeroed(layout).unwrap();
        assert_eq!(again, memory);
        // SAFETY: the heap gave that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), size) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        free(&heap, again, layout);
    }
    drop(heap);
    assert_eq!(source.machine.outstanding(), 0);
}

#[test]
fn zeroed_runs_on_another_node_are_not_written_to() {
    let source = Counting::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&source.machine, &source);
    heap.cpu_online(&pin()).unwrap();
    for node in [0, 1].map(|index| NodeId::new(index).unwrap()) {
        let on = heap.on(node).unwrap();
        let (size, small_size) = (9 * PAGE, 3000);
        let large = on.try_alloc_zeroed(layout(size)).unwrap();
        assert_eq!(source.machine.node_of(large), node);
        // SAFETY: the heap gave that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(large.as_ptr(), size) };
        let written: Vec<_> = bytes.iter().enumerate().filter(|&(_, &byte)| byte != 0).collect();
        assert_eq!(written, [(MARK.0, &MARK.1)], "{node}");
        // An object of a slab has what its last owner wrote.
        for _ in 0..2 {
            let small = on.try_alloc_zeroed(layout(small_size)).unwrap();
            // SAFETY: the heap gave that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(small.as_ptr(), small_size) };
            assert!(bytes.iter().all(|&byte| byte == 0), "{node}");
            bytes.fill(0x77);
            free(&heap, small, layout(small_size));
        }
        free(&heap, large, layout(size));
    }
    drop(heap);
    assert_eq!(source.machine.outstanding(), 0);
}
