//! The frame allocator on one CPU: every order, run, policy and error.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

#[path = "../frames_support/mod.rs"]
mod frames_support;
mod placing;
mod runs;

use frames_support::{Host, MIB, Machine, frame, node, number, online, pin};
use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, FreeError, Obstacle, PerFrameTable, Pressure, Watermarks,
    Zone, ZoneWatermarks,
};
use topomem_percpu::{Order, PhysFrame};

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn free(frames: &Frames<Host>, first: PhysFrame, order: Order) -> Result<(), FreeError> {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(0), first, order) }
}

fn plain() -> FramesConfig {
    FramesConfig::without_reserve()
}

/// Takes all memory in runs of `order`.
fn take_all(frames: &Frames<Host>, order: Order) -> Vec<PhysFrame> {
    let request = FrameRequest::order(order);
    std::iter::from_fn(|| frames.alloc(&pin(0), &request).ok()).collect()
}

#[test]
fn every_order_gives_all_memory_once_and_takes_it_back() {
    let (mib, top, bottom) = if cfg!(miri) { (4, 10, 8) } else { (2048, 18, 0) };
    // From 1 GiB on, so that the largest runs are aligned.
    let machine = Machine::new(&[(1024 * MIB, (1024 + mib) * MIB, 0)], &[0]);
    let machine = if cfg!(miri) { Machine::simple(4, 1) } else { machine };
    let frames = machine.frames(&plain());
    online(frames, 1);
    for level in (bottom..=top).rev() {
        let order = order(level);
        let mut runs = take_all(frames, order);
        runs.sort_unstable();
        assert_eq!(runs.len() as u64 * order.frames(), mib * 256, "order {level}");
        assert!(runs.iter().all(|&first| number(first).is_multiple_of(order.frames())));
        assert!(runs.windows(2).all(|pair| number(pair[0]) + order.frames() <= number(pair[1])));
        assert_eq!(
            frames.alloc(&pin(0), &FrameRequest::order(order)),
            Err(AllocError::Exhausted { node: node(0), zone: Zone::Normal, order })
        );
        runs.into_iter().for_each(|first| free(frames, first, order).unwrap());
        frames.drain(&pin(0));
        let totals = frames.validate().unwrap();
        assert_eq!(totals.free, mib * 256);
        let largest = order_of_all(mib);
        assert_eq!(
            frames.stats(node(0)).unwrap().zones.iter().map(|zone| zone.runs[largest]).sum::<u64>(),
            { (mib * 256) >> largest }
        );
    }
}

