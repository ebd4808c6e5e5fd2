//! The frame allocator on one CPU: every order, run, policy and error.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, DoubleFrees, FrameRequest, Frames, FramesConfig, FreeError, NodeSet, Obstacle, PerFrameTable,
    Policy, Pressure, ResizeError, Watermarks, Zone, ZoneWatermarks,
};
use topomem_percpu::{Order, PhysFrame};

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
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
fn runs_become_longer_and_shorter_where_they_are() {
    let paranoid = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..plain() };
    for config in [plain(), paranoid] {
        let frames = Machine::simple(4, 1).frames(&config);
        online(frames, 1);
        let total = frames.validate().unwrap().free;
        let first = frames.alloc_run(&pin(0), &FrameRequest::frame(), 5, 1).unwrap();
        // SAFETY: nobody uses the arena.
        let extend = |count, longer| unsafe { frames.extend_run(&pin(0), first, count, longer) };
        // SAFETY: as above.
        let shrink = |count, shorter| unsafe { frames.shrink_run(&pin(0), first, count, shorter) };
        let mut count = 5;
        for new in [6, 70, 200, 64, 3, 511, 1, 33] {
            if new > count { extend(count, new) } else { shrink(count, new) }.unwrap();
            assert_eq!(frames.validate().unwrap().allocated, new);
            count = new;
        }
        for (refused, why) in [
            (extend(33, 33), ResizeError::Length),
            (extend(33, 512), ResizeError::Length),
            (shrink(33, 33), ResizeError::Length),
            (shrink(33, 0), ResizeError::Length),
        ] {
            assert_eq!(refused, Err(why));
        }
        // What is behind is in use.
        let behind = frames.alloc_run(&pin(0), &FrameRequest::frame(), 2, 1).unwrap();
        assert_eq!(number(behind), number(first) + 33);
        assert_eq!(extend(33, 34), Err(ResizeError::NotFree));
        assert_eq!(frames.validate().unwrap().allocated, 35);
        // SAFETY: nobody uses the arena.
        unsafe {
            frames.free_run(&pin(0), behind, 2).unwrap();
            // The end was given back already.
            shrink(33, 20).unwrap();
            assert!(frames.free(&pin(0), first + 20, Order::FRAME).is_err());
            frames.free_run(&pin(0), first, 20).unwrap();
            assert!(frames.free_run(&pin(0), first, 20).is_err());
        }
        let totals = frames.validate().unwrap();
        assert_eq!((totals.free + totals.in_magazines, totals.allocated), (total, 0));
    }
}

