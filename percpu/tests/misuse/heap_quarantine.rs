//! Freed memory of a hardened heap waits before it is used again.
#![cfg(all(feature = "hardening", not(loom)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use common::recorder::{free, heap, layout, reports};
use common::{Machine, pin};
use topomem_percpu::{Hardening, Measure, QUARANTINE_BYTES, SizeClass};

const MEGABYTE: usize = 1 << 20;

#[test]
fn freed_memory_waits_in_quarantine() {
    let quarantine = Hardening::NONE.with(Measure::Quarantine);
    let sets = [quarantine, Hardening::ALL].into_iter().filter(|set| set.has(Measure::Quarantine));
    for set in sets.chain([Hardening::NONE]) {
        let machine = Machine::new(1, 1, 2 * MEGABYTE);
        let heap = heap(&machine, set);
        let layout = layout((1000, 8));
        let first = heap.try_alloc(layout).unwrap();
        let class = SizeClass::all().find(|&class| heap.class_stats(class).slabs > 0).unwrap();
        free(&heap, first, layout);
        let mut freed = 0;
        while freed < QUARANTINE_BYTES {
            let next = heap.try_alloc(layout).unwrap();
            if set.has(Measure::Quarantine) {
                assert_ne!(next, first, "after {freed} bytes of other frees");
            } else {
                assert_eq!(next, first);
            }
            free(&heap, next, layout);
            freed += class.size();
        }
        assert_eq!(heap.class_stats(class).live, 0);
        // It does come back.
        assert!((0..200).any(|_| {
            let next = heap.try_alloc(layout).unwrap();
            free(&heap, next, layout);
            next == first
        }));
        // And if memory is short, all of it.
        heap.drain(&pin());
        heap.validate().unwrap();
        assert!(SizeClass::all().all(|class| heap.class_stats(class).slabs == 0));
        assert_eq!(reports(&heap), []);
    }
    // A large block waits for as many bytes of small ones.
    for size in [1000, 4000, 12_000] {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, quarantine);
        let (large, small) = (layout((size, 8)), layout((100, 8)));
        let others: Vec<_> = (0..QUARANTINE_BYTES / 100).map(|_| heap.try_alloc(small).unwrap()).collect();
        let class = SizeClass::all().find(|&class| heap.class_stats(class).slabs > 0).unwrap();
        let first = heap.try_alloc(large).unwrap();
        free(&heap, first, large);
        let (mut freed, mut held) = (0, Vec::new());
        for other in others {
            free(&heap, other, small);
            freed += class.size();
            if freed + 8192 > QUARANTINE_BYTES {
                held.push(heap.try_alloc(large).unwrap());
            }
            if quarantine.has(Measure::Quarantine) && freed < QUARANTINE_BYTES {
                assert!(!held.contains(&first), "{size}: after {freed} bytes of other frees");
            }
        }
        assert!(freed > QUARANTINE_BYTES && held.contains(&first), "{size}: it comes back");
    }
    // A broken queue is noticed, and what it held stays out.
    if quarantine.has(Measure::Quarantine) {
        let machine = Machine::new(1, 1, 2 * MEGABYTE);
        let heap = heap(&machine, quarantine);
        let layout = layout((1024, 128));
        let objects: Vec<_> = (0..80).map(|_| heap.try_alloc(layout).unwrap()).collect();
        free(&heap, objects[0], layout);
        free(&heap, objects[1], layout);
        // SAFETY: what a program must not do; the slab's pages are out.
        unsafe { objects[0].cast::<usize>().write(0x1234_5678) };
        for &object in &objects[2..] {
            free(&heap, object, layout);
        }
        let reports = reports(&heap);
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].address, objects[0].addr().get());
    }
}