fn order_of_all(mib: u64) -> usize {
    ((mib * 256).trailing_zeros() as usize).min(18)
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames; the other tests run the same unsafe code")]
fn magazines_follow_their_load() {
    let frames = Machine::simple(8, 1).frames(&plain());
    online(frames, 1);
    let cached = || frames.cpu_stats(frames_support::cpu(0)).unwrap().cached;
    let burst = |count: usize| {
        let burst: Vec<_> =
            (0..count).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
        burst.iter().for_each(|&first| free(frames, first, Order::FRAME).unwrap());
    };
    burst(512);
    let small = cached();
    (0..8).for_each(|_| burst(512));
    let grown = cached();
    assert!(small <= 4 * 64 && grown >= 512, "{small} {grown}");
    // The bursts were use enough; after that there is none.
    let rounds = |count| (0..count).for_each(|_| frames.trim(&pin(0)));
    rounds(64);
    assert_eq!(cached(), grown);
    rounds(3 * 64);
    assert!(cached() <= 4 * 64, "{}", cached());
    assert_eq!(frames.validate().unwrap().allocated, 0);
}

#[test]
fn magazines_own_frames_never_hide_memory() {
    let frames = Machine::simple(8, 1).frames(&plain());
    online(frames, 1);
    let one = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    // The magazine and its block hold 511 frames of this 2 MiB.
    free(frames, one, Order::FRAME).unwrap();
    assert_eq!(take_all(frames, Order::HUGE).len(), 4);
    frames.validate().unwrap();
}

#[test]
fn hits_touch_nothing_but_the_magazine() {
    let count: u64 = if cfg!(miri) { 128 } else { 512 };
    let frames = Machine::simple(8, 1).frames(&plain());
    online(frames, 1);
    // The magazine grows to the size of the bursts.
    for _ in 0..8 {
        let burst: Vec<_> =
            (0..count).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
        burst.iter().for_each(|&first| free(frames, first, Order::FRAME).unwrap());
    }
    let before = frames.cpu_stats(frames_support::cpu(0)).unwrap();
    for _ in 0..3 {
        let burst: Vec<_> =
            (0..count).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
        burst.iter().for_each(|&first| free(frames, first, Order::FRAME).unwrap());
    }
    let after = frames.cpu_stats(frames_support::cpu(0)).unwrap();
    assert_eq!((before.refills, before.misses, before.flushes), (after.refills, after.misses, after.flushes));
    assert_eq!(after.hits - before.hits, 3 * count);
    assert_eq!(after.cached, count);
}

#[test]
fn wrong_frees_are_refused_and_change_nothing() {
    let machine = Machine::new(&[(16 * MIB, 40 * MIB, 0)], &[0]).reserve(33 * MIB, 34 * MIB);
    let frames = machine.frames(&plain());
    online(frames, 1);
    let one = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    let run = frames.alloc(&pin(0), &FrameRequest::order(order(4))).unwrap();
    let huge = frames.alloc(&pin(0), &FrameRequest::order(order(10))).unwrap();
    let before = frames.validate().unwrap();
    let inside = frame(number(huge) + 700);
    let cases = [
        (frame(4), Order::FRAME, FreeError::OutOfRange(frame(4))),
        (frame(40 * 256), Order::FRAME, FreeError::OutOfRange(frame(40 * 256))),
        (frame(33 * 256), Order::FRAME, FreeError::Reserved(frame(33 * 256))),
        (frame(32 * 256), Order::HUGE, FreeError::Reserved(frame(32 * 256))),
        (
            frame(number(run) + 1),
            order(4),
            FreeError::Misaligned { frame: frame(number(run) + 1), order: order(4) },
        ),
        (huge, Order::HUGE, FreeError::WrongOrder { frame: huge, given: Order::HUGE, actual: order(10) }),
        (
            inside,
            Order::FRAME,
            FreeError::WrongOrder { frame: inside, given: Order::FRAME, actual: order(10) },
        ),
        (frame(number(huge) + 512), Order::HUGE, FreeError::NotAllocated(frame(number(huge) + 512))),
        (frame(number(one) & !511), Order::HUGE, FreeError::NotAllocated(frame(number(one) & !511))),
    ];
    for (first, order, error) in cases {
        assert_eq!(free(frames, first, order), Err(error));
        if !cfg!(miri) {
            assert_eq!(frames.validate(), Ok(before));
        }
    }
    // Found free in the magazine, in the bitmap, in the buddy.
    free(frames, one, Order::FRAME).unwrap();
    free(frames, run, order(4)).unwrap();
    free(frames, huge, order(10)).unwrap();
    let before = frames.validate().unwrap();
    assert_eq!(free(frames, one, Order::FRAME), Err(FreeError::DoubleFree(one)));
    assert_eq!(free(frames, run, order(4)), Err(FreeError::DoubleFree(run)));
    assert_eq!(free(frames, run, order(2)), Err(FreeError::DoubleFree(run)));
    assert_eq!(free(frames, huge, order(10)), Err(FreeError::DoubleFree(huge)));
    assert_eq!(free(frames, inside, Order::FRAME), Err(FreeError::DoubleFree(inside)));
    frames.drain(&pin(0));
    assert_eq!(free(frames, one, Order::FRAME), Err(FreeError::DoubleFree(one)));
    assert_eq!(frames.validate().unwrap().allocated, before.allocated);
}

#[test]
fn a_frame_freed_to_the_bitmap_is_not_taken_into_a_magazine_too() {
    let frames = Machine::simple(if cfg!(miri) { 8 } else { 64 }, 2).frames(&plain());
    online(frames, 2);
    let pair: Vec<_> = (0..2).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
    free(frames, pair[0], Order::FRAME).unwrap();
    // CPU 1 frees the second, and drains: now it is free at home, while CPU 0 has its word.
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(1), pair[1], Order::FRAME) }.unwrap();
    frames.drain(&pin(1));
    assert_eq!(free(frames, pair[1], Order::FRAME), Err(FreeError::DoubleFree(pair[1])));
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn the_reserve_is_for_emergencies() {
    let config = FramesConfig {
        watermarks: ZoneWatermarks::Frames(Watermarks { min: 100, low: 200, high: 300 }),
        ..plain()
    };
    let frames = Machine::simple(4, 1).frames(&config);
    online(frames, 1);
    assert_eq!(frames.stats(node(0)).unwrap().pressure, Pressure::None);
    let taken = take_all(frames, Order::FRAME).len();
    assert_eq!(taken, 924);
    assert_eq!(frames.stats(node(0)).unwrap().pressure, Pressure::Critical);
    let emergency = FrameRequest::frame().emergency();
    let rest = std::iter::from_fn(|| frames.alloc(&pin(0), &emergency).ok()).count();
    assert_eq!(taken + rest, 1024);
    frames.validate().unwrap();
}

