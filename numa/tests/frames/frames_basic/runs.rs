//! Runs of any length: made, extended, shortened.

use topomem_numa::frames::{DoubleFrees, FrameRequest, FramesConfig, ResizeError};
use topomem_percpu::{Order, PhysFrame};

use super::plain;
use crate::frames_support::{Machine, number, online, pin};

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

/// Any part of a run of any length is freed, and then the others: by way of blocks that the run has whole, too.
#[test]
fn parts_of_runs_are_freed() {
    let paranoid = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..plain() };
    let cuts: &[(u64, u64, u64)] = &[
        (3, 1, 2),
        (511, 100, 110),
        (400, 1, 399),
        (512, 1, 2),
        (512, 64, 512),
        (1300, 700, 800),
        (1300, 512, 1024),
        (1300, 300, 1100),
        (2048, 1, 2047),
        (2048, 1000, 1500),
    ];
    for config in [plain(), paranoid] {
        for &(count, from, to) in if cfg!(miri) { &cuts[..2] } else { cuts } {
            for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
                let frames = Machine::simple(if cfg!(miri) { 4 } else { 32 }, 1).frames(&config);
                online(frames, 1);
                let total = frames.validate().unwrap().free;
                let first = frames.alloc_run(&pin(0), &FrameRequest::frame().emergency(), count, 1).unwrap();
                let [below, part] = [0, from].map(|offset| first + offset);
                // SAFETY: nobody uses the arena.
                unsafe {
                    assert!(frames.split_run(first, count, 0).is_err());
                    assert!(frames.split_run(first, count, count).is_err());
                    frames.split_run(first, count, from).unwrap();
                    if to < count {
                        frames.split_run(part, count - from, to - from).unwrap();
                    }
                }
                assert_eq!(frames.validate().unwrap().allocated, count, "{count} {from} {to}");
                let parts = [(below, from), (part, to - from), (first + to, count - to)];
                let mut left = count;
                for (first, count) in order.map(|index| parts[index]).into_iter().filter(|part| part.1 > 0) {
                    // SAFETY: nobody uses the arena.
                    let free = || unsafe { frames.free_run(&pin(0), first, count) };
                    free().unwrap();
                    assert!(free().is_err(), "{first:?} {count}");
                    left -= count;
                    assert_eq!(frames.validate().unwrap().allocated, left, "{first:?} {count}");
                }
                frames.drain(&pin(0));
                let totals = frames.validate().unwrap();
                assert_eq!((totals.free + totals.in_magazines, totals.allocated), (total, 0));
                // Opened blocks become whole again.
                let huge = FrameRequest::order(Order::HUGE).emergency();
                let blocks = core::iter::from_fn(|| frames.alloc(&pin(0), &huge).ok()).count() as u64;
                assert_eq!(blocks, total / 512, "{count} {from} {to}");
            }
        }
    }
}
