//! Runs at addresses that the caller chooses.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod frames_support;

use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use topomem_numa::frames::{
    AllocAtError, AllocError, DoubleFrees, FrameRequest, Frames, FramesConfig, Obstacle,
};

/// Frames from 16 MiB on.
const START: u64 = 16 * MIB / 4096;

fn frames(config: &FramesConfig) -> &'static Frames<Host> {
    let machine = Machine::simple(8, 2).reserve(20 * MIB, 20 * MIB + 8 * 4096);
    let frames = machine.frames(config);
    online(frames, 2);
    frames
}

fn free_run(frames: &Frames<Host>, first: u64, count: u64) {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free_run(&pin(0), frame(first), count) }.unwrap();
}

fn configs() -> [FramesConfig; 2] {
    let plain = FramesConfig::without_reserve();
    [plain, FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..plain }]
}

#[test]
fn exactly_these_frames_are_taken() {
    for config in configs() {
        let frames = frames(&config);
        let at_first = frames.validate().unwrap();
        // In a whole block, across two, of one frame, of nearly a block.
        for (first, count) in [(START + 70, 100), (START + 500, 30), (START + 1040, 1), (START + 1536, 511)] {
            assert_eq!(frames.alloc_at(&pin(0), frame(first), count), Ok(()), "{first} {count}");
            let totals = frames.validate().unwrap();
            assert_eq!(totals.allocated, at_first.allocated + count);
            // Neither again, nor any run that touches it.
            for (other, length) in [(first, count), (first + count - 1, 2), (first - 1, 2)] {
                assert_eq!(
                    frames.alloc_at(&pin(0), frame(other), length),
                    Err(AllocAtError::NotFree(frame(other))),
                    "{other} {length} beside {first} {count}"
                );
            }
            assert_eq!(frames.validate().unwrap(), totals);
            free_run(frames, first, count);
            frames.drain(&pin(0));
            assert_eq!(frames.validate().unwrap(), at_first, "all blocks are whole again");
        }
    }
}

/// What is left is what nobody asked for at its address.
#[test]
fn others_get_the_rest() {
    for config in configs() {
        let frames = frames(&config);
        frames.alloc_at(&pin(0), frame(START + 100), 411).unwrap();
        let taken: Vec<u64> =
            std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok()).map(number).collect();
        assert_eq!(taken.len(), 8 * 256 - 8 - 411);
        assert!(taken.iter().all(|taken| !(START + 100..START + 511).contains(taken)));
        let first = *taken.iter().min().unwrap();
        assert_eq!(frames.alloc_at(&pin(0), frame(first), 1), Err(AllocAtError::NotFree(frame(first))));
    }
}

#[test]
fn frames_of_magazines_are_fetched() {
    let frames = frames(&FramesConfig::without_reserve());
    // A CPU's magazine takes whole words.
    for cpu in [0, 1] {
        let one = number(frames.alloc(&pin(cpu), &FrameRequest::frame()).unwrap());
        let other = one / 64 * 64 + (one + 7) % 64;
        let wanted = frame(other);
        if cpu == 1 {
            // Another CPU's: it has to drain first.
            assert_eq!(frames.alloc_at(&pin(0), wanted, 1), Err(AllocAtError::NotFree(wanted)));
            frames.service(&pin(1));
        }
        assert_eq!(frames.alloc_at(&pin(0), wanted, 1), Ok(()), "CPU {cpu}");
    }
    frames.validate().unwrap();
}

#[test]
fn impossible_runs_are_refused() {
    let frames = frames(&FramesConfig::without_reserve());
    let at_first = frames.validate().unwrap();
    let refused = |first: u64, count: u64| frames.alloc_at(&pin(0), frame(first), count).unwrap_err();
    assert_eq!(refused(START, 0), AllocAtError::Count(0));
    assert_eq!(refused(START, 512), AllocAtError::Count(512));
    let reserved = 20 * MIB / 4096;
    for first in [reserved, reserved - 3, START - 1, START + 8 * 256 - 3, 1 << 39] {
        assert_eq!(refused(first, 4), AllocAtError::OutOfRange(frame(first)));
    }
    assert_eq!(frames.validate().unwrap(), at_first);
}

/// CPU 1 has the only free frames in its magazine.
fn all_held_by_another() -> &'static Frames<Host> {
    let frames = frames(&FramesConfig::without_reserve());
    let held = frames.alloc(&pin(1), &FrameRequest::frame()).unwrap();
    let rest = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok()).count();
    assert!(rest > 1000, "{held:?}");
    let error = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap_err();
    assert!(matches!(error, AllocError::WouldBlock { why: Obstacle::Held, .. }), "{error}");
    frames
}

#[test]
fn a_waiting_request_has_others_drain() {
    let frames = all_held_by_another();
    let mut interrupted = Vec::new();
    let answer = frames.alloc_waiting(&FrameRequest::frame(), 10, |cpu| {
        interrupted.push(cpu.index());
        // In a kernel, the interrupt's handler on that CPU.
        frames.service(&pin(1));
    });
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(interrupted, [1]);
}

#[test]
fn a_waiting_request_ends() {
    let frames = all_held_by_another();
    let mut interrupts = 0;
    let answer = frames.alloc_waiting(&FrameRequest::frame(), 10, |_| interrupts += 1);
    assert!(matches!(answer, Err(AllocError::WouldBlock { why: Obstacle::Held, .. })), "{answer:?}");
    assert_eq!(interrupts, 1);
}

/// Without a CPU that could give frames back, there is nothing to wait for.
#[test]
fn an_exhausted_request_does_not_wait() {
    let frames = frames(&FramesConfig::without_reserve());
    while frames.alloc(&pin(0), &FrameRequest::frame()).is_ok() {}
    let answer = frames.alloc_waiting(&FrameRequest::frame(), u32::MAX, |_| panic!("nobody holds frames"));
    assert!(matches!(answer, Err(AllocError::Exhausted { .. })), "{answer:?}");
}
