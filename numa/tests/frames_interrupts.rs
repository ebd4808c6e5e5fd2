//! Contexts nested at any instruction: signals play interrupts, their handler allocates and frees
//! on the CPU that it interrupted.
#![cfg(all(unix, not(loom), not(miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use frames_support::{Host, Machine, cpu, frame, number, online, pin};
use topomem_numa::frames::{DoubleFrees, FrameRequest, Frames, FramesConfig};
use topomem_percpu::Order;

const MIB: u64 = 32;
const SIGNALS: usize = 40_000;
/// What the handler holds on to between its runs.
const KEPT: usize = 24;

static FRAMES: OnceLock<&'static Frames<Host>> = OnceLock::new();
/// Who has which frame, one bit each: the frames are those of the first 64 MiB.
static OWNED: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static TWICE: AtomicU64 = AtomicU64::new(0);
static HELD: [AtomicU64; KEPT] = [const { AtomicU64::new(0) }; KEPT];
static HANDLED: AtomicU64 = AtomicU64::new(0);

fn take(first: u64, order: Order) {
    for number in first..first + order.frames() {
        let bit = 1 << (number % 64);
        if OWNED[number as usize / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            TWICE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn give(first: u64, order: Order) {
    for number in first..first + order.frames() {
        OWNED[number as usize / 64].fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
    }
    // SAFETY: nobody uses the arena.
    let freed = unsafe { FRAMES.get().unwrap().free(&pin(0), frame(first), order) };
    if freed.is_err() {
        TWICE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Frees what it kept in one place and keeps something new there.
extern "C" fn interrupt(_: libc::c_int) {
    let frames = FRAMES.get().unwrap();
    let run = HANDLED.fetch_add(1, Ordering::Relaxed);
    for turn in 0..3 {
        let slot = &HELD[(run as usize * 7 + turn * 5) % KEPT];
        let kept = slot.swap(0, Ordering::Relaxed);
        if kept != 0 {
            give(kept >> 8, Order::new(kept as u8).unwrap());
        }
        let order = Order::new([0, 0, 0, 3, 9][(run as usize + turn) % 5]).unwrap();
        if let Ok(first) = frames.alloc(&pin(0), &FrameRequest::order(order)) {
            take(number(first), order);
            slot.store(number(first) << 8 | u64::from(order.get()), Ordering::Relaxed);
        }
    }
}

fn bombard(thread: libc::pthread_t, done: &AtomicBool) {
    for _ in 0..SIGNALS {
        // SAFETY: the thread is alive until it has seen `done`.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        let seen = HANDLED.load(Ordering::Relaxed);
        (0..50)
            .take_while(|_| HANDLED.load(Ordering::Relaxed) == seen)
            .for_each(|_| std::thread::yield_now());
    }
    done.store(true, Ordering::Release);
}

#[test]
fn interrupts_may_allocate_at_any_instruction() {
    let config = FramesConfig { double_frees: DoubleFrees::FoundLate, ..FramesConfig::default() };
    let frames = FRAMES.get_or_init(|| Machine::simple(MIB, 1).frames(&config));
    online(frames, 1);
    // SAFETY: the handler touches atomics and the allocator only, which is what is tested.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = interrupt as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    // SAFETY: no preconditions.
    let here = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    let mut held = Vec::with_capacity(700);
    std::thread::scope(|scope| {
        scope.spawn(|| bombard(here, &done));
        let mut round = 0_usize;
        while !done.load(Ordering::Acquire) {
            round += 1;
            for _ in 0..[5, 40, 600][round % 3] {
                if let Ok(first) = frames.alloc(&pin(0), &FrameRequest::frame()) {
                    take(number(first), Order::FRAME);
                    held.push(number(first));
                }
            }
            if round.is_multiple_of(4) {
                held.reverse();
            }
            held.drain(..).for_each(|first| give(first, Order::FRAME));
            if let Ok(block) = frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)) {
                take(number(block), Order::HUGE);
                give(number(block), Order::HUGE);
            }
        }
    });
    for slot in &HELD {
        let kept = slot.swap(0, Ordering::Relaxed);
        if kept != 0 {
            give(kept >> 8, Order::new(kept as u8).unwrap());
        }
    }
    let nested = frames.cpu_stats(cpu(0)).unwrap().nested;
    frames.drain(&pin(0));
    assert_eq!(TWICE.load(Ordering::Relaxed), 0, "frames handed out twice, or refused");
    assert_eq!(frames.validate().unwrap().free, MIB * 256);
    assert!(HANDLED.load(Ordering::Relaxed) > 1000, "hardly any signal came");
    assert!(nested > 0, "no signal met a magazine in use");
}
