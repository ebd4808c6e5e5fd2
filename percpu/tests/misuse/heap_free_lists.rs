//! Encoded links between free objects, and objects that are handed out in no order that can be foreseen.
#![cfg(all(feature = "encoded-free-lists", not(loom)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Mutex;

use common::recorder::{Hardened, free, heap, layout, reports};
use common::{Machine, become_cpu, pin};
use topomem_percpu::{Finding, Hardening, SizeClass};

const MEGABYTE: usize = 1 << 20;
const SHAPE: (usize, usize) = (512, 8);

/// All heaps share the note of what was found last.
static ALONE: Mutex<()> = Mutex::new(());

/// Where a free object waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    LoadedMagazine,
    Depot,
    Slab,
    RemoteStack,
}

/// Changes the link in a free object. One byte is enough.
fn write_after_free(object: NonNull<u8>) {
    // SAFETY: what a program must not do; the object's pages are out.
    unsafe { object.write(object.read() ^ 0x40) };
}

/// Allocates until the pages run out, and checks that each object is a memory of its own.
fn allocate_all(machine: &Machine, heap: &Hardened<'_>, most: usize) -> Vec<NonNull<u8>> {
    let objects: Vec<_> = (0..most).map_while(|_| heap.try_alloc(layout(SHAPE)).ok()).collect();
    let different: BTreeSet<_> = objects.iter().copied().collect();
    assert_eq!(different.len(), objects.len());
    for &object in &objects {
        // Panics if the address is none of the machine's.
        machine.node_of(object);
        // SAFETY: the heap has just given it.
        unsafe { object.write_bytes(0x33, SHAPE.0) };
    }
    objects
}

#[test]
fn a_link_that_was_written_over_is_reported_and_not_followed() {
    let _alone = ALONE.lock().unwrap();
    let rounds = SizeClass::of(layout(SHAPE)).unwrap().rounds();
    for waiting in [Waiting::LoadedMagazine, Waiting::Depot, Waiting::Slab, Waiting::RemoteStack] {
        let machine = Machine::new(2, 1, MEGABYTE);
        let heap = heap(&machine, Hardening::NONE);
        become_cpu(1);
        heap.cpu_online(&pin()).unwrap();
        become_cpu(0);
        // Of each slab some are kept, so that its pages stay.
        let (mut objects, mut kept) = (Vec::new(), Vec::new());
        for (number, object) in allocate_all(&machine, &heap, 8 * rounds).into_iter().enumerate() {
            if number % 4 == 0 { kept.push(object) } else { objects.push(object) }
        }
        if waiting == Waiting::RemoteStack {
            become_cpu(1);
        }
        objects.iter().for_each(|&object| free(&heap, object, layout(SHAPE)));
        become_cpu(0);
        let written = match waiting {
            Waiting::LoadedMagazine => objects[objects.len() - 3],
            Waiting::Depot => objects[rounds / 2],
            Waiting::RemoteStack => objects[3],
            Waiting::Slab => {
                heap.drain(&pin());
                objects[objects.len() - 2]
            }
        };
        write_after_free(written);
        assert_eq!(reports(&heap), [], "{waiting:?}");
        let all = allocate_all(&machine, &heap, 64 * rounds);
        assert!(all.len() >= rounds, "{waiting:?}");
        let found = reports(&heap);
        assert_eq!(found.len(), 1, "{waiting:?}: {found:?}");
        assert_eq!((found[0].finding, found[0].address), (Finding::BrokenLink, written.addr().get()));
        assert_eq!(found[0].class, SizeClass::of(layout(SHAPE)));
        assert!(!all.iter().any(|object| kept.contains(object)));
        // What was lost stays out; everything else is in order.
        all.into_iter().chain(kept).for_each(|object| free(&heap, object, layout(SHAPE)));
        heap.validate().unwrap();
        heap.drain(&pin());
        heap.validate().unwrap();
    }
}

#[test]
fn each_report_goes_to_the_heap_whose_object_it_is() {
    let _alone = ALONE.lock().unwrap();
    let machines = [Machine::new(1, 1, MEGABYTE), Machine::new(1, 1, MEGABYTE)];
    let [first, second] = [&machines[0], &machines[1]].map(|machine| heap(machine, Hardening::NONE));
    let objects = allocate_all(&machines[0], &first, 8);
    objects.iter().for_each(|&object| free(&first, object, layout(SHAPE)));
    write_after_free(objects[7]);
    // The object that is written to comes first, and its link is looked at.
    assert_eq!(first.try_alloc(layout(SHAPE)), Ok(objects[7]));
    allocate_all(&machines[1], &second, 200);
    assert_eq!(reports(&second), []);
    second.drain(&pin());
    assert_eq!(reports(&second), []);
    first.drain(&pin());
    assert_eq!(reports(&first).len(), 1);
    first.drain(&pin());
    assert_eq!(reports(&first), []);
}

#[test]
fn objects_of_a_fresh_slab_are_not_consecutive() {
    let _alone = ALONE.lock().unwrap();
    // Slabs of many objects: few have few orders.
    for shape in [(16, 8), (64, 8), (128, 8)] {
        let mut orders = BTreeSet::new();
        let (mut consecutive, mut objects_of_all) = (0, 0);
        // Orders are drawn at random: a single one may happen to be nearly that of the addresses.
        for _ in 0..16 {
            let machine = Machine::new(1, 1, MEGABYTE);
            let heap = heap(&machine, Hardening::NONE);
            let count = SizeClass::of(layout(shape)).unwrap().rounds().min(32);
            let objects: Vec<_> = (0..count).map(|_| heap.try_alloc(layout(shape)).unwrap()).collect();
            let offset = |object: &NonNull<u8>| object.addr().get().wrapping_sub(objects[0].addr().get());
            orders.insert(objects.iter().map(|object| offset(object) as isize).collect::<Vec<_>>());
            let is_next =
                |pair: &&[NonNull<u8>]| pair[1].addr().get().abs_diff(pair[0].addr().get()) == shape.0;
            consecutive += objects.windows(2).filter(is_next).count();
            objects_of_all += count;
        }
        assert!(consecutive * 4 < objects_of_all, "{consecutive} of {objects_of_all} objects of {shape:?}");
        assert!(orders.len() > 1, "always the same order");
    }
}

#[test]
fn what_is_free_shows_no_address() {
    let _alone = ALONE.lock().unwrap();
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = heap(&machine, Hardening::NONE);
    let objects = allocate_all(&machine, &heap, 40);
    objects.iter().for_each(|&object| free(&heap, object, layout(SHAPE)));
    for &object in &objects {
        // SAFETY: the heap is quiet, and the pages are out.
        let word = unsafe { object.cast::<usize>().read() };
        let nearest = objects.iter().map(|other| other.addr().get().abs_diff(word)).min();
        assert!(nearest > Some(1 << 40), "{word:#x}");
    }
}
