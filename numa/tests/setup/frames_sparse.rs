//! Memory in many places, and in far ones: the whole way from the memory map to the frame allocator.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]
#![cfg(not(miri))]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use frames_support::{MIB, frame, number, pin};
use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, FreeError, InvalidRequest, PerFrameTable, Policy,
};
use topomem_numa::{BootAllocator, CpuId, MemoryMap, MemoryRange, NodeId, Topology};
use topomem_percpu::{Order, PhysAddr, Platform};

/// One past the last frame that may be memory.
const END: u64 = (1 << 40) - 1;

/// RAM in windows of physical addresses.
struct Windows(Vec<(u64, u64, NonNull<u8>)>);

// SAFETY: the windows are plain memory, and live for ever.
unsafe impl Send for Windows {}
// SAFETY: as above.
unsafe impl Sync for Windows {}

// SAFETY: windows are never unmapped, and addresses map to distinct bytes; tests use `pin()` on one
// thread.
unsafe impl Platform for Windows {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        let addr = addr.as_u64();
        let window = &self.0[self.0.partition_point(|window| window.1 <= addr)];
        assert!((window.0..window.1).contains(&addr));
        // SAFETY: inside the window.
        unsafe { window.2.add((addr - window.0) as usize) }
    }
}

/// The allocator of a machine of one node with RAM in `ranges`, in bytes.
fn frames(ranges: &[(u64, u64)], config: &FramesConfig) -> &'static Frames<Windows> {
    let backed = |&(start, end): &(u64, u64)| {
        let layout = Layout::from_size_align((end - start) as usize, 4096).unwrap();
        // SAFETY: no range is empty.
        (start, end, NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap())
    };
    let mut map = Box::new(MemoryMap::new());
    // 48 bytes for a range, and some for bookkeeping.
    map.extend(vec![std::mem::MaybeUninit::uninit(); 6 * (ranges.len() + 64)].leak());
    for &(start, end) in ranges {
        map.add_usable(MemoryRange::from_bounds(start, end).unwrap()).unwrap();
    }
    let topology = Topology::new();
    let mut boot_memory = BootAllocator::new(&mut map, &topology);
    let mut windows: Vec<_> = ranges.iter().map(backed).collect();
    windows.sort_unstable_by_key(|window| window.0);
    let frames: &'static _ = Box::leak(Box::new(Frames::new(Windows(windows))));
    frames.init(&mut boot_memory, config).unwrap();
    frames
}

fn with_table() -> FramesConfig {
    FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() }
}

/// Every frame can be had, has an entry of its own, and its number leads back to it.
fn check_all(frames: &Frames<Windows>, managed: u64) {
    let before = frames.validate().unwrap();
    assert_eq!(before.free, managed);
    let taken: Vec<_> = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok()).collect();
    assert_eq!(taken.len() as u64, managed);
    let mut numbers: Vec<u64> = taken
        .iter()
        .map(|&of| {
            // SAFETY: it was handed out, and there is a table.
            let (info, number) = unsafe { (frames.info_unchecked(of), frames.info_number_unchecked(of)) };
            assert!(std::ptr::eq(info, frames.info(of).unwrap()));
            assert_eq!(info.references.swap(1, Ordering::Relaxed), 0, "an entry of two frames");
            assert!((1..=frames.last_info_number()).contains(&number));
            assert_eq!(frames.frame_of_info(number), of);
            number
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), taken.len());
    for of in taken {
        // SAFETY: nobody uses it.
        unsafe { frames.free(&pin(0), of, Order::FRAME) }.unwrap();
    }
    assert_eq!(frames.validate().unwrap(), before);
}