#[test]
fn zeroed_frames_are_zero_and_bulk_is_all_or_none() {
    let (mib, stride) = if cfg!(miri) { (2, 97) } else { (4, 1) };
    let frames = Machine::simple(mib, 1).frames(&plain());
    online(frames, 1);
    use topomem_percpu::Platform;
    let dirty = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    let bytes = |first: PhysFrame| frames.platform().phys_to_virt(first.start_address());
    // SAFETY: the frame is ours.
    unsafe { bytes(dirty).write_bytes(0xa5, 4096) };
    free(frames, dirty, Order::FRAME).unwrap();
    let clean = frames.alloc(&pin(0), &FrameRequest::frame().zeroed()).unwrap();
    assert_eq!(clean, dirty);
    // SAFETY: the frame is ours.
    assert!((0..4096).step_by(stride).all(|at| unsafe { bytes(clean).add(at).read() } == 0));
    let mut many = vec![frame(0); mib as usize * 256 - 1];
    frames.alloc_bulk(&pin(0), &FrameRequest::frame(), &mut many).unwrap();
    assert!(frames.alloc_bulk(&pin(0), &FrameRequest::frame(), &mut [frame(0)]).is_err());
    // SAFETY: nobody uses the arena.
    unsafe { frames.free_bulk(&pin(0), &many) }.unwrap();
    many.push(frame(0));
    assert!(frames.alloc_bulk(&pin(0), &FrameRequest::frame(), &mut many).is_err());
    assert_eq!(frames.validate().unwrap().allocated, 1);
}

#[test]
fn other_cpus_frames_would_block_until_they_drain() {
    let frames = Machine::simple(2, 2).frames(&plain());
    online(frames, 2);
    let one = frames.alloc(&pin(1), &FrameRequest::frame()).unwrap();
    let request = FrameRequest::order(Order::HUGE);
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(1), one, Order::FRAME) }.unwrap();
    assert_eq!(
        frames.alloc(&pin(0), &request),
        Err(AllocError::WouldBlock { node: node(0), order: Order::HUGE, why: Obstacle::Held })
    );
    frames.service(&pin(1));
    let huge = frames.alloc(&pin(0), &request).unwrap();
    assert!(matches!(frames.alloc(&pin(0), &request), Err(AllocError::Exhausted { .. })));
    free(frames, huge, Order::HUGE).unwrap();
    frames.cpu_offline(&pin(1));
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn regions_need_no_alignment_and_small_gaps_stay_reserved() {
    let machine =
        Machine::new(&[(16 * MIB + 0x3000, 25 * MIB + 0x5000, 0), (25 * MIB + 0x5000, 27 * MIB, 1)], &[0, 1])
            .reserve(20 * MIB + 0x1000, 20 * MIB + 0x2000);
    let frames = machine.frames(&FramesConfig { table: PerFrameTable::Present, ..plain() });
    online(frames, 2);
    let mut all = take_all(frames, Order::FRAME);
    all.sort_unstable();
    assert_eq!(all.len() as u64, 11 * 256 - 3 - 1);
    assert!(!all.contains(&frame(20 * 256 + 1)));
    assert!(all.iter().all(|&first| frames.info(first).is_some()));
    assert_eq!(
        free(frames, frame(20 * 256 + 1), Order::FRAME),
        Err(FreeError::Reserved(frame(20 * 256 + 1)))
    );
    all.into_iter().for_each(|first| free(frames, first, Order::FRAME).unwrap());
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap().allocated, 0);
}

#[test]
fn bookkeeping_stays_small() {
    let frames = Machine::simple(if cfg!(miri) { 4 } else { 4096 }, 1).frames(&plain());
    let managed = frames.stats(node(0)).unwrap().managed();
    let bytes = frames.metadata().regions as f64 / managed as f64;
    assert!(cfg!(miri) || bytes <= 0.14, "{bytes} bytes a frame");
    assert!(frames.metadata().magazines <= 2048);
}

#[cfg(feature = "x86_64")]
#[test]
fn the_x86_64_crates_traits_are_served() {
    use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size2MiB, Size4KiB};
    let frames = Machine::simple(4, 1).frames(&plain());
    online(frames, 1);
    let mut source = frames.source(FrameRequest::frame());
    let small: PhysFrame<Size4KiB> = source.allocate_frame().unwrap();
    let huge: PhysFrame<Size2MiB> = source.allocate_frame().unwrap();
    assert_eq!(frames.validate().unwrap().allocated, 513);
    // SAFETY: nobody uses the frames.
    unsafe { source.deallocate_frame(small) };
    // SAFETY: as above.
    unsafe { source.deallocate_frame(huge) };
    assert_eq!(frames.validate().unwrap().allocated, 0);
}
