//! The frame allocator under threads that play CPUs: nothing handed out twice, nothing lost.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, FramesConfig, ZeroedFrames};
use topomem_percpu::{Order, PhysFrame, Platform};

const THREADS: usize = if cfg!(miri) { 2 } else { 3 };

/// Who has which frame, one bit each.
struct Owners {
    words: Vec<AtomicU64>,
    twice: AtomicUsize,
}

impl Owners {
    fn new(frames: u64) -> Owners {
        let words = (0..frames.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Owners { words, twice: AtomicUsize::new(0) }
    }

    fn masks(first: u64, count: u64) -> impl Iterator<Item = (usize, u64)> {
        (first / 64..(first + count).div_ceil(64)).map(move |word| {
            let (from, to) = (first.max(word * 64), (first + count).min(word * 64 + 64));
            (word as usize, (u64::MAX >> (64 - (to - from))) << (from - word * 64))
        })
    }

    fn take(&self, first: u64, count: u64) {
        for (word, mask) in Owners::masks(first, count) {
            if self.words[word].fetch_or(mask, Ordering::Relaxed) & mask != 0 {
                self.twice.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn give(&self, first: u64, count: u64) {
        for (word, mask) in Owners::masks(first, count) {
            self.words[word].fetch_and(!mask, Ordering::Relaxed);
        }
    }
}

/// xorshift64*, seeded per thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn free(frames: &Frames<Host>, cpu: usize, first: PhysFrame, order: Order) {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(cpu), first, order) }.unwrap();
}

/// Each thread allocates and frees runs whose orders `pick` chooses.
fn churn(frames: &'static Frames<Host>, end: u64, rounds: usize, pick: impl Fn(&mut Random) -> u8 + Sync) {
    let total = frames.validate().unwrap();
    let owners = Owners::new(end);
    thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (owners, pick) = (&owners, &pick);
            scope.spawn(move || {
                let mut random = Random(0x9e37_79b9 * (cpu as u64 + 1));
                let mut held: Vec<(PhysFrame, Order)> = Vec::new();
                for _ in 0..rounds {
                    frames.service(&pin(cpu));
                    if random.below(100) < 55 {
                        let order = Order::new(pick(&mut random)).unwrap();
                        match frames.alloc(&pin(cpu), &FrameRequest::order(order)) {
                            Ok(first) => {
                                owners.take(number(first), order.frames());
                                held.push((first, order));
                            }
                            Err(AllocError::Exhausted { .. } | AllocError::WouldBlock { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    if random.below(100) < 50 && !held.is_empty() {
                        let at = random.below(held.len() as u64) as usize;
                        let (first, order) = held.swap_remove(at);
                        owners.give(number(first), order.frames());
                        free(frames, cpu, first, order);
                    }
                }
                for (first, order) in held {
                    owners.give(number(first), order.frames());
                    free(frames, cpu, first, order);
                }
                frames.drain(&pin(cpu));
            });
        }
    });
    assert_eq!(owners.twice.load(Ordering::Relaxed), 0, "frames handed out twice");
    assert_eq!(frames.validate().unwrap(), total);
}

#[test]
fn no_order_is_handed_out_twice() {
    for order in Order::all() {
        let rounds = if cfg!(miri) { 12 } else { 20_000 };
        if cfg!(miri) && ![0, 7, 9].contains(&order.get()) {
            continue;
        }
        // Little memory, so that threads meet; at least two runs, naturally aligned.
        let bytes = (order.bytes() * 2).max(4 * MIB);
        let start = bytes.max(16 * MIB);
        let frames = Machine::new(&[(start, start + bytes, 0)], &[0; THREADS])
            .frames(&FramesConfig::without_reserve());
        online(frames, THREADS);
        churn(frames, (start + bytes) / 4096, rounds, |_| order.get());
    }
}

#[test]
fn mixed_orders_split_and_merge_without_loss() {
    let rounds = if cfg!(miri) { 40 } else { 100_000 };
    let frames =
        Machine::simple(if cfg!(miri) { 4 } else { 16 }, THREADS).frames(&FramesConfig::without_reserve());
    online(frames, THREADS);
    churn(frames, 32 * 256, rounds, |random| match random.below(10) {
        0..=4 => 0,
        5..=7 => random.below(9) as u8,
        _ => 9 + random.below(2) as u8,
    });
}

#[test]
fn cpus_without_magazines_share() {
    let rounds = if cfg!(miri) { 40 } else { 20_000 };
    let frames = Machine::simple(4, THREADS).frames(&FramesConfig::without_reserve());
    churn(frames, 20 * 256, rounds, |random| random.below(10) as u8);
}

#[test]
fn zeroed_frames_are_zero_and_handed_out_once() {
    let rounds = if cfg!(miri) { 30 } else { 20_000 };
    let zeroed = ZeroedFrames::Frames(if cfg!(miri) { 8 } else { 64 });
    let frames =
        Machine::simple(2, THREADS).frames(&FramesConfig { zeroed, ..FramesConfig::without_reserve() });
    online(frames, THREADS);
    let owners = Owners::new(18 * 256);
    let dirty = AtomicUsize::new(0);
    thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (owners, dirty) = (&owners, &dirty);
            scope.spawn(move || {
                let mut random = Random(0x9e37_79b9 * (cpu as u64 + 1));
                let mut held: Vec<(PhysFrame, Order)> = Vec::new();
                for _ in 0..rounds {
                    frames.service(&pin(cpu));
                    frames.refill_zeroed(&pin(cpu), 2);
                    let order = Order::new(if random.below(20) == 0 { 8 } else { 0 }).unwrap();
                    let request = FrameRequest::order(order);
                    let request = if order == Order::FRAME { request.zeroed() } else { request };
                    if let Ok(first) = frames.alloc(&pin(cpu), &request) {
                        owners.take(number(first), order.frames());
                        let word = frames.platform().phys_to_virt(first.start_address()).cast::<u64>();
                        // SAFETY: the frame was handed to this thread, and to no other as judged
                        // by `owners`.
                        let found = unsafe { word.replace(u64::MAX) };
                        if order == Order::FRAME && found != 0 {
                            dirty.fetch_add(1, Ordering::Relaxed);
                        }
                        held.push((first, order));
                    }
                    if random.below(100) < 70 && !held.is_empty() {
                        let (first, order) = held.swap_remove(random.below(held.len() as u64) as usize);
                        owners.give(number(first), order.frames());
                        free(frames, cpu, first, order);
                    }
                }
                for (first, order) in held {
                    owners.give(number(first), order.frames());
                    free(frames, cpu, first, order);
                }
                frames.drain(&pin(cpu));
            });
        }
    });
    assert_eq!(owners.twice.load(Ordering::Relaxed), 0, "frames handed out twice");
    assert_eq!(dirty.load(Ordering::Relaxed), 0, "frames not zeroed");
    let stats = frames.stats(NodeId::ZERO).unwrap();
    assert!(cfg!(miri) || stats.zeroed.hits > 0);
    assert_eq!(stats.zeroed.doubles, 0);
    frames.drain_zeroed(NodeId::ZERO);
    assert_eq!(frames.validate().unwrap().free, 512);
}

#[test]
fn frames_freed_by_another_cpu_come_back() {
    let rounds = if cfg!(miri) { 70 } else { 50_000 };
    let frames = Machine::simple(8, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let (send, receive) = mpsc::sync_channel::<PhysFrame>(600);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            for first in receive {
                free(frames, 1, first, Order::FRAME);
                frames.service(&pin(1));
            }
            frames.drain(&pin(1));
            stop.store(true, Ordering::Release);
        });
        let mut sent = 0;
        while sent < rounds {
            match frames.alloc(&pin(0), &FrameRequest::frame()) {
                Ok(first) => {
                    send.send(first).unwrap();
                    sent += 1;
                }
                Err(AllocError::WouldBlock { .. }) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        drop(send);
    });
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap().free, 2048);
}

#[test]
fn the_last_frame_is_never_missed_while_blocks_change_hands() {
    // Two threads take and give whole blocks and halves; there is always a half free.
    let rounds = if cfg!(miri) { 20 } else { 50_000 };
    let frames = Machine::simple(6, 2).frames(&FramesConfig::without_reserve());
    let exhausted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for cpu in 0..2 {
            let exhausted = &exhausted;
            scope.spawn(move || {
                for round in 0..rounds {
                    let order = Order::new(if round % 2 == 0 { 8 } else { 9 }).unwrap();
                    match frames.alloc(&pin(cpu), &FrameRequest::order(order)) {
                        Ok(first) => free(frames, cpu, first, order),
                        Err(AllocError::WouldBlock { .. }) => {}
                        Err(_) => drop(exhausted.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
    });
    assert_eq!(exhausted.load(Ordering::Relaxed), 0);
    frames.validate().unwrap();
}

#[test]
fn nothing_is_free_outside_memory() {
    let frames = Machine::simple(4, 1).frames(&FramesConfig::without_reserve());
    assert_eq!(frames.node_of(frame(0)), None);
    assert_eq!(frames.node_of(frame(20 * 256)), None);
}