#[test]
fn memory_anywhere_below_the_last_address_works() {
    let top = END * 4096;
    let ranges = [
        (MIB, 8 * MIB),
        (4 << 30, (4 << 30) + 8 * MIB),
        (1 << 43, (1 << 43) + 4 * MIB),
        ((1 << 51) + 0x3000, (1 << 51) + 2 * MIB),
        (top - 6 * MIB, top),
    ];
    let frames = frames(&ranges, &with_table());
    let metadata = frames.metadata();
    let managed = frames.stats(NodeId::ZERO).unwrap().managed();
    let ram: u64 = ranges.iter().map(|range| (range.1 - range.0) / 4096).sum();
    assert!(managed >= ram - 64, "{metadata:?}");
    // Holes have no entries.
    assert!(frames.last_info_number() <= ram + ranges.len() as u64);
    assert!(frames.info(frame(1 << 35)).is_none());
    check_all(frames, managed);
}

/// A map of thousands of entries, and all the bookkeeping in it: each is one MiB or less of RAM.
#[test]
fn thousands_of_pieces_work() {
    // Holes of 4 KiB: one region.
    let (start, step) = (MIB, 0x1_0000);
    let dense = (0..4095).map(|index| (start + index * step, start + index * step + 0xf000));
    // One for bookkeeping in one piece.
    let dense: Vec<_> = dense.chain([(512 * MIB, 528 * MIB)]).collect();
    let dense_frames = frames(&dense, &with_table());
    check_all(dense_frames, dense_frames.stats(NodeId::ZERO).unwrap().managed());
}

/// As many pieces as a map has room for, over all of the physical address space: there is no
/// bookkeeping of the holes of 1 TiB between.
#[test]
fn thousands_of_pieces_far_apart_work() {
    let pieces = (0..4095).map(|index| (MIB + (index << 40), MIB + (index << 40) + 0x1_0000));
    let ranges: Vec<_> = pieces.chain([(32 * MIB, 64 * MIB)]).collect();
    let frames = frames(&ranges, &with_table());
    let metadata = frames.metadata();
    assert!(metadata.regions < 4096 * 1024, "{metadata:?}");
    assert!(metadata.fixed < 8 * MIB, "{metadata:?}");
    assert!(frames.last_info_number() <= (4096 << 4) + 8 * 1024 + 4096);
    let taken: Vec<_> = (0..500).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
    assert!(taken.iter().all(|&of| frames.node_of(of) == Some(NodeId::ZERO)));
    // Highest addresses first.
    assert!(taken.iter().all(|&of| number(of) >= 4000 << 28), "{taken:?}");
    for of in taken {
        // SAFETY: it was handed out, and there is a table; nobody uses it.
        unsafe {
            assert_eq!(frames.frame_of_info(frames.info_number_unchecked(of)), of);
            frames.free(&pin(0), of, Order::FRAME).unwrap();
        }
    }
    frames.validate().unwrap();
}

