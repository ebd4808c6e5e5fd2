//! Wrong uses of memory, each of which a hardened heap must find; and what it must not take for one.
#![cfg(all(feature = "hardening", not(loom)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::recorder::{Hardened, SECRET, free, heap, layout, reports};
use common::{Machine, all_drained, become_cpu, pin};
use topomem_percpu::{CpuId, Finding, Hardening, Heap, InvalidFree, Measure, ReallocError, SizeClass};

const MEGABYTE: usize = 1 << 20;
/// Sizes and alignments of slabs' objects.
const SMALL: [(usize, usize); 8] =
    [(1, 1), (8, 8), (13, 4), (64, 8), (64, 64), (100, 16), (1000, 256), (4096, 4096)];
/// Those that a test tries: Miri takes its time.
fn small() -> &'static [(usize, usize)] {
    if cfg!(miri) { &SMALL[2..5] } else { &SMALL }
}

fn all_shapes() -> impl Iterator<Item = (usize, usize)> {
    small().iter().chain(&LARGE[..if cfg!(miri) { 1 } else { 2 }]).copied()
}

/// The same of large ones.
const LARGE: [(usize, usize); 2] = [(20_001, 8), (40_000, 8192)];

/// Each measure alone, and all together.
fn measures(needed: Measure) -> Vec<Hardening> {
    [Hardening::NONE.with(needed), Hardening::ALL].into_iter().filter(|set| set.has(needed)).collect()
}

/// What the heap reported is one refused free, and it says so to its caller.
fn assert_refused(heap: &Hardened<'_>, memory: NonNull<u8>, layout: Layout) -> InvalidFree {
    // SAFETY: a wrong free is refused before anything changes.
    let invalid = unsafe { heap.free(memory, layout) }.unwrap_err();
    let reports = reports(heap);
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0].finding, Finding::InvalidFree(invalid));
    assert_eq!((reports[0].address, reports[0].cpu), (memory.addr().get(), CpuId::BOOT));
    invalid
}

#[test]
fn a_write_after_a_free_is_found_and_the_memory_never_handed_out() {
    for set in measures(Measure::Poison) {
        for &shape in small() {
            let layout = layout(shape);
            // Other than in blocks with a front, the first word is the free list's.
            let skipped = if layout.align() > 64 { 8 } else { 0 };
            for offset in [skipped, layout.size() / 2, layout.size() - 1] {
                let machine = Machine::new(1, 1, 2 * MEGABYTE);
                let heap = heap(&machine, set);
                // Both of one slab.
                let (kept, memory) = (heap.try_alloc(layout).unwrap(), heap.try_alloc(layout).unwrap());
                free(&heap, memory, layout);
                // SAFETY: what a program must not do; the slab's pages are out, since `kept` is.
                unsafe { memory.add(offset).write(0x55) };
                // Out of the quarantine.
                heap.drain(&pin());
                // Enough to come across all that is free, a hundred times a slab at most.
                let held: Vec<_> = (0..if cfg!(miri) { 50 } else { 600 })
                    .map_while(|_| heap.try_alloc(layout).ok())
                    .collect();
                assert!(!held.contains(&memory), "{set:?} {shape:?} {offset}");
                let reports = reports(&heap);
                assert_eq!(reports.len(), 1, "{reports:?} {set:?} {shape:?} {offset}");
                let Finding::WriteAfterFree { offset: found } = reports[0].finding else { panic!() };
                assert_eq!(reports[0].address + found, memory.addr().get() + offset);
                assert!(reports[0].class.is_some());
                held.into_iter().chain([kept]).for_each(|memory| free(&heap, memory, layout));
                // Whoever wrote may free it again.
                assert!(matches!(assert_refused(&heap, memory, layout), InvalidFree::DoubleFree { .. }));
                heap.validate().unwrap();
            }
        }
    }
}

