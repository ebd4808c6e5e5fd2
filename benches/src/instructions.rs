//! What `valgrind --tool=callgrind` counts on one thread: bursts of pairs, and frees in random order.
//!
//! Counting of bursts starts and stops with [`counted_bursts`] (`--toggle-collect`). Two runs that differ
//! only in their number of bursts give the instructions of one, exactly: whatever happens once
//! cancels out.

use std::hint::black_box;

use topomem_percpu::Order;

use crate::frames::{BULK, FRAMES, LIST};
use crate::random::Random;
use crate::subject::Subject;

/// Runs in a burst.
pub const BURST: usize = 32;

/// Bursts before the count begins: caches and magazines are as in the middle of a long run.
const WARM_UP: usize = 100;

/// Runs of which order are counted. Each is compiled for itself, as callers know the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedOrder {
    /// Single frames.
    Order0,
    /// Single frames, on a CPU numbered 64: its magazine is not in the table itself.
    Order0FarCpu,
    /// 2 frames.
    Order1,
    /// 8 frames.
    Order3,
    /// 64 frames: a word.
    Order6,
    /// 256 frames: half a block.
    Order8,
}

/// Runs `bursts` counted bursts on a fresh allocator.
pub fn run<S: Subject>(order: CountedOrder, bursts: usize) {
    match order {
        CountedOrder::Order0 => run_of::<S, 0>(1, bursts),
        CountedOrder::Order0FarCpu => run_of::<S, 0>(65, bursts),
        CountedOrder::Order1 => run_of::<S, 1>(1, bursts),
        CountedOrder::Order3 => run_of::<S, 3>(1, bursts),
        CountedOrder::Order6 => run_of::<S, 6>(1, bursts),
        CountedOrder::Order8 => run_of::<S, 8>(1, bursts),
    }
}

fn run_of<S: Subject, const ORDER: u8>(cpus: usize, bursts: usize) {
    let subject = S::new(FRAMES, cpus);
    let cpu = subject.cpu(cpus - 1);
    let order = Order::new(ORDER).unwrap_or(Order::FRAME);
    if let Some(first) = subject.alloc(&cpu, order) {
        subject.free(&cpu, first, order);
        let mut held = [first; BURST];
        burst_loop::<S, ORDER>(&subject, &cpu, &mut held, WARM_UP);
        counted_bursts::<S, ORDER>(&subject, &cpu, &mut held, bursts);
    }
}

/// The function that is counted, with all that it calls.
#[inline(never)]
pub fn counted_bursts<S: Subject, const ORDER: u8>(
    subject: &S,
    cpu: &S::Cpu,
    held: &mut [S::Frame; BURST],
    bursts: usize,
) {
    burst_loop::<S, ORDER>(subject, cpu, held, bursts);
}

/// Each burst takes [`BURST`] runs into an array, then frees them in order. Beside the
/// allocator's work, a pair costs a test, a store, a load and a turn of each loop.
#[inline(always)]
fn burst_loop<S: Subject, const ORDER: u8>(
    subject: &S,
    cpu: &S::Cpu,
    held: &mut [S::Frame; BURST],
    bursts: usize,
) {
    let order = const {
        match Order::new(ORDER) {
            Some(order) => order,
            None => Order::FRAME,
        }
    };
    for _ in 0..bursts {
        for place in held.iter_mut() {
            match subject.alloc(cpu, order) {
                Some(frame) => *place = frame,
                None => panic!("{}: exhausted in a burst", S::NAME),
            }
        }
        for &frame in &*black_box(&mut *held) {
            subject.free(cpu, frame, order);
        }
    }
}

/// How a frame is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedFree {
    /// Alone.
    Single,
    /// With the others of a list of [`LIST`].
    List,
}

/// Allocates 1 GiB in single frames, and frees them shuffled: the frees are counted.
pub fn run_frees<S: Subject>(counted: CountedFree) {
    let subject = S::new(FRAMES, 1);
    let cpu = subject.cpu(0);
    let mut held: Vec<S::Frame> = (0..BULK).filter_map(|_| subject.alloc(&cpu, Order::FRAME)).collect();
    assert_eq!(held.len(), BULK, "{}: exhausted", S::NAME);
    Random::new(0).shuffle(&mut held);
    match counted {
        CountedFree::Single => counted_frees(&subject, &cpu, &held),
        CountedFree::List => counted_frees_of_lists(&subject, &cpu, &held),
    }
}

/// The function that is counted, with all that it calls. Beside the allocator's work, a free costs a load and a turn
/// of the loop.
#[inline(never)]
pub fn counted_frees<S: Subject>(subject: &S, cpu: &S::Cpu, held: &[S::Frame]) {
    for &frame in held {
        subject.free(cpu, frame, Order::FRAME);
    }
}

/// As [`counted_frees`], in lists.
#[inline(never)]
pub fn counted_frees_of_lists<S: Subject>(subject: &S, cpu: &S::Cpu, held: &[S::Frame]) {
    held.chunks(LIST).for_each(|list| subject.free_list(cpu, list));
}
