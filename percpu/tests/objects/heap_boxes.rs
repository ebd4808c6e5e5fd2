//! Boxes and slices in a heap: contents, drops, unwinding, and every failure of the page source.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::{Machine, TestHeap, all_drained, all_online, totals};
use topomem_percpu::{AllocError, Heap, HeapBox, NodeId};

const MEGABYTE: usize = 1 << 20;

/// Counts its drops.
#[derive(Debug)]
struct Counted<'a> {
    drops: &'a Cell<usize>,
    number: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
        assert_ne!(self.number, 1000, "this one unwinds");
    }
}

fn live(heap: &TestHeap<'_>) -> u64 {
    totals(heap).0 + heap.large_stats().live
}

fn check_empty(machine: &Machine, heap: TestHeap<'_>) {
    heap.validate().unwrap();
    assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
    all_drained(&heap);
    assert_eq!((totals(&heap), heap.large_stats().live), ((0, 0, 0, 0), 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn a_box_drops_its_value_once_and_frees_its_memory() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let drops = Cell::new(0);
    let mut boxed = heap.try_box(Counted { drops: &drops, number: 1 }).unwrap();
    boxed.number += 1;
    assert_eq!((boxed.number, live(&heap), drops.get()), (2, 1, 0));
    drop(boxed);
    assert_eq!((live(&heap), drops.get()), (0, 1));
    let inner = heap.try_box(Counted { drops: &drops, number: 3 }).unwrap().into_inner();
    assert_eq!((inner.number, live(&heap), drops.get()), (3, 0, 1), "the value lives on");
    drop(inner);
    let (value, owner) = heap.try_box(Counted { drops: &drops, number: 4 }).unwrap().into_raw();
    assert_eq!((live(&heap), drops.get()), (1, 2));
    // SAFETY: the value and its owner come from a box.
    let shown: HeapBox<dyn std::fmt::Debug, _> =
        unsafe { HeapBox::from_raw(value as NonNull<dyn std::fmt::Debug>, owner) };
    assert!(format!("{shown:?}").contains("number: 4"));
    drop(shown);
    assert_eq!((live(&heap), drops.get()), (0, 3));
    // Of no bytes.
    assert_eq!(heap.try_box(()).map(HeapBox::into_inner), Ok(()));
    let node = heap.on(NodeId::new(1).unwrap()).unwrap();
    let remote = node.try_box([5_u64; 20]).unwrap();
    let (address, _) = remote.into_raw();
    assert_eq!(machine.node_of(address.cast()), node.node());
    // SAFETY: the value and its owner come from a box.
    drop(unsafe { HeapBox::from_raw(address, &heap) });
    check_empty(&machine, heap);
}

#[test]
fn zeroed_memory_is_zero_after_use() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    for _ in 0..2 {
        // SAFETY: zeroes are numbers.
        let mut array = unsafe { heap.try_box_zeroed::<[u64; 100]>().unwrap().assume_init() };
        assert_eq!(*array, [0; 100]);
        array.fill(u64::MAX);
        // SAFETY: as above.
        let mut slice = unsafe { heap.try_slice_zeroed::<u16>(700).unwrap().assume_init() };
        assert!(slice.iter().all(|&number| number == 0));
        slice.fill(u16::MAX);
    }
    let written = heap.try_box_zeroed::<u32>().unwrap().write(9);
    assert_eq!(*written, 9);
    drop(written);
    check_empty(&machine, heap);
}

#[test]
fn a_slice_is_filled_in_order_and_dropped_once() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let drops = Cell::new(0);
    let node = heap.on(NodeId::new(1).unwrap()).unwrap();
    for len in if cfg!(miri) { [0, 1, 9] } else { [0, 7, 3000] } {
        drops.set(0);
        let make = |number| Counted { drops: &drops, number: number % 1000 };
        let (here, there) = (heap.try_slice(len, make).unwrap(), node.try_slice(len, make).unwrap());
        assert!(here.iter().chain(&*there).zip((0..len).chain(0..len)).all(|(c, at)| c.number == at % 1000));
        assert_eq!((here.len(), there.len(), drops.get()), (len, len, 0));
        drop((here, there));
        assert_eq!(drops.get(), 2 * len);
    }
    check_empty(&machine, heap);
}

#[test]
fn what_unwinds_loses_nothing() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let drops = Cell::new(0);
    let filling = catch_unwind(AssertUnwindSafe(|| {
        heap.try_slice(10, |number| {
            assert_ne!(number, 6, "in the middle");
            Counted { drops: &drops, number }
        })
    }));
    assert!(filling.map(drop).is_err());
    assert_eq!((drops.get(), live(&heap)), (6, 0));
    let boxed = heap.try_box(Counted { drops: &drops, number: 1000 }).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(boxed))).is_err());
    assert_eq!((drops.get(), live(&heap)), (7, 0), "the memory goes back all the same");
    check_empty(&machine, heap);
}

#[test]
fn impossible_slices_are_refused() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    let error = heap.try_slice(usize::MAX, |_| -> u64 { unreachable!("there is no room") }).unwrap_err();
    assert_eq!(error, AllocError::TooLarge { size: usize::MAX, align: 8 });
    let error = heap.try_slice_zeroed::<u64>(1 << 40).unwrap_err();
    assert_eq!(error, AllocError::TooLarge { size: 8 << 40, align: 8 });
    assert_eq!(machine.outstanding(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
fn each_failure_of_the_page_source_returns_the_value() {
    let (mut refused, mut complete) = (0, false);
    for failure in 0..30 {
        for single in [true, false] {
            let machine = Machine::new(2, 1, MEGABYTE);
            let heap = Heap::new(&machine, &machine);
            let failing = if single { &machine.failing } else { &machine.allowance };
            failing.store(failure, Ordering::SeqCst);
            let drops = Cell::new(0);
            let mut held = 0;
            let small = heap.try_box(Counted { drops: &drops, number: 42 });
            let node = heap.on(NodeId::new(1).unwrap()).unwrap();
            let remote = node.try_box(Counted { drops: &drops, number: 43 });
            for (number, outcome) in [(42, &small), (43, &remote)] {
                match outcome {
                    Ok(boxed) => assert_eq!(boxed.number, number),
                    Err(no_room) => {
                        assert_eq!((no_room.value.number, no_room.error), (number, AllocError::OutOfMemory));
                    }
                }
                held += u64::from(outcome.is_ok());
            }
            let mut calls = 0;
            let slice = heap.try_slice(9000, |_| calls += 1);
            assert_eq!(slice.map(|slice| slice.len()), Ok(9000), "values without bytes need no memory");
            let large = heap.try_slice(5000, |index| index);
            held += u64::from(large.is_ok());
            let zeroed = heap.try_box_zeroed::<[u8; 3000]>();
            held += u64::from(zeroed.is_ok());
            assert_eq!((drops.get(), live(&heap)), (0, held));
            refused += 4 - held;
            complete |= held == 4 && !single;
            drop((small, remote, large, zeroed));
            assert_eq!((drops.get(), live(&heap)), (2, 0));
            check_empty(&machine, heap);
        }
    }
    assert!(refused > 10 && complete, "{refused}");
}
