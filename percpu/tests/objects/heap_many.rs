//! Many allocations and frees in one call: as many single ones, with nothing lost if some fail.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin, totals};
use topomem_percpu::{AllocError, Heap, InvalidFree, Partial, SizeClass};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn take(heap: &TestHeap<'_>, layout: Layout, count: usize) -> Vec<NonNull<u8>> {
    let mut objects = vec![NonNull::dangling(); count];
    heap.alloc_many(layout, &mut objects).unwrap();
    objects
}

fn give(heap: &TestHeap<'_>, layout: Layout, objects: &[NonNull<u8>]) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free_many(layout, objects) }.unwrap();
}

#[test]
fn many_are_as_many_single_ones() {
    let machine = Machine::new(2, 1, if cfg!(miri) { 1 } else { 8 } << 20);
    let heap = Heap::new(&machine, &machine);
    let counts: &[usize] = if cfg!(miri) { &[3] } else { &[0, 1, 63, 64, 65, 300] };
    for online in [false, true] {
        if online {
            all_online(&heap);
        }
        let layouts = [layout(64, 8), layout(48, 64), layout(3000, 8), layout(20_000, 8)];
        for layout in &layouts[..if cfg!(miri) { 1 } else { 4 }] {
            let layout = *layout;
            for &count in counts {
                let count = if layout.size() > 1024 { count.min(40) } else { count };
                let objects = take(&heap, layout, count);
                for &object in &objects {
                    assert_eq!(object.addr().get() % layout.align(), 0);
                    // SAFETY: the heap gave that many bytes.
                    unsafe { object.write_bytes(0x3c, layout.size()) };
                }
                assert_eq!(objects.iter().collect::<BTreeSet<_>>().len(), count);
                let live = SizeClass::of(layout)
                    .map_or(heap.large_stats().live, |class| heap.class_stats(class).live);
                assert_eq!(live, count as u64);
                // Half of them on the other node.
                let (here, there) = objects.split_at(count / 2);
                give(&heap, layout, here);
                become_cpu(1);
                give(&heap, layout, there);
                become_cpu(0);
                heap.validate().unwrap();
            }
        }
    }
    let nothing = layout(0, 16);
    give(&heap, nothing, &take(&heap, nothing, 5));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    assert_eq!(heap.large_stats().live, 0);
}

#[test]
#[cfg_attr(miri, ignore = "fills all memory, which takes long")]
fn what_was_served_before_memory_ran_out_stays() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let small = layout(64, 8);
    let mut objects = take(&heap, small, 1);
    machine.allowance.store(0, Ordering::SeqCst);
    let mut more = vec![NonNull::dangling(); 1000];
    let failed = heap.alloc_many(small, &mut more).unwrap_err();
    assert_eq!(failed.error, AllocError::OutOfMemory);
    assert!((10..1000).contains(&failed.served), "{failed}");
    assert_eq!(more[failed.served], NonNull::dangling());
    more.truncate(failed.served);
    objects.append(&mut more);
    assert_eq!(heap.class_stats(SizeClass::of(small).unwrap()).live, objects.len() as u64);
    give(&heap, small, &objects);
    let failed = heap.alloc_many(layout(1 << 40, 8), &mut more).map_err(|failed| failed.served);
    assert_eq!(failed, Ok(()), "none was asked for");
    all_drained(&heap);
    heap.validate().unwrap();
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn those_behind_a_refused_one_are_as_they_were() {
    let machine = Machine::new(1, 1, 1 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let small = layout(64, 8);
    let other = take(&heap, layout(200, 8), 1);
    let mut objects = take(&heap, small, 20);
    objects.insert(12, other[0]);
    // SAFETY: the wrong one is refused before it is touched.
    let refused = unsafe { heap.free_many(small, &objects) };
    let (address, class) = (other[0].addr().get(), SizeClass::of(small).unwrap());
    let error = InvalidFree::NotInSlab { address, class };
    assert_eq!(refused, Err(Partial { served: 12, error }));
    assert_eq!(heap.class_stats(class).live, 8);
    give(&heap, small, &objects[13..]);
    give(&heap, layout(200, 8), &other);
    if cfg!(any(debug_assertions, feature = "hardened")) {
        // SAFETY: a second free is refused before it touches anything.
        let twice = unsafe { heap.free_many(small, &objects[..1]) };
        let address = objects[0].addr().get();
        assert_eq!(twice, Err(Partial { served: 0, error: InvalidFree::DoubleFree { address, class } }));
    }
    let _ = heap.drain(&pin());
    heap.validate().unwrap();
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}
