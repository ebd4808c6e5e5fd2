//! The frame allocator against a plain model: a set of free frames.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod apply;
#[path = "../frames_support/mod.rs"]
mod frames_support;

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

use apply::apply;
use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use proptest::prelude::*;
use topomem_numa::NodeId;
use topomem_numa::frames::{DoubleFrees, Frames, FramesConfig, ZeroedFrames};
use topomem_percpu::{Order, PhysFrame, Platform};

const CPUS: usize = 3;
/// Frames that each node keeps zeroed.
const POOL: u16 = 60;

#[derive(Debug, Clone)]
enum Step {
    Alloc {
        cpu: usize,
        order: u8,
        node: Option<usize>,
        zeroed: bool,
        /// The number of a frame.
        below: Option<u64>,
    },
    Burst {
        cpu: usize,
        count: usize,
    },
    Run {
        cpu: usize,
        count: u64,
        align: u8,
        below: Option<u64>,
    },
    /// Frees one of the live runs.
    Free {
        cpu: usize,
        pick: usize,
    },
    /// Makes one of the live runs longer or shorter where it is.
    Resize {
        cpu: usize,
        pick: usize,
        count: u64,
    },
    /// Frees something arbitrary, which the model judges.
    BadFree {
        cpu: usize,
        at: u64,
        order: u8,
    },
    Drain {
        cpu: usize,
    },
    Trim {
        cpu: usize,
    },
    /// Zeroes frames ahead.
    Refill {
        cpu: usize,
        budget: usize,
    },
    DrainZeroed {
        node: usize,
    },
    Offline {
        cpu: usize,
    },
    Retire {
        cpu: usize,
        at: u64,
    },
    /// Every CPU answers requests to drain.
    Service,
}

fn step() -> impl Strategy<Value = Step> {
    let cpu = || 0..CPUS;
    let below = || proptest::option::weighted(0.3, START..27 * 256);
    prop_oneof![
        4 => (cpu(), 0_u8..11, proptest::option::of(0_usize..2), below())
            .prop_map(|(cpu, order, node, below)| Step::Alloc { cpu, order, node, zeroed: false, below }),
        3 => (cpu(), 0_u8..2, proptest::option::of(0_usize..2), below())
            .prop_map(|(cpu, order, node, below)| Step::Alloc { cpu, order, node, zeroed: true, below }),
        3 => (cpu(), 1_usize..200).prop_map(|(cpu, count)| Step::Burst { cpu, count }),
        1 => (cpu(), 1_u64..1500, 0_u8..10, below())
            .prop_map(|(cpu, count, align, below)| Step::Run { cpu, count, align, below }),
        8 => (cpu(), any::<usize>()).prop_map(|(cpu, pick)| Step::Free { cpu, pick }),
        3 => (cpu(), any::<usize>(), prop_oneof![1_u64..20, 1_u64..600])
            .prop_map(|(cpu, pick, count)| Step::Resize { cpu, pick, count }),
        2 => (cpu(), 0_u64..4096, 0_u8..12).prop_map(|(cpu, at, order)| Step::BadFree { cpu, at, order }),
        1 => cpu().prop_map(|cpu| Step::Drain { cpu }),
        1 => cpu().prop_map(|cpu| Step::Trim { cpu }),
        3 => (cpu(), 0_usize..100).prop_map(|(cpu, budget)| Step::Refill { cpu, budget }),
        1 => (0_usize..2).prop_map(|node| Step::DrainZeroed { node }),
        1 => cpu().prop_map(|cpu| Step::Offline { cpu }),
        1 => (cpu(), 0_u64..2700).prop_map(|(cpu, at)| Step::Retire { cpu, at }),
        1 => Just(Step::Service),
    ]
}

/// How a live run was allocated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Aligned(Order),
    Run(u64),
}

impl Kind {
    fn frames(self) -> u64 {
        match self {
            Kind::Aligned(order) => order.frames(),
            Kind::Run(count) => count,
        }
    }
}

/// Live runs by first frame.
#[derive(Default)]
struct Model {
    live: BTreeMap<u64, Kind>,
    managed: u64,
    finds: DoubleFrees,
    /// Frames given to `retire`. True: every CPU has answered since, so a free retires it.
    retiring: BTreeMap<u64, bool>,
    /// Those that must not be seen again.
    gone: BTreeSet<u64>,
}