#[test]
fn a_byte_written_beside_an_object_is_found() {
    for set in measures(Measure::RedZones) {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, set);
        for shape in all_shapes() {
            let layout = layout(shape);
            // Large objects, and those that are strictly aligned, have nothing in front of them.
            let front = shape.0 < 20_000 && shape.1 <= 64;
            let before: &[isize] = if front { &[-1, -8] } else { &[] };
            for &offset in [shape.0 as isize, shape.0 as isize + 6].iter().chain(before) {
                let memory = heap.try_alloc(layout).unwrap();
                // SAFETY: what a program must not do; the byte is in the object's block.
                let byte = unsafe { memory.offset(offset) };
                // SAFETY: as above.
                let saved = unsafe { byte.read() };
                for bit in [0, 3, 7] {
                    // SAFETY: as above.
                    unsafe { byte.write(saved ^ 1 << bit) };
                    let invalid = assert_refused(&heap, memory, layout);
                    let address = memory.addr().get();
                    let InvalidFree::Overwritten { address: at, size, offset: found } = invalid else {
                        panic!("{invalid}")
                    };
                    assert_eq!((at, size), (address, layout.size()));
                    // The seal is checked as a whole.
                    assert!(found == offset || (found..found + 8).contains(&offset), "{found} {offset}");
                    // SAFETY: as above.
                    let changed = unsafe { heap.try_realloc(memory, layout, layout.size() + 1) };
                    assert_eq!(changed, Err(ReallocError::Invalid(invalid)));
                    assert_eq!(reports(&heap).len(), 1);
                }
                // SAFETY: as above.
                unsafe { byte.write(saved) };
                free(&heap, memory, layout);
            }
        }
        assert_eq!(reports(&heap), []);
        heap.validate().unwrap();
    }
}

#[test]
fn a_free_with_another_layout_is_found_even_of_the_same_class() {
    for set in measures(Measure::RedZones) {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, set);
        for shape in all_shapes() {
            let right = layout(shape);
            let memory = heap.try_alloc(right).unwrap();
            let (size, align) = shape;
            for wrong in [
                (size + 1, align),
                (size.saturating_sub(1).max(1), align),
                (size, align * 2),
                (size, align / 2),
                (size * 3, align),
                (50_000, 8),
            ] {
                let Ok(wrong) = Layout::from_size_align(wrong.0, wrong.1) else { continue };
                if wrong == right || wrong.align() == 0 {
                    continue;
                }
                let invalid = assert_refused(&heap, memory, wrong);
                if let InvalidFree::OtherLayout { size, align, .. } = invalid {
                    assert_eq!((size, align), shape);
                }
                if shape == (64, 8) && wrong.align() == 8 && wrong.size() == 63 {
                    let address = memory.addr().get();
                    assert_eq!(invalid, InvalidFree::OtherLayout { address, size: 64, align: 8 });
                }
            }
            free(&heap, memory, right);
        }
        heap.validate().unwrap();
    }
}

#[test]
fn second_frees_and_wild_pointers_are_found() {
    let all = [Hardening::ALL].into_iter().chain(measures(Measure::Poison));
    for set in all.chain(measures(Measure::RedZones)) {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, set);
        for shape in all_shapes() {
            let layout = layout(shape);
            let memory = heap.try_alloc(layout).unwrap();
            let mut word = [0u64; 4];
            let stack = NonNull::from(&mut word).cast::<u8>();
            let null = NonNull::new(std::ptr::without_provenance_mut(8)).unwrap();
            // SAFETY: only the address is used.
            let inside = unsafe { memory.add(8.min(layout.size())) };
            let far = NonNull::new(std::ptr::without_provenance_mut(0x7fff_dead_b000)).unwrap();
            for wild in [stack, null, inside, far] {
                let invalid = assert_refused(&heap, wild, layout);
                assert!(
                    matches!(invalid, InvalidFree::NotInSlab { .. } | InvalidFree::NotLarge { .. }),
                    "{invalid}"
                );
            }
            free(&heap, memory, layout);
            let invalid = assert_refused(&heap, memory, layout);
            // The pages of the last object of a slab may be back.
            assert!(
                matches!(
                    invalid,
                    InvalidFree::DoubleFree { .. }
                        | InvalidFree::LargeDoubleFree { .. }
                        | InvalidFree::NotLarge { .. }
                ),
                "{invalid}"
            );
        }
        heap.validate().unwrap();
    }
}

