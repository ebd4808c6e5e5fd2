//! Zeroed frames: the pools that are filled ahead, and that nothing is lost in them.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use core::future::Future;
use core::pin::pin as pinned;
use core::task::{Context, Poll, Waker};

use frames_support::{Host, MIB, Machine, cpu, frame, free, node, number, online, pin};
use topomem_numa::frames::{
    AllocError, Corruption, DoubleFrees, Drained, FrameRequest, Frames, FramesConfig, FreeError, NodeSet,
    Policy, Watermarks, ZeroedFrames, ZeroedStats, Zeroing, Zone, ZoneWatermarks,
};
use topomem_percpu::{Order, PhysAddr, PhysFrame, Platform};

const ZEROED: FrameRequest = FrameRequest::frame().zeroed();

fn config(target: u16) -> FramesConfig {
    FramesConfig { zeroed: ZeroedFrames::Frames(target), ..FramesConfig::without_reserve() }
}

fn stats(frames: &Frames<Host>, of: usize) -> ZeroedStats {
    frames.stats(node(of)).unwrap().zeroed
}

fn take_all(frames: &Frames<Host>, request: &FrameRequest) -> Vec<PhysFrame> {
    std::iter::from_fn(|| frames.alloc(&pin(0), request).ok()).collect()
}

/// Writes to the frame's first and last byte.
fn dirty(frames: &Frames<Host>, first: PhysFrame) {
    let bytes = frames.platform().phys_to_virt(first.start_address());
    // SAFETY: inside the arena, which only this thread uses.
    unsafe {
        bytes.write(0xa5);
        bytes.add(4095).write(0xa5);
    }
}

fn is_zero(frames: &Frames<Host>, first: PhysFrame) -> bool {
    let bytes = frames.platform().phys_to_virt(first.start_address());
    let stride = if cfg!(miri) { 91 } else { 1 };
    // SAFETY: inside the arena, which only this thread uses.
    (0..4096).step_by(stride).all(|at| unsafe { bytes.add(at).read() } == 0)
}

/// Leaves every frame of the machine dirty and free.
fn soil(frames: &Frames<Host>) {
    for first in take_all(frames, &FrameRequest::frame()) {
        dirty(frames, first);
        free(frames, 0, first, Order::FRAME).unwrap();
    }
    frames.drain(&pin(0));
}

#[test]
fn frames_zeroed_ahead_are_handed_out_first_and_are_zero() {
    let frames = Machine::simple(2, 1).frames(&config(16));
    online(frames, 1);
    soil(frames);
    assert_eq!(frames.refill_zeroed(&pin(0), 10), 10);
    assert_eq!(frames.refill_zeroed(&pin(0), 10), 6);
    assert_eq!(frames.refill_zeroed(&pin(0), 10), 0);
    let totals = frames.validate().unwrap();
    assert_eq!((totals.zeroed, totals.allocated, totals.free), (16, 0, 512 - 16));
    assert_eq!(frames.stats(node(0)).unwrap().all_free(), 512);
    let mut taken: Vec<_> = (0..20).map(|_| frames.alloc(&pin(0), &ZEROED).unwrap()).collect();
    assert!(taken.iter().all(|&first| is_zero(frames, first)));
    assert_eq!(stats(frames, 0), ZeroedStats { frames: 0, hits: 16, misses: 4, doubles: 0 });
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 20);
    assert_eq!(frames.validate().unwrap().allocated, 20);
    let local = frames.cpu_stats(cpu(0)).unwrap().local;
    assert_eq!(local, 512 + 20);
    taken.into_iter().for_each(|first| free(frames, 0, first, Order::FRAME).unwrap());
    assert_eq!(frames.validate().unwrap().allocated, 0);
}

