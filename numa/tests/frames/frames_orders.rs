//! Runs of orders 1 to 8: the CPU's magazine has them like single frames.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, Machine, cpu, frame, free, number, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, FramesConfig, FreeError, Zone};
use topomem_percpu::{Order, PhysFrame};

/// Blocks of the machine: each of two CPUs may hold words of four of them.
const BLOCKS: u64 = 128;

fn machine() -> &'static Frames<Host> {
    // Miri runs only what holds no whole words.
    let mib = if cfg!(miri) { 8 } else { 2 * BLOCKS };
    let frames = Machine::simple(mib, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    frames
}

fn orders() -> impl Iterator<Item = Order> {
    (1..9).filter_map(Order::new)
}

fn alloc(frames: &Frames<Host>, cpu: usize, order: Order) -> Result<PhysFrame, AllocError> {
    frames.alloc(&pin(cpu), &FrameRequest::order(order))
}

/// A burst of runs, which are disjoint and aligned; then they are freed.
fn burst(frames: &Frames<Host>, cpu: usize, order: Order, count: usize) {
    let mut runs: Vec<_> = (0..count).map(|_| alloc(frames, cpu, order).unwrap()).collect();
    runs.iter().for_each(|&run| assert!(number(run).is_multiple_of(order.frames())));
    for &run in &runs {
        free(frames, cpu, run, order).unwrap();
    }
    runs.sort();
    runs.windows(2).for_each(|pair| assert!(number(pair[0]) + order.frames() <= number(pair[1])));
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn a_warm_burst_is_hits_alone() {
    for order in orders() {
        let frames = machine();
        let count = if order.get() < 6 { (256 >> order.get()).min(32) } else { 8 };
        let warm = || (0..4).for_each(|_| burst(frames, 0, order, count));
        warm();
        let stats = || frames.cpu_stats(cpu(0)).unwrap();
        let before = (stats(), frames.free_estimate(NodeId::ZERO, Zone::Normal), frames.validate().unwrap());
        warm();
        let after = (stats(), frames.free_estimate(NodeId::ZERO, Zone::Normal), frames.validate().unwrap());
        assert_eq!(after.0.hits - before.0.hits, 4 * count as u64, "order {}", order.get());
        let moved =
            |stats: &topomem_numa::frames::MagazineStats| (stats.misses, stats.refills, stats.flushes);
        assert_eq!(moved(&after.0), moved(&before.0), "order {}", order.get());
        assert_eq!((after.1, after.2), (before.1, before.2));
    }
}

/// A run is refused when it is freed again: as a whole, in part, as a part of a longer run.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn a_run_freed_twice_is_refused() {
    for order in orders() {
        let frames = machine();
        let runs: Vec<_> = (0..4).map(|_| alloc(frames, 0, order).unwrap()).collect();
        for _ in 0..2 {
            for &run in &runs {
                free(frames, 0, run, order).unwrap();
                let last = number(run) + order.frames() - 1;
                assert!(matches!(free(frames, 0, run, order), Err(FreeError::DoubleFree(_))));
                assert_eq!(
                    free(frames, 0, frame(last), Order::FRAME),
                    Err(FreeError::DoubleFree(frame(last)))
                );
                for other in (0..10).filter_map(Order::new).filter(|&other| other != order) {
                    let first = frame(number(run) & !(other.frames() - 1));
                    assert!(free(frames, 0, first, other).is_err(), "{order:?} as {other:?}");
                }
                let totals = frames.validate().unwrap();
                assert_eq!(totals.in_magazines + totals.free + totals.allocated, BLOCKS * 512);
            }
            // Once more from where they are now.
            let again: Vec<_> = (0..4).map(|_| alloc(frames, 0, order).unwrap()).collect();
            assert!(again.iter().all(|run| runs.contains(run)), "order {}", order.get());
        }
    }
}