#[test]
fn objects_lie_apart_and_keep_their_contents() {
    let machine = Machine::new(1, 2, 8 * MEGABYTE);
    let heap = heap(&machine, Hardening::ALL);
    become_cpu(1);
    heap.cpu_online(&pin()).unwrap();
    let mut starts = BTreeSet::new();
    let mut held = Vec::new();
    for round in 0..if cfg!(miri) { 2 } else { 20 } {
        become_cpu(round % 2);
        for shape in all_shapes() {
            let layout = layout(shape);
            let memory = heap.try_alloc_zeroed(layout).unwrap();
            assert_eq!(memory.addr().get() % layout.align(), 0);
            // SAFETY: the heap gave that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), layout.size()) };
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(round as u8);
            assert!(starts.insert(memory));
            held.push((memory, layout, round as u8));
        }
    }
    // Sizes change up and down, in place or not.
    for (index, (memory, layout, tag)) in held.iter_mut().enumerate() {
        become_cpu(index % 2);
        let size = layout.size() * [1, 2, 3][index % 3] / [2, 1][index % 2] + 1;
        // SAFETY: allocated with the layout.
        let moved = unsafe { heap.try_realloc(*memory, *layout, size) }.unwrap();
        let kept = layout.size().min(size);
        // SAFETY: that many bytes were kept.
        let bytes = unsafe { std::slice::from_raw_parts(moved.as_ptr(), kept) };
        assert!(bytes.iter().all(|byte| byte == tag));
        (*memory, *layout) = (moved, Layout::from_size_align(size, layout.align()).unwrap());
    }
    held.into_iter().for_each(|(memory, layout, _)| free(&heap, memory, layout));
    assert_eq!(reports(&heap), []);
    for cpu in 0..2 {
        become_cpu(cpu);
        heap.drain(&pin());
    }
    heap.validate().unwrap();
    assert!(SizeClass::all().all(|class| heap.class_stats(class).slabs == 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn shrinking_without_memory_leaves_an_object_where_it_is() {
    let all = [Hardening::ALL].into_iter().chain(measures(Measure::Poison));
    for set in all.chain(measures(Measure::RedZones)) {
        let machine = Machine::new(1, 1, MEGABYTE);
        let heap = heap(&machine, set);
        for size in [20_001, 100] {
            let layouts = [size, 57, 8].map(|size| layout((size, 8)));
            let mut memory = heap.try_alloc(layouts[0]).unwrap();
            for at in 0..size {
                // SAFETY: inside the object.
                unsafe { memory.add(at).write(at as u8) };
            }
            // Neither pages nor objects are left.
            machine.allowance.store(0, Ordering::SeqCst);
            let mut filler = Vec::new();
            for class in SizeClass::all() {
                let layout = layout((class.size(), 1));
                filler.extend(std::iter::from_fn(|| Some((heap.try_alloc(layout).ok()?, layout))));
            }
            for pair in layouts.windows(2) {
                // SAFETY: allocated with that layout, or left with it.
                memory = unsafe { heap.try_realloc(memory, pair[0], pair[1].size()) }.unwrap();
                for at in 0..pair[1].size() {
                    // SAFETY: inside the object.
                    assert_eq!(unsafe { memory.add(at).read() }, at as u8);
                }
                if set.has(Measure::RedZones) {
                    // The seal names the new layout.
                    assert_refused(&heap, memory, pair[0]);
                }
            }
            free(&heap, memory, layouts[2]);
            assert_refused(&heap, memory, layouts[2]);
            filler.into_iter().for_each(|(memory, layout)| free(&heap, memory, layout));
            machine.allowance.store(-1, Ordering::SeqCst);
            heap.drain(&pin());
            heap.validate().unwrap();
            assert_eq!(reports(&heap), []);
            assert!(SizeClass::all().all(|class| heap.class_stats(class).slabs == 0));
        }
    }
}

#[test]
fn a_heap_without_measures_is_a_plain_one() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let plain = Heap::with_hardening(&machine, &machine, Hardening::NONE);
    plain.cpu_online(&pin()).unwrap();
    let memory = plain.try_alloc(layout((64, 8))).unwrap();
    assert_eq!(plain.class_stats(SizeClass::of(layout((64, 8))).unwrap()).live, 1);
    // SAFETY: allocated with that layout.
    unsafe { plain.free(memory, layout((64, 8))) }.unwrap();
    all_drained(&plain);
}

#[test]
fn freed_memory_holds_zeros() {
    for set in measures(Measure::ZeroOnFree) {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, set);
        for shape in all_shapes() {
            let layout = layout(shape);
            let (kept, memory) = (heap.try_alloc(layout).unwrap(), heap.try_alloc(layout).unwrap());
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(SECRET, layout.size()) };
            free(&heap, memory, layout);
            if layout.size() <= 4096 {
                // SAFETY: the slab's pages are out, since `kept` is.
                let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), layout.size()) };
                assert!(bytes.iter().skip(8).all(|&byte| byte == 0));
            }
            free(&heap, kept, layout);
        }
        heap.drain(&pin());
        assert_eq!(heap.source().secrets.load(Ordering::SeqCst), 0);
        assert_eq!(reports(&heap), []);
    }
    let machine = Machine::new(1, 1, MEGABYTE);
    let plain = heap(&machine, Hardening::NONE);
    let memory = plain.try_alloc(layout((30_000, 8))).unwrap();
    // SAFETY: the heap gave that many bytes.
    unsafe { memory.write_bytes(SECRET, 30_000) };
    free(&plain, memory, layout((30_000, 8)));
    plain.drain(&pin());
    assert!(plain.source().secrets.load(Ordering::SeqCst) > 3000, "the test sees what is left");
}