#[test]
fn what_a_cpu_has_counted_stays_when_it_goes_offline() {
    let frames = Machine::simple(2, 2).frames(&config(16));
    online(frames, 2);
    assert_eq!(frames.refill_zeroed(&pin(1), 4), 4);
    let taken: Vec<_> = (0..6).map(|_| frames.alloc(&pin(1), &ZEROED).unwrap()).collect();
    let expected = ZeroedStats { frames: 0, hits: 4, misses: 2, doubles: 0 };
    let local = frames.stats(node(0)).unwrap().local;
    assert_eq!((stats(frames, 0), local), (expected, 6));
    assert_eq!(frames.cpu_offline(&pin(1)), Drained::Everything);
    assert_eq!((stats(frames, 0), frames.stats(node(0)).unwrap().local), (expected, 6));
    taken.into_iter().for_each(|first| free(frames, 0, first, Order::FRAME).unwrap());
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn a_pool_hides_no_frame_from_anybody() {
    let frames = Machine::simple(4, 1).frames(&config(64));
    online(frames, 1);
    for order in [0, 3, 8, 9].map(|order| Order::new(order).unwrap()) {
        assert_eq!(frames.refill_zeroed(&pin(0), 64), 64);
        let runs = take_all(frames, &FrameRequest::order(order));
        assert_eq!(runs.len() as u64 * order.frames(), 1024);
        let expected = AllocError::Exhausted { node: node(0), zone: Zone::Normal, order };
        assert_eq!(frames.alloc(&pin(0), &FrameRequest::order(order)), Err(expected));
        runs.into_iter().for_each(|first| free(frames, 0, first, order).unwrap());
        frames.drain(&pin(0));
    }
    frames.refill_zeroed(&pin(0), 64);
    let run = frames.alloc_run(&pin(0), &FrameRequest::frame(), 1024, 1).unwrap();
    // SAFETY: nobody uses the arena.
    unsafe { frames.free_run(&pin(0), run, 1024) }.unwrap();
    frames.refill_zeroed(&pin(0), 64);
    assert_eq!(frames.drain_zeroed(node(0)), 64);
    assert_eq!(frames.validate().unwrap().free, 1024);
    assert_eq!(stats(frames, 0).hits, 0);
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn the_near_pool_serves_before_a_farther_node() {
    let machine = Machine::new(&[(16 * MIB, 18 * MIB, 0), (18 * MIB, 20 * MIB, 1)], &[0, 1]);
    let frames = machine.frames(&config(32));
    online(frames, 2);
    frames.refill_zeroed(&pin(0), 32);
    for count in 0..512 {
        let first = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
        assert_eq!(frames.node_of(first), Some(node(0)), "frame {count}");
    }
    assert_eq!(frames.node_of(frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()), Some(node(1)));
    frames.validate().unwrap();
}

#[test]
fn policies_and_zones_choose_the_pool() {
    let machine = Machine::new(
        &[(14 * MIB, 20 * MIB, 0), (20 * MIB, 24 * MIB, 1), (24 * MIB, 24 * MIB, 2)],
        &[0, 1, 2],
    );
    let frames = machine.frames(&config(32));
    online(frames, 3);
    frames.refill_zeroed(&pin(0), 32);
    frames.refill_zeroed(&pin(1), 32);
    // CPU 2 has no memory of its own: there is nothing to fill.
    assert_eq!(frames.refill_zeroed(&pin(2), 32), 0);
    let hits = || (stats(frames, 0).hits, stats(frames, 1).hits);
    let alloc = |on: usize, request: FrameRequest| frames.alloc(&pin(on), &request).unwrap();
    let bound = alloc(0, ZEROED.policy(Policy::Bind(NodeSet::of(node(1)))));
    assert_eq!((frames.node_of(bound), hits()), (Some(node(1)), (0, 1)));
    alloc(0, ZEROED.policy(Policy::Preferred(node(1))));
    assert_eq!(hits(), (0, 2));
    alloc(1, ZEROED.node(node(0)));
    assert_eq!(hits(), (1, 2));
    alloc(2, ZEROED);
    assert_eq!(hits(), (2, 2));
    let both = NodeSet::of(node(0)).with(node(1));
    for _ in 0..4 {
        alloc(0, ZEROED.policy(Policy::Interleave(both)));
    }
    assert_eq!(hits(), (4, 4));
    // Node 0 also has memory below 16 MiB, and the pool's is above.
    let low = alloc(0, ZEROED.zone(Zone::Dma));
    assert_eq!((frames.zone_of(low), hits()), (Some(Zone::Dma), (4, 4)));
    assert!(is_zero(frames, low));
    alloc(0, ZEROED.zone(Zone::Dma32));
    assert_eq!(hits(), (5, 4));
    // An empty pool leaves the turns as they are.
    frames.drain_zeroed(node(0));
    frames.drain_zeroed(node(1));
    let turns: Vec<_> = (0..4).map(|_| alloc(0, ZEROED.policy(Policy::Interleave(both)))).collect();
    let on_0 = turns.iter().filter(|&&first| frames.node_of(first) == Some(node(0))).count();
    assert_eq!(on_0, 2);
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn scarce_memory_is_not_zeroed_ahead() {
    let low = FramesConfig {
        watermarks: ZoneWatermarks::Frames(Watermarks { min: 8, low: 200, high: 250 }),
        ..config(16)
    };
    let frames = Machine::simple(4, 1).frames(&low);
    online(frames, 1);
    assert_eq!(frames.refill_zeroed(&pin(0), 8), 8);
    let many: Vec<_> = (0..824).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
    assert_eq!(frames.refill_zeroed(&pin(0), 8), 0);
    many.into_iter().for_each(|first| free(frames, 0, first, Order::FRAME).unwrap());
    frames.drain(&pin(0));
    assert_eq!(frames.refill_zeroed(&pin(0), 8), 8);
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn who_waits_gets_the_pools_frames_and_stops_the_filling() {
    let frames = Machine::simple(4, 1).frames(&config(64));
    online(frames, 1);
    let held: Vec<_> =
        (0..1024 - 512).map(|_| frames.alloc(&pin(0), &FrameRequest::frame()).unwrap()).collect();
    frames.drain(&pin(0));
    assert_eq!(frames.refill_zeroed(&pin(0), 64), 64);
    let mut context = Context::from_waker(Waker::noop());
    let two = FrameRequest::order(Order::new(10).unwrap());
    let mut waiting = pinned!(frames.alloc_async(two));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert_eq!(stats(frames, 0).frames, 0);
    assert_eq!(frames.refill_zeroed(&pin(0), 64), 0);
    held.into_iter().for_each(|first| free(frames, 0, first, Order::FRAME).unwrap());
    assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    frames.validate().unwrap();
}

/// Returns a machine of `mib` MiB whose pool is for `target` frames, and has one: a frame that was allocated and freed.
fn freed_into_the_pool(mib: u64, target: u16) -> (&'static Frames<Host>, PhysFrame) {
    let frames = Machine::simple(mib, 1).frames(&config(target));
    online(frames, 1);
    frames.refill_zeroed(&pin(0), 1);
    let zeroed = frames.alloc(&pin(0), &ZEROED).unwrap();
    free(frames, 0, zeroed, Order::FRAME).unwrap();
    frames.drain(&pin(0));
    assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
    (frames, zeroed)
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn frames_freed_while_in_the_pool_are_handed_out_once() {
    let (frames, zeroed) = freed_into_the_pool(4, 16);
    // No magazine has its word: refused at once, alone or in a run.
    assert_eq!(free(frames, 0, zeroed, Order::FRAME), Err(FreeError::DoubleFree(zeroed)));
    let run = Order::new(2).unwrap();
    assert_eq!(number(zeroed) % 4, 0);
    assert_eq!(free(frames, 0, zeroed, run), Err(FreeError::DoubleFree(zeroed)));
    // SAFETY: it must be refused.
    assert_eq!(unsafe { frames.free_run(&pin(0), zeroed, 3) }, Err(FreeError::DoubleFree(zeroed)));
    assert_eq!(frames.validate().unwrap().zeroed, 1);

    // The magazine has the word: noticed when the word goes home.
    let other = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    assert_eq!(number(other) / 64, number(zeroed) / 64);
    free(frames, 0, zeroed, Order::FRAME).unwrap();
    assert_eq!(frames.validate(), Err(Corruption::Misplaced(zeroed)));
    frames.drain(&pin(0));
    assert_eq!(frames.cpu_stats(cpu(0)).unwrap().late_doubles, 1);
    assert_eq!(frames.validate().unwrap().zeroed, 1);

    let all = [take_all(frames, &ZEROED), take_all(frames, &FrameRequest::frame())].concat();
    assert_eq!(all.iter().filter(|&&first| first == zeroed).count(), 1);
    assert_eq!(all.len(), 1023);
}

#[test]
fn a_double_free_into_the_magazine_is_seen_by_the_pool() {
    let (frames, zeroed) = freed_into_the_pool(4, 16);
    frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    free(frames, 0, zeroed, Order::FRAME).unwrap();
    assert_ne!(frames.alloc(&pin(0), &ZEROED.policy(Policy::Preferred(node(0)))), Ok(zeroed));
    assert_eq!(stats(frames, 0).doubles, 1);
    frames.validate().unwrap();
}

#[test]
fn a_write_to_a_pools_frame_is_found() {
    let (frames, zeroed) = freed_into_the_pool(2, 4);
    dirty(frames, zeroed);
    assert_eq!(frames.validate(), Err(Corruption::NotZero(zeroed)));
}

#[test]
fn a_machine_without_pools_zeroes_on_demand() {
    let frames = Machine::simple(2, 1).frames(&config(0));
    online(frames, 1);
    soil(frames);
    assert_eq!(frames.refill_zeroed(&pin(0), 64), 0);
    assert!(is_zero(frames, frames.alloc(&pin(0), &ZEROED).unwrap()));
    assert_eq!(frames.metadata().pools, 0);
}

#[test]
#[cfg(feature = "fault-injection")]
fn the_fault_puts_frames_into_pools_as_they_are() {
    let frames = Machine::simple(2, 1).frames(&config(16));
    online(frames, 1);
    frames.inject(topomem_numa::frames::Fault::UnzeroedPools);
    soil(frames);
    frames.refill_zeroed(&pin(0), 1);
    assert!(matches!(frames.validate(), Err(Corruption::NotZero(_))));
    assert!(!is_zero(frames, frames.alloc(&pin(0), &ZEROED).unwrap()));
    assert!(is_zero(frames, frames.alloc(&pin(0), &ZEROED).unwrap()));
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn frames_zeroed_when_freed_keep_nothing() {
    for double_frees in [DoubleFrees::FoundLate, DoubleFrees::FoundAtOnce] {
        let machine = Machine::simple(8, 1).reserve(17 * MIB, 17 * MIB + 0x1000);
        let frames = machine.frames(&FramesConfig { zeroing: Zeroing::OnFree, double_frees, ..config(16) });
        online(frames, 1);
        assert_eq!(frames.refill_zeroed(&pin(0), 16), 0);
        for order in [0, 0, 3, 8, 9].map(|order| Order::new(order).unwrap()) {
            let first = frames.alloc(&pin(0), &FrameRequest::order(order).zeroed()).unwrap();
            let last = first + (order.frames() - 1);
            assert!(is_zero(frames, first) && is_zero(frames, last));
            dirty(frames, first);
            dirty(frames, last);
            // What is refused stays as it is.
            assert!(order == Order::FRAME || free(frames, 0, first, Order::GIANT).is_err());
            assert!(order < Order::HUGE || free(frames, 0, first, Order::FRAME).is_err());
            assert!(!is_zero(frames, first));
            free(frames, 0, first, order).unwrap();
            assert!(is_zero(frames, first) && is_zero(frames, last), "order {}", order.get());
            assert!(free(frames, 0, first, order).is_err());
        }
        let reserved = frame(17 * 256);
        dirty(frames, reserved);
        assert_eq!(free(frames, 0, reserved, Order::FRAME), Err(FreeError::Reserved(reserved)));
        assert!(!is_zero(frames, reserved));
        let run = frames.alloc_run(&pin(0), &ZEROED, 515, 1).unwrap();
        for first in [run, run + 511, run + 512, run + 514] {
            assert!(is_zero(frames, first));
            dirty(frames, first);
        }
        // SAFETY: nobody uses the arena.
        unsafe { frames.free_run(&pin(0), run, 515) }.unwrap();
        assert!([run, run + 511, run + 512, run + 514].iter().all(|&first| is_zero(frames, first)));
        frames.drain(&pin(0));
        frames.validate().unwrap();
    }
}

/// A zone or a node may end inside the 16 frames that a slot of the pool holds: each frame goes home
/// to its own.
#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn frames_of_two_regions_go_home_to_their_own() {
    let limit = 20 * 256 + 5;
    let mut cut = config(16);
    cut.zones.dma_end = PhysAddr::new(0);
    cut.zones.dma32_end = frame(limit).start_address();
    let zones = Machine::simple(8, 1).frames(&cut);
    // Node 0's memory ends there, and goes on two frames above.
    let (low, high) = (limit * 4096, (limit + 2) * 4096);
    let ranges = [(16 * MIB, low, 0), (low, high, 1), (high, 24 * MIB, 0)];
    let nodes = Machine::new(&ranges, &[0, 1]).frames(&config(16));
    for (frames, all) in [(zones, 2048), (nodes, 2046)] {
        let before = frames.validate().unwrap();
        let local = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(0))));
        let below = local.below(frame(limit).start_address());
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        // Higher memory goes first: what is left is below the limit, and refills the pool then.
        let mut taken = Vec::new();
        loop {
            let got = frames.alloc(&pin(0), &local).unwrap();
            if number(got) < limit {
                free(frames, 0, got, Order::FRAME).unwrap();
                break;
            }
            taken.push(got);
        }
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        frames.validate().unwrap();
        assert_eq!(frames.drain_zeroed(node(0)), 2);
        frames.validate().unwrap();
        let of_low: Vec<_> = take_all(frames, &below);
        assert!(of_low.iter().all(|&got| number(got) < limit));
        let rest = take_all(frames, &local);
        assert!(rest.iter().all(|&got| number(got) >= limit));
        assert_eq!(taken.len() + of_low.len() + rest.len(), all);
        for got in taken.into_iter().chain(of_low).chain(rest) {
            free(frames, 0, got, Order::FRAME).unwrap();
        }
        assert_eq!(frames.validate().unwrap(), before);
    }
}
