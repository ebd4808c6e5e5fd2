//! A heap over the frame allocator, with nothing between them. (Under Miri the arena is not aligned enough.)
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use frames_support::{Host, MIB, Machine, online, pin};
use topomem_numa::frames::{DoubleFrees, Frames, FramesConfig};
use topomem_numa::{CpuId, NodeId};
use topomem_percpu::{Heap, PageSource};

type FrameHeap = Heap<&'static Host, &'static Frames<Host>>;

/// Node 0 has memory and CPU 0, node 1 has only CPU 1.
fn frames(config: &FramesConfig) -> &'static Frames<Host> {
    let frames = Machine::new(&[(16 * MIB, 48 * MIB, 0)], &[0, 1]).frames(config);
    online(frames, 2);
    frames
}

fn heap(frames: &'static Frames<Host>) -> FrameHeap {
    let heap = Heap::new(frames.platform(), frames);
    heap.cpu_online(&pin(0)).unwrap();
    heap
}

fn all_free(frames: &Frames<Host>) -> u64 {
    frames.drain(&pin(0));
    frames.stats(NodeId::ZERO).unwrap().all_free()
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

/// Objects of all kinds: of slabs, of runs of an order, and of runs of other lengths.
const SIZES: [usize; 7] = [16, 1000, 16 << 10, 20 << 10, 64 << 10, 300 << 10, 1 << 20];

fn frames_come_back(config: &FramesConfig) {
    let frames = frames(config);
    let at_first = all_free(frames);
    let heap = heap(frames);
    let mut objects: Vec<(NonNull<u8>, usize)> = Vec::new();
    for size in SIZES {
        let object = heap.try_alloc(layout(size)).unwrap();
        // SAFETY: it is ours, and has so many bytes.
        unsafe { object.write_bytes(size as u8, size) };
        // Longer and shorter, in place or elsewhere.
        // SAFETY: allocated with this layout.
        let longer = unsafe { heap.try_realloc(object, layout(size), size + size / 2) }.unwrap();
        // SAFETY: as above.
        let kept = unsafe { heap.try_realloc(longer, layout(size + size / 2), size) }.unwrap();
        objects.push((kept, size));
    }
    let zeroed = heap.try_alloc_zeroed(layout(20 << 10)).unwrap();
    // SAFETY: it is ours, and has so many bytes.
    let bytes = unsafe { core::slice::from_raw_parts(zeroed.as_ptr(), 20 << 10) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    objects.push((zeroed, 20 << 10));
    for (object, size) in objects {
        let first = if object == zeroed { 0 } else { size as u8 };
        // SAFETY: as above.
        assert!(unsafe { core::slice::from_raw_parts(object.as_ptr(), size) }.iter().all(|&b| b == first));
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { heap.free(object, layout(size)) }.unwrap();
    }
    assert!(all_free(frames) < at_first);
    drop(heap);
    assert_eq!(all_free(frames), at_first);
    frames.validate().unwrap();
}

#[test]
fn a_heap_gives_back_every_frame() {
    frames_come_back(&FramesConfig::without_reserve());
}

#[test]
fn a_heap_gives_back_every_frame_to_an_allocator_that_checks_each_free() {
    frames_come_back(&FramesConfig {
        double_frees: DoubleFrees::FoundAtOnce,
        ..FramesConfig::without_reserve()
    });
}

#[test]
fn a_cpu_of_a_node_without_memory_has_the_nearest_that_has_some() {
    let frames = frames(&FramesConfig::without_reserve());
    let source: &dyn PageSource = frames;
    let cpu = CpuId::new(1).unwrap();
    assert_eq!(source.node_of_cpu(cpu), NodeId::ZERO);
    assert_eq!(source.node_with_memory(NodeId::new(1).unwrap()), Some(NodeId::ZERO));
    let run = source.allocate(&pin(1), NodeId::new(1).unwrap(), topomem_percpu::Order::FRAME).unwrap();
    // SAFETY: allocated with this order, and not used.
    unsafe { source.free(&pin(1), run, topomem_percpu::Order::FRAME) };
}

#[test]
#[should_panic(expected = "free")]
fn a_wrong_free_panics() {
    let heap = heap(frames(&FramesConfig::without_reserve()));
    let layout = layout(300 << 10);
    // SAFETY: allocated with this layout; the second free is the wrong one, which is refused.
    unsafe {
        let object = GlobalAlloc::alloc(&heap, layout);
        GlobalAlloc::dealloc(&heap, object, layout);
        GlobalAlloc::dealloc(&heap, object, layout);
    }
}