/// Frames behind a run that the CPU itself has, as bits of a word or as whole words, do not keep the run from
/// becoming longer; those that another CPU has do.
#[test]
fn a_run_takes_frames_that_its_cpu_has() {
    for half in
        [0, 3, 6].map(|order| Order::new(order).unwrap()).into_iter().take(if cfg!(miri) { 1 } else { 3 })
    {
        for (cpu, extended) in [(0, Ok(())), (1, Err(ResizeError::NotFree))] {
            let frames = Machine::simple(if cfg!(miri) { 8 } else { 64 }, 2).frames(&plain());
            online(frames, 2);
            let total = frames.validate().unwrap().free;
            let whole = Order::new(half.get() + 1).unwrap();
            let first = frames.alloc(&pin(cpu), &FrameRequest::order(whole)).unwrap();
            let before = frames.validate().unwrap().in_magazines;
            // SAFETY: nobody uses the arena.
            unsafe { frames.free(&pin(cpu), first + half.frames(), half) }.unwrap();
            assert_eq!(frames.validate().unwrap().in_magazines, before + half.frames(), "the CPU keeps them");
            // SAFETY: as above.
            let result = unsafe { frames.extend_run(&pin(0), first, half.frames(), whole.frames()) };
            assert_eq!(result, extended, "{half:?} freed by CPU {cpu}");
            let totals = frames.validate().unwrap();
            assert_eq!(totals.allocated, if result.is_ok() { whole.frames() } else { half.frames() });
            assert_eq!(totals.free + totals.in_magazines + totals.allocated, total);
            // SAFETY: as above.
            unsafe { frames.free_run(&pin(0), first, totals.allocated) }.unwrap();
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn runs_of_more_than_half_a_block_lie_across_borders() {
    let paranoid = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..plain() };
    for config in [plain(), paranoid] {
        for (count, align) in [(272, 1), (288, 32), (257, 1), (340, 1)] {
            let frames = Machine::simple(64, 1).frames(&config);
            online(frames, 1);
            let total = frames.validate().unwrap().free;
            let take = || frames.alloc_run(&pin(0), &FrameRequest::frame().emergency(), count, align).ok();
            let runs: Vec<PhysFrame> = core::iter::from_fn(take).collect();
            // One in a block leaves nearly half of all memory unused.
            let unused = total - runs.len() as u64 * count;
            assert!(unused < total / 10, "{count}: {} runs, {unused} of {total} frames unused", runs.len());
            assert_eq!(frames.validate().unwrap().allocated, runs.len() as u64 * count);
            let mut firsts: Vec<u64> = runs.iter().map(|&first| number(first)).collect();
            firsts.sort_unstable();
            assert!(firsts.windows(2).all(|pair| pair[0] + count <= pair[1]));
            assert!(firsts.iter().all(|first| first % align == 0));
            let across = firsts.iter().filter(|&first| first / 512 != (first + count - 1) / 512).count();
            assert!(across > runs.len() / 4, "{across} of {}", runs.len());
            for &first in &runs {
                // SAFETY: nobody uses the arena.
                let free = |first, count| unsafe { frames.free_run(&pin(0), first, count) };
                free(first, count).unwrap();
                let totals = frames.validate().unwrap();
                assert!(free(first, count).is_err());
                assert_eq!(frames.validate().unwrap(), totals);
            }
            let totals = frames.validate().unwrap();
            assert_eq!((totals.free + totals.in_magazines, totals.allocated), (total, 0));
            frames.service(&pin(0));
            assert!(frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE).emergency()).is_ok());
        }
    }
}

#[test]
fn contiguous_runs_of_any_length_and_alignment() {
    let frames = Machine::simple(if cfg!(miri) { 4 } else { 64 }, 1).frames(&plain());
    online(frames, 1);
    let total = frames.validate().unwrap().free;
    let runs = [(1, 1), (100, 128), (513, 512), (3, 1), (65, 64), (511, 1), (512, 1), (1300, 1024)];
    for (count, align) in runs.into_iter().take(if cfg!(miri) { 3 } else { runs.len() }) {
        let first = frames.alloc_run(&pin(0), &FrameRequest::frame(), count, align).unwrap();
        assert_eq!(number(first) % align, 0, "{count} {align}");
        let totals = frames.validate().unwrap();
        assert_eq!(totals.allocated, count);
        // SAFETY: nobody uses the arena.
        let free_run = |count| unsafe { frames.free_run(&pin(0), first, count) };
        free_run(count).unwrap();
        assert!(free_run(count).is_err());
        let totals = frames.validate().unwrap();
        assert_eq!((totals.free + totals.in_magazines, totals.allocated), (total, 0), "{count} {align}");
    }
    assert!(frames.alloc_run(&pin(0), &FrameRequest::frame(), 0, 1).is_err());
    assert!(frames.alloc_run(&pin(0), &FrameRequest::frame(), 1, 3).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn farther_nodes_serve_strictly_by_distance_and_only_when_nearer_ones_are_exhausted() {
    let mut machine = Machine::new(
        &[(16 * MIB, 20 * MIB, 0), (32 * MIB, 36 * MIB, 1), (48 * MIB, 52 * MIB, 2)],
        &[0, 1, 2],
    );
    machine.distances = vec![vec![10, 30, 20], vec![30, 10, 20], vec![20, 25, 10]];
    let frames = machine.frames(&plain());
    online(frames, 3);
    let nodes: Vec<usize> = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok())
        .map(|first| frames.node_of(first).unwrap().index())
        .collect();
    let expected: Vec<usize> = [0, 2, 1].into_iter().flat_map(|node| vec![node; 1024]).collect();
    assert_eq!(nodes, expected);
    let foreign = frames.stats(node(0)).unwrap();
    assert_eq!((foreign.local, foreign.remote, foreign.foreign), (1024, 0, 2048));
    assert_eq!(frames.stats(node(2)).unwrap().remote, 1024);
    assert_eq!(frames.cpu_stats(frames_support::cpu(0)).unwrap().remote, 2048);
    // Freed frames go home: whoever asks for one of node 1 gets it there.
    free(frames, frame(32 * 256 + 5), Order::FRAME).unwrap();
    free(frames, frame(16 * 256 + 5), Order::FRAME).unwrap();
    assert_eq!(frames.alloc(&pin(0), &FrameRequest::frame()), Ok(frame(16 * 256 + 5)));
    let bound = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(1))));
    assert_eq!(frames.alloc(&pin(0), &bound), Ok(frame(32 * 256 + 5)));
    assert!(matches!(frames.alloc(&pin(0), &bound), Err(AllocError::Exhausted { .. })));
    frames.validate().unwrap();
}