/// Whatever is asked, up to the end of physical memory: an answer, and nothing has changed.
#[test]
fn nothing_wraps_at_the_end_of_physical_memory() {
    let top = END * 4096;
    let frames = frames(&[(MIB, 8 * MIB), (top - 8 * MIB + 4096, top)], &with_table());
    let last = frame(END - 1);
    assert_eq!(frames.node_of(last), Some(NodeId::ZERO));
    assert_eq!(frames.node_of(frame(END)), None);
    let before = frames.validate().unwrap();
    let orders = [Order::FRAME, Order::new(3).unwrap(), Order::new(8).unwrap(), Order::HUGE, Order::GIANT];
    for of in [END, END - 1, END - 2, END - 511, END - 512, END - 2048, 1 << 39, 1 << 31, 256, 0] {
        let of = frame(of);
        for order in orders {
            // SAFETY: the run was never allocated, and nobody uses it.
            assert!(unsafe { frames.free(&pin(0), of, order) }.is_err(), "{of:?} {order:?}");
        }
        for count in [0, 1, 2, 511, 512, 513, 1 << 18, 1 << 40, 1 << 63, u64::MAX - number(of), u64::MAX] {
            // SAFETY: as above.
            assert!(unsafe { frames.free_run(&pin(0), of, count) }.is_err(), "{of:?} {count}");
        }
        // SAFETY: as above.
        assert!(unsafe { frames.free_bulk(&pin(0), &[of]) }.is_err());
        let _ = (frames.zone_of(of), frames.info(of), frames.is_retired(of));
    }
    let one = FrameRequest::frame();
    for count in [0, (1 << 18) + 1, 1 << 40, 1 << 63, u64::MAX] {
        let refused = frames.alloc_run(&pin(0), &one, count, 1);
        assert_eq!(refused, Err(AllocError::InvalidRequest(InvalidRequest::Count(count))));
    }
    for align in [0, 3, 1 << 19, 1 << 40, 1 << 63, u64::MAX] {
        let refused = frames.alloc_run(&pin(0), &one, 1, align);
        assert_eq!(refused, Err(AllocError::InvalidRequest(InvalidRequest::Alignment(align))));
    }
    for number in [0, 1 << 31, 1 << 63, u64::MAX] {
        let _ = frames.frame_of_info(number);
    }
    for limit in [0, 1, 4095, 4096, top - 1, top, (1 << 52) - 1] {
        let below = one.below(PhysAddr::new(limit)).policy(Policy::Preferred(NodeId::ZERO));
        for order in orders {
            let request = FrameRequest::order(order).below(PhysAddr::new(limit));
            if let Ok(run) = frames.alloc(&pin(0), &request) {
                assert!(number(run) + order.frames() <= limit / 4096);
                // SAFETY: nobody uses it.
                unsafe { frames.free(&pin(0), run, order) }.unwrap();
            }
        }
        if let Ok(run) = frames.alloc_run(&pin(0), &below, 700, 512) {
            // SAFETY: nobody uses it.
            unsafe { frames.free_run(&pin(0), run, 700) }.unwrap();
        }
    }
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap(), before);
    // The last frame itself: handed out, freed once, and refused then.
    let all: Vec<_> = std::iter::from_fn(|| frames.alloc(&pin(0), &one).ok()).collect();
    assert!(all.contains(&last));
    for &of in &all {
        // SAFETY: nobody uses it.
        unsafe { frames.free(&pin(0), of, Order::FRAME) }.unwrap();
    }
    // SAFETY: it is refused.
    let twice = unsafe { frames.free(&pin(0), last, Order::FRAME) };
    assert_eq!(twice, Err(FreeError::DoubleFree(last)));
    frames.retire(&pin(0), last).unwrap();
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap().retired, 1);
}

/// What the whole allocator of one node of 4 GiB needs, all that there is once included.
#[test]
fn bookkeeping_is_at_most_0_14_bytes_a_frame() {
    let frames = frames_support::Machine::simple(4096, 2).frames(&FramesConfig::without_reserve());
    let metadata = frames.metadata();
    let bytes = metadata.regions + metadata.magazines + metadata.pools + metadata.fixed;
    assert!(bytes as f64 / f64::from(1 << 20) <= 0.14, "{metadata:?}");
}

/// Each page of memory far from all others is a region of its own, and no number of them is too large.
#[test]
fn ten_thousand_regions_work() {
    const REGIONS: u64 = 10_000;
    let far = |index: u64| (4 << 30) + index * 256 * MIB;
    let ranges: Vec<_> = [(MIB, 64 * MIB)]
        .into_iter()
        .chain((0..REGIONS).map(|index| (far(index), far(index) + 4096)))
        .collect();
    let frames = frames(&ranges, &FramesConfig::without_reserve());
    let first = frames.stats(NodeId::ZERO).unwrap().managed();
    assert!(first >= REGIONS, "{first}");
    assert_eq!(frames.validate().unwrap().free, first);
    let pages: Vec<_> = (0..REGIONS).rev().map(|index| frame(far(index) / 4096)).collect();
    // Each page is free in the region that its address leads to, but for those that bookkeeping has.
    let (taken, kept): (Vec<_>, Vec<_>) =
        pages.into_iter().partition(|&page| frames.alloc_at(&pin(0), page, 1) == Ok(()));
    assert!(kept.len() < 1000, "{}", kept.len());
    assert_eq!(frames.validate().unwrap().free, first - taken.len() as u64);
    for page in taken {
        // SAFETY: nobody uses it.
        unsafe { frames.free(&pin(0), page, Order::FRAME) }.unwrap();
    }
    assert_eq!(frames.validate().unwrap().free, first);
}