impl Model {
    /// Adds a run, which must be managed and disjoint from all live ones.
    fn add(&mut self, first: u64, kind: Kind) {
        let end = first + kind.frames();
        assert!(managed(first) && managed(end - 1), "{first:#x}..{end:#x} is not managed");
        if let Some((&before, &other)) = self.live.range(..end).next_back() {
            assert!(before + other.frames() <= first, "{first:#x} overlaps {before:#x} {other:?}");
        }
        assert_eq!(self.gone.range(first..end).next(), None, "{first:#x} {kind:?} has a retired frame");
        self.live.insert(first, kind);
    }

    fn allocated(&self) -> u64 {
        self.live.values().map(|kind| kind.frames()).sum()
    }

    /// Every CPU has answered, or one run was freed.
    fn settle(&mut self) {
        let live: Vec<u64> =
            self.retiring.keys().copied().filter(|&number| self.touches(number, 1)).collect();
        let answered = self.retiring.iter().filter(|&(number, answered)| *answered && !live.contains(number));
        self.gone.extend(answered.map(|(number, _)| number));
    }

    /// Is any of these frames part of a live run, or to retire?
    fn has_any(&self, first: u64, count: u64) -> bool {
        self.touches(first, count) || self.retiring.range(first..first + count).next().is_some()
    }

    /// Is any of these frames part of a live run?
    fn touches(&self, first: u64, count: u64) -> bool {
        let before = self.live.range(..first + count).next_back();
        before.is_some_and(|(&start, kind)| start + kind.frames() > first)
    }
}

const START: u64 = 16 * 256;

/// Node 0: 16..22 MiB and 1 page, with a hole; node 1: up to 26 MiB.
fn machine() -> Machine {
    let cut = 22 * MIB + 0x1000;
    Machine::new(&[(16 * MIB, cut, 0), (cut, 26 * MIB, 1)], &[0, 0, 1]).reserve(19 * MIB, 19 * MIB + 0x3000)
}

fn managed(number: u64) -> bool {
    (START..26 * 256).contains(&number) && !(19 * 256..19 * 256 + 3).contains(&number)
}

/// A word of the arena, at the start of a frame.
fn word(frames: &Frames<Host>, first: u64) -> NonNull<u64> {
    frames.platform().phys_to_virt(frame(first).start_address()).cast()
}

fn is_zero(frames: &Frames<Host>, first: PhysFrame, order: Order) -> bool {
    let words = word(frames, number(first));
    // SAFETY: inside the arena, which only this thread uses.
    (0..order.frames() as usize * 512).step_by(64).all(|at| unsafe { words.add(at).read() } == 0)
}

/// Gives back a run with something in its frames.
fn give_back(frames: &Frames<Host>, cpu: usize, first: u64, kind: Kind) {
    for number in first..first + kind.frames() {
        // SAFETY: inside the arena, which only this thread uses.
        unsafe { word(frames, number).write(number) };
    }
    let freed = match kind {
        // SAFETY: nobody uses the arena.
        Kind::Aligned(order) => unsafe { frames.free(&pin(cpu), frame(first), order) },
        // SAFETY: as above.
        Kind::Run(count) => unsafe { frames.free_run(&pin(cpu), frame(first), count) },
    };
    freed.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "a random search; the other tests run the same unsafe code")]
    fn agrees_with_a_set(
        finds in prop_oneof![Just(DoubleFrees::FoundLate), Just(DoubleFrees::FoundAtOnce)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let zeroed = ZeroedFrames::Frames(POOL);
        let config = FramesConfig { double_frees: finds, zeroed, ..FramesConfig::without_reserve() };
        let frames = machine().frames(&config);
        online(frames, CPUS);
        let mut model = Model { managed: 10 * 256 - 3, finds, ..Model::default() };
        for step in steps {
            apply(frames, &mut model, step);
            let totals = frames.validate().unwrap();
            prop_assert_eq!(totals.allocated, model.allocated());
            let in_caches = totals.in_magazines + totals.zeroed;
            let all = totals.free + in_caches + totals.allocated + totals.retired;
            prop_assert_eq!(all, model.managed);
            prop_assert!(model.gone.iter().all(|&number| frames.is_retired(frame(number))));
            prop_assert!((model.gone.len()..=model.retiring.len()).contains(&(totals.retired as usize)));
        }
        // Everything back: all blocks whole again.
        for (first, kind) in core::mem::take(&mut model.live) {
            give_back(frames, 0, first, kind);
        }
        for cpu in 0..CPUS {
            frames.drain(&pin(cpu));
        }
        for node in (0..2).filter_map(NodeId::new) {
            frames.drain_zeroed(node);
        }
        let totals = frames.validate().unwrap();
        prop_assert_eq!(totals.retired, model.retiring.len() as u64);
        prop_assert_eq!(totals.free, model.managed - totals.retired);
        prop_assert_eq!(frames.retired().count(), model.retiring.len());
    }
}