#[test]
fn policies_place_frames() {
    let mut machine = Machine::new(
        &[(16 * MIB, 24 * MIB, 0), (32 * MIB, 40 * MIB, 1), (48 * MIB, 56 * MIB, 2)],
        &[0, 1, 2],
    );
    machine.weights = vec![Some(20_000), Some(10_000), Some(10_000)];
    let frames = machine.frames(&plain());
    online(frames, 3);
    let place = |request: &FrameRequest| {
        let first = frames.alloc(&pin(0), request).unwrap();
        frames.node_of(first).unwrap().index()
    };
    let set = NodeSet::of(node(0)).with(node(2));
    assert_eq!(place(&FrameRequest::frame().policy(Policy::Preferred(node(2)))), 2);
    assert_eq!(place(&FrameRequest::frame().node(node(1))), 1);
    let mut turns = [0; 3];
    (0..30).for_each(|_| turns[place(&FrameRequest::frame().policy(Policy::Interleave(set)))] += 1);
    assert_eq!(turns, [15, 0, 15]);
    let mut turns = [0; 3];
    (0..40).for_each(|_| {
        turns[place(&FrameRequest::frame().policy(Policy::WeightedInterleave(NodeSet::ALL)))] += 1;
    });
    assert_eq!(turns, [20, 10, 10]);
    let nowhere = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(9))));
    assert!(matches!(frames.alloc(&pin(0), &nowhere), Err(AllocError::InvalidRequest(_))));
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn zones_fall_back_downwards_only() {
    let mut config = plain();
    config.zones.dma_end = topomem_percpu::PhysAddr::new(18 * MIB);
    config.zones.dma32_end = topomem_percpu::PhysAddr::new(22 * MIB);
    let frames = Machine::simple(8, 1).frames(&config);
    online(frames, 1);
    let low = frames.alloc(&pin(0), &FrameRequest::frame().zone(Zone::Dma)).unwrap();
    assert_eq!(frames.zone_of(low), Some(Zone::Dma));
    let all = take_all(frames, Order::FRAME);
    let zones: Vec<_> = all.iter().map(|&first| frames.zone_of(first).unwrap()).collect();
    assert!(zones.windows(2).all(|pair| pair[0] >= pair[1]), "highest zone first");
    assert_eq!(zones.len(), 2047);
    let normal = all.into_iter().find(|&first| frames.zone_of(first) == Some(Zone::Normal)).unwrap();
    free(frames, normal, Order::FRAME).unwrap();
    assert!(matches!(
        frames.alloc(&pin(0), &FrameRequest::frame().zone(Zone::Dma32)),
        Err(AllocError::Exhausted { zone: Zone::Dma32, .. })
    ));
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