/// The block has left the bitmaps since the magazine had its words.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn a_run_of_a_block_that_is_whole_is_refused() {
    for order in orders() {
        let frames = machine();
        let run = alloc(frames, 0, order).unwrap();
        free(frames, 0, run, order).unwrap();
        let run = alloc(frames, 0, order).unwrap();
        free(frames, 1, run, order).unwrap();
        frames.drain(&pin(1));
        let other = alloc(frames, 1, Order::HUGE).unwrap();
        assert!(free(frames, 0, run, order).is_err(), "order {}", order.get());
        free(frames, 1, other, Order::HUGE).unwrap();
        (0..2).for_each(|cpu| _ = frames.drain(&pin(cpu)));
        assert_eq!(frames.validate().unwrap().free, BLOCKS * 512);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn what_cannot_be_a_run_is_refused() {
    let frames = machine();
    for order in orders() {
        burst(frames, 0, order, 4);
        let run = alloc(frames, 0, order).unwrap();
        let inside = frame(number(run) + 1);
        assert_eq!(free(frames, 0, inside, order), Err(FreeError::Misaligned { frame: inside, order }));
        free(frames, 0, run, order).unwrap();
    }
}

/// A run may be freed in parts, and parts as one run; its frames are held once.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn runs_come_apart_and_together() {
    let frames = machine();
    for large in orders() {
        for small in (0..large.get()).filter_map(Order::new) {
            burst(frames, 0, large, 2);
            burst(frames, 0, small, 2);
            let run = number(alloc(frames, 0, large).unwrap());
            for part in (run..run + large.frames()).step_by(small.frames() as usize) {
                free(frames, 0, frame(part), small).unwrap();
            }
            frames.validate().unwrap();
            let whole = alloc(frames, 0, large).unwrap();
            let mut parts = Vec::new();
            while parts.len() < 2 << (large.get() - small.get()) {
                parts.push(alloc(frames, 0, small).unwrap());
            }
            parts.sort();
            frames.validate().unwrap();
            free(frames, 0, whole, large).unwrap();
            let joined = parts.iter().position(|&first| {
                let count = 1_u64 << (large.get() - small.get());
                number(first).is_multiple_of(large.frames())
                    && (0..count).all(|at| parts.contains(&frame(number(first) + at * small.frames())))
            });
            let first = joined.map(|at| parts[at]);
            if let Some(first) = first {
                free(frames, 0, first, large).unwrap();
                assert!(matches!(free(frames, 0, first, small), Err(FreeError::DoubleFree(_))));
            }
            for part in parts {
                let is_joined = first.is_some_and(|first| {
                    (number(first)..number(first) + large.frames()).contains(&number(part))
                });
                assert_eq!(free(frames, 0, part, small).is_err(), is_joined);
            }
            frames.validate().unwrap();
        }
    }
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap().free, BLOCKS * 512);
}

/// What the magazine holds does not keep blocks from being whole when these are asked for.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn whole_blocks_come_back() {
    let frames = machine();
    for order in orders() {
        burst(frames, 0, order, 40);
    }
    assert!(frames.cpu_stats(cpu(0)).unwrap().cached > 0);
    let mut blocks: Vec<_> = std::iter::from_fn(|| alloc(frames, 0, Order::HUGE).ok()).collect();
    assert_eq!(blocks.len() as u64, BLOCKS);
    assert!(matches!(alloc(frames, 0, Order::FRAME), Err(AllocError::Exhausted { .. })));
    blocks.drain(..).for_each(|block| free(frames, 0, block, Order::HUGE).unwrap());
}

/// What another CPU holds is asked for, and then had, to the last run.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn the_last_run_is_found_wherever_it_is() {
    for order in orders() {
        let frames = machine();
        let mut runs: Vec<_> = std::iter::from_fn(|| alloc(frames, 0, order).ok()).collect();
        assert_eq!(runs.len() as u64 * order.frames(), BLOCKS * 512, "order {}", order.get());
        let given = runs.pop().unwrap();
        free(frames, 1, given, order).unwrap();
        let got = alloc(frames, 0, order).or_else(|error| {
            assert!(matches!(error, AllocError::WouldBlock { .. }), "{error}");
            frames.service(&pin(1));
            alloc(frames, 0, order)
        });
        assert_eq!(got, Ok(given));
        assert!(matches!(alloc(frames, 1, order), Err(AllocError::Exhausted { .. })));
    }
}

/// Words that nobody takes go home by themselves.
#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn idle_words_go_home() {
    let frames = machine();
    burst(frames, 0, Order::new(8).unwrap(), 4);
    let words = || frames.cpu_stats(cpu(0)).unwrap().cached;
    assert!(words() >= 1024);
    (0..128).for_each(|_| frames.trim(&pin(0)));
    assert_eq!(words(), 0);
    assert_eq!(frames.validate().unwrap().free, BLOCKS * 512);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; three other tests run the same unsafe code")]
