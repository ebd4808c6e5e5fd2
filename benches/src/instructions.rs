//! What `valgrind --tool=callgrind` counts: bursts of pairs on one thread.
//!
//! Counting starts and stops with [`counted_bursts`] (`--toggle-collect`). Two runs that differ
//! only in their number of bursts give the instructions of one, exactly: whatever happens once
//! cancels out.

use std::hint::black_box;

use topomem_percpu::Order;

use crate::frames::FRAMES;
use crate::subject::Subject;

/// Frames in a burst.
pub const BURST: usize = 32;

/// Bursts before the count begins: caches and magazines are as in the middle of a long run.
const WARM_UP: usize = 100;

/// Runs `bursts` counted bursts on a fresh allocator.
pub fn run<S: Subject>(bursts: usize) {
    let subject = S::new(FRAMES, 1);
    let cpu = subject.cpu(0);
    if let Some(first) = subject.alloc(&cpu, Order::FRAME) {
        subject.free(&cpu, first, Order::FRAME);
        let mut held = [first; BURST];
        burst_loop(&subject, &cpu, &mut held, WARM_UP);
        counted_bursts(&subject, &cpu, &mut held, bursts);
    }
}

/// The function that is counted, with all that it calls.
#[inline(never)]
pub fn counted_bursts<S: Subject>(subject: &S, cpu: &S::Cpu, held: &mut [S::Frame; BURST], bursts: usize) {
    burst_loop(subject, cpu, held, bursts);
}

/// Each burst takes [`BURST`] frames into an array, then frees them in order. Beside the
/// allocator's work, a pair costs a test, a store, a load and a turn of each loop.
#[inline(always)]
fn burst_loop<S: Subject>(subject: &S, cpu: &S::Cpu, held: &mut [S::Frame; BURST], bursts: usize) {
    for _ in 0..bursts {
        for place in held.iter_mut() {
            match subject.alloc(cpu, Order::FRAME) {
                Some(frame) => *place = frame,
                None => panic!("{}: exhausted in a burst", S::NAME),
            }
        }
        for &frame in &*black_box(&mut *held) {
            subject.free(cpu, frame, Order::FRAME);
        }
    }
}
