//! What the stepped suites share: runs that are held, and a scene with two nodes and three CPUs.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, FramesConfig, NodeSet, Policy};
use topomem_percpu::{Order, PhysFrame};

use crate::frames_support::{Host, MIB, Machine, end, frame, number, online, pin};

/// A run of frames that somebody holds, and how to give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: PhysFrame,
    pub(crate) frames: u64,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Allocated by order.
    Ordered,
    /// Allocated by [`Frames::alloc_run`].
    Contiguous,
}

impl Run {
    pub(crate) fn ordered(first: PhysFrame, order: Order) -> Run {
        Run { first, frames: order.frames(), kind: Kind::Ordered }
    }

    pub(crate) fn contiguous(first: PhysFrame, frames: u64) -> Run {
        Run { first, frames, kind: Kind::Contiguous }
    }

    fn numbers(self) -> std::ops::Range<u64> {
        number(self.first)..number(self.first) + self.frames
    }
}

/// Runs that are held, in a fixed place: nothing is allocated on the host while it is stopped.
pub(crate) struct Held {
    slots: [AtomicU64; 256],
    count: AtomicUsize,
}

impl Default for Held {
    fn default() -> Held {
        Held { slots: [const { AtomicU64::new(0) }; 256], count: AtomicUsize::new(0) }
    }
}

impl Held {
    pub(crate) fn push(&self, run: Run) {
        let count = self.count.load(Relaxed);
        let word = number(run.first) << 32 | run.frames << 1 | u64::from(run.kind == Kind::Contiguous);
        self.slots[count].store(word, Relaxed);
        self.count.store(count + 1, Relaxed);
    }

    pub(crate) fn pop(&self) -> Option<Run> {
        let count = self.count.load(Relaxed).checked_sub(1)?;
        self.count.store(count, Relaxed);
        Some(decode(self.slots[count].load(Relaxed)))
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> {
        self.slots[..self.count.load(Relaxed)].iter().map(|slot| decode(slot.load(Relaxed)))
    }
}

fn decode(word: u64) -> Run {
    let kind = if word & 1 == 0 { Kind::Ordered } else { Kind::Contiguous };
    Run { first: frame(word >> 32), frames: (word as u32 >> 1).into(), kind }
}

/// A machine with CPUs 0 and 1 on node 0, and CPU 2 on node 1.
pub(crate) struct Scene {
    pub(crate) frames: &'static Frames<Host>,
    /// What the operation allocated.
    pub(crate) ours: Held,
    /// What the operation is to free.
    pub(crate) ready: Held,
    /// What the context allocated.
    pub(crate) theirs: Held,
    /// What the context may free: neighbours of what the operation frees.
    pub(crate) spare: Held,
    /// The next frame to retire.
    pub(crate) bad: AtomicU64,
    managed: u64,
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn request(level: u8) -> FrameRequest {
    FrameRequest::order(order(level))
}

pub(crate) fn bound(node: usize) -> FrameRequest {
    FrameRequest::frame().policy(Policy::Bind(NodeSet::of(NodeId::new(node).unwrap())))
}

impl Drop for Scene {
    fn drop(&mut self) {
        // SAFETY: operations and contexts get the scene by reference, and keep nothing of it.
        unsafe { end(self.frames) };
    }
}

impl Scene {
    /// 16 MiB on node 0, and 8 MiB on node 1.
    pub(crate) fn new(config: &FramesConfig) -> Scene {
        Scene::on(&[(16 * MIB, 32 * MIB, 0), (32 * MIB, 40 * MIB, 1)], config)
    }

    /// Ranges of memory: start, end, node.
    pub(crate) fn on(ranges: &[(u64, u64, usize)], config: &FramesConfig) -> Scene {
        let frames = Machine::new(ranges, &[0, 0, 1]).frames(config);
        online(frames, 3);
        Scene {
            frames,
            ours: Held::default(),
            ready: Held::default(),
            theirs: Held::default(),
            spare: Held::default(),
            bad: AtomicU64::new(16 * MIB / 4096),
            managed: frames.validate().unwrap().free,
        }
    }

    /// Allocates into `held`; everything asked for here is free throughout.
    pub(crate) fn take(&self, cpu: usize, request: &FrameRequest, held: &Held) {
        match self.frames.alloc(&pin(cpu), request) {
            Ok(first) => held.push(Run::ordered(first, request.get_order())),
            // A block is changing hands.
            Err(AllocError::WouldBlock { .. }) if request.get_order() >= Order::HUGE => {}
            Err(error) => panic!("while enough is free: {error:?}"),
        }
    }

    /// Frees the newest run of `held`, if there is one.
    pub(crate) fn give(&self, cpu: usize, held: &Held) {
        let Some(run) = held.pop() else { return };
        // SAFETY: it was allocated and nobody uses the arena.
        let freed = unsafe {
            match run.kind {
                Kind::Ordered => {
                    let order = Order::new(run.frames.trailing_zeros() as u8).unwrap();
                    self.frames.free(&pin(cpu), run.first, order)
                }
                Kind::Contiguous => self.frames.free_run(&pin(cpu), run.first, run.frames),
            }
        };
        assert_eq!(freed, Ok(()), "{run:?}");
    }

    /// Eight frames of one word for operation and context to free, alternating.
    pub(crate) fn share_a_word(&self) {
        let mut all: [PhysFrame; 8] =
            std::array::from_fn(|_| self.frames.alloc(&pin(0), &FrameRequest::frame()).unwrap());
        all.sort();
        for (index, first) in all.into_iter().enumerate() {
            let held = if index % 2 == 0 { &self.ready } else { &self.spare };
            held.push(Run::ordered(first, Order::FRAME));
        }
    }

    /// Sends everything that CPUs keep home.
    pub(crate) fn drain(&self) {
        for cpu in 0..3 {
            self.frames.drain(&pin(cpu));
        }
        for node in 0..2 {
            self.frames.drain_zeroed(NodeId::new(node).unwrap());
        }
    }

    /// Checks that nobody has what somebody else has, frees everything, and checks that all is there.
    pub(crate) fn settle(&self) {
        let everyone = [&self.ours, &self.ready, &self.theirs, &self.spare];
        let mut runs: Vec<Run> = everyone.into_iter().flat_map(Held::runs).collect();
        runs.sort_by_key(|run| run.first);
        for pair in runs.windows(2) {
            assert!(pair[0].numbers().end <= pair[1].numbers().start, "handed out twice: {pair:?}");
        }
        for held in everyone {
            while held.count.load(Relaxed) > 0 {
                self.give(1, held);
            }
        }
        for cpu in 0..3 {
            self.frames.cpu_online(&pin(cpu)).unwrap();
        }
        self.drain();
        let totals = self.frames.validate().unwrap();
        let retired = self.frames.retired().count() as u64;
        let found = (totals.free, totals.retired, totals.allocated, totals.in_magazines, totals.zeroed);
        assert_eq!(found, (self.managed - retired, retired, 0, 0, 0), "{totals:?}");
    }
}