fn retired_frames_leave_the_words_held() {
    for order in orders() {
        let frames = machine();
        burst(frames, 0, order, 4);
        let run = alloc(frames, 0, order).unwrap();
        free(frames, 0, run, order).unwrap();
        let bad = frame(number(run) + 1);
        frames.retire(&pin(1), bad).unwrap();
        frames.service(&pin(0));
        assert!(frames.is_retired(bad));
        let runs: Vec<_> = (0..64).map(|_| alloc(frames, 0, order).unwrap()).collect();
        let has_bad = |first: &PhysFrame| (*first..*first + order.frames()).contains(&bad);
        assert!(!runs.iter().any(has_bad));
        runs.into_iter().for_each(|run| free(frames, 0, run, order).unwrap());
        frames.drain(&pin(0));
        assert_eq!(frames.validate().unwrap().free, BLOCKS * 512 - 1);
    }
}

/// Single frames that are freed as one run stay with the CPU if it has all of their words, or all go home.
#[test]
fn frames_freed_as_a_run_stay_if_all_words_are_held() {
    let frames = machine();
    let total = frames.validate().unwrap().free;
    let singles: Vec<_> = (0..192).map(|_| alloc(frames, 0, Order::FRAME).unwrap()).collect();
    let first = *singles.iter().min().unwrap();
    assert_eq!(number(*singles.iter().max().unwrap()), number(first) + 191, "three words of one block");
    // SAFETY: nobody uses the arena; double frees are what must be refused.
    let free_run = |from: u64, count: u64| unsafe { frames.free_run(&pin(0), first + from, count) };
    let cached = || frames.validate().unwrap().in_magazines;
    free_run(60, 8).unwrap();
    assert_eq!(cached(), 8, "of two words that the CPU has");
    for (from, count) in [(60, 8), (0, 61), (67, 10), (63, 2), (64, 1)] {
        assert!(matches!(free_run(from, count), Err(FreeError::DoubleFree(_))), "{from} {count}");
    }
    assert_eq!(frames.validate().unwrap().allocated, 184, "a refused run frees nothing");
    free_run(0, 60).unwrap();
    free_run(68, 124).unwrap();
    assert_eq!(cached(), 192);
    frames.drain(&pin(0));
    let totals = frames.validate().unwrap();
    assert_eq!((totals.free, totals.allocated), (total, 0));
    // Of words that another CPU has.
    let others: Vec<_> = (0..192).map(|_| alloc(frames, 1, Order::FRAME).unwrap()).collect();
    let first = *others.iter().min().unwrap();
    // SAFETY: they are the test's.
    unsafe { frames.free_run(&pin(0), first, 192) }.unwrap();
    let totals = frames.validate().unwrap();
    assert_eq!((totals.free, totals.in_magazines, totals.allocated), (total, 0, 0));
}

/// A run of which the CPU has the first word only goes home as a whole.
#[test]
fn a_run_stays_as_a_whole_or_not_at_all() {
    let frames = machine();
    let total = frames.validate().unwrap().free;
    let singles: Vec<_> = (0..384).map(|_| alloc(frames, 0, Order::FRAME).unwrap()).collect();
    let first = *singles.iter().min().unwrap();
    // The second frame that is freed of word 1 takes the place of word 5.
    free(frames, 0, first + 64, Order::FRAME).unwrap();
    free(frames, 0, first + 65, Order::FRAME).unwrap();
    let before = frames.validate().unwrap();
    // SAFETY: they are the test's.
    unsafe { frames.free_run(&pin(0), first + 316, 8) }.unwrap();
    let after = frames.validate().unwrap();
    assert_eq!((after.free - before.free, after.in_magazines), (8, before.in_magazines));
    for (from, count) in [(0, 64), (66, 250), (324, 60)] {
        // SAFETY: as above.
        unsafe { frames.free_run(&pin(0), first + from, count) }.unwrap();
    }
    frames.drain(&pin(0));
    let totals = frames.validate().unwrap();
    assert_eq!((totals.free, totals.allocated), (total, 0));
}

#[test]
fn whole_words_that_are_freed_stay_with_the_cpu() {
    let frames = Machine::simple(64, 1).frames(&FramesConfig::without_reserve());
    online(frames, 1);
    let order = Order::new(7).unwrap();
    let run = alloc(frames, 0, order).unwrap();
    let held = || frames.validate().unwrap().in_magazines;
    let before = held();
    free(frames, 0, run, order).unwrap();
    assert_eq!(held() - before, 128);
    assert!(matches!(free(frames, 0, run, order), Err(FreeError::DoubleFree(_))));
    let run = alloc(frames, 0, order).unwrap();
    assert_eq!(held(), before);
    // Of a block that has no place there.
    frames.drain(&pin(0));
    free(frames, 0, run, order).unwrap();
    assert_eq!(held(), 128);
}
