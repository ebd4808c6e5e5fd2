//! The frame allocator against a plain model: a set of free frames.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use proptest::prelude::*;
use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, DoubleFrees, FrameRequest, Frames, FramesConfig, NodeSet, Policy, ResizeError, RetireError,
    Retired, ZeroedFrames,
};
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

fn apply(frames: &Frames<Host>, model: &mut Model, step: Step) {
    match step {
        Step::Alloc { cpu, order, node, zeroed, below } => {
            let order = Order::new(order).unwrap();
            let mut request = FrameRequest::order(order);
            if zeroed {
                request = request.zeroed();
            }
            if let Some(node) = node.and_then(NodeId::new) {
                request = request.policy(Policy::Bind(NodeSet::of(node)));
            }
            if let Some(below) = below {
                request = request.below(frame(below).start_address());
            }
            let fits = |end: u64| below.is_none_or(|below| end <= below);
            match frames.alloc(&pin(cpu), &request) {
                Ok(first) => {
                    assert_eq!(number(first) % order.frames(), 0);
                    assert!(fits(number(first) + order.frames()));
                    if let Some(node) = node {
                        assert_eq!(frames.node_of(first).unwrap().index(), node);
                    }
                    model.add(number(first), Kind::Aligned(order));
                    // The frames freed before were not.
                    assert!(!zeroed || is_zero(frames, first, order), "{first:?}");
                }
                Err(AllocError::WouldBlock { .. }) => {
                    // Then others hold something: once they drained, the answer is final.
                    (0..CPUS).for_each(|cpu| frames.service(&pin(cpu)));
                    match frames.alloc(&pin(cpu), &request) {
                        Ok(first) => {
                            assert!(fits(number(first) + order.frames()));
                            model.add(number(first), Kind::Aligned(order));
                        }
                        Err(error) => assert!(matches!(error, AllocError::Exhausted { .. }), "{error}"),
                    }
                }
                Err(AllocError::Exhausted { .. }) => {
                    // No aligned run of the order may be free of live frames.
                    let mut at = START.next_multiple_of(order.frames());
                    while at + order.frames() <= 26 * 256 {
                        let run = at..at + order.frames();
                        let node_fits = |number| {
                            node.is_none_or(|node| frames.node_of(frame(number)).unwrap().index() == node)
                        };
                        let same_node = frames.node_of(frame(at)) == frames.node_of(frame(run.end - 1));
                        let free = run.clone().all(managed) && !model.has_any(at, order.frames());
                        assert!(
                            !(free && same_node && node_fits(at) && fits(run.end)),
                            "{at:#x} order {} is free",
                            order.get()
                        );
                        at += order.frames();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        Step::Burst { cpu, count } => {
            let mut burst = vec![frame(0); count];
            if frames.alloc_bulk(&pin(cpu), &FrameRequest::frame(), &mut burst).is_ok() {
                burst.into_iter().for_each(|first| model.add(number(first), Kind::Aligned(Order::FRAME)));
            }
        }
        Step::Run { cpu, count, align, below } => {
            let align = 1 << align;
            let limit = frame(below.unwrap_or(1 << 30)).start_address();
            let request = FrameRequest::frame().below(limit);
            if let Ok(first) = frames.alloc_run(&pin(cpu), &request, count, align) {
                assert_eq!(number(first) % align, 0);
                assert!(frame(number(first) + count).start_address() <= limit);
                model.add(number(first), Kind::Run(count));
            }
        }
        Step::Free { cpu, pick } => {
            let Some((&first, &kind)) = model.live.iter().nth(pick % model.live.len().max(1)) else { return };
            model.live.remove(&first);
            give_back(frames, cpu, first, kind);
            model.settle();
        }
        Step::Resize { cpu, pick, count } => {
            let Some((&first, &kind)) = model.live.iter().nth(pick % model.live.len().max(1)) else { return };
            let (old, before) = (kind.frames(), frames.validate().unwrap());
            // SAFETY: nobody uses the arena.
            let resized = unsafe {
                if count > old {
                    frames.extend_run(&pin(cpu), frame(first), old, count)
                } else {
                    frames.shrink_run(&pin(cpu), frame(first), old, count)
                }
            };
            let inside = old.max(count) < 512 && first / 512 == (first + old.max(count) - 1) / 512;
            match resized {
                Ok(()) => {
                    assert!(inside && count != old);
                    model.live.remove(&first);
                    model.add(first, Kind::Run(count));
                }
                // A node's memory may end inside a block.
                Err(ResizeError::Length) => {
                    let node = |number| frames.node_of(frame(number));
                    let has_room =
                        (first..first + count).all(|number| managed(number) && node(number) == node(first));
                    assert!(!inside || count == old || !has_room, "{first:#x}: {old} to {count} frames");
                }
                Err(ResizeError::NotFree) => assert!(count > old),
                Err(error) => panic!("{error}"),
            }
            if resized.is_err() {
                assert_eq!(frames.validate().unwrap(), before);
            }
            model.settle();
        }
        Step::BadFree { cpu, at, order } => {
            let (first, order) = (START - 64 + at, Order::new(order).unwrap());
            if model.finds == DoubleFrees::FoundAtOnce {
                // Whatever is not exactly as handed out, wherever the frames are by now.
                if model.live.get(&first) != Some(&Kind::Aligned(order)) {
                    let before = frames.validate().unwrap();
                    // SAFETY: it must be refused.
                    let freed = unsafe { frames.free(&pin(cpu), frame(first), order) };
                    assert!(freed.is_err(), "{first:#x} order {}", order.get());
                    // SAFETY: as above.
                    let freed = unsafe { frames.free_run(&pin(cpu), frame(first), order.frames()) };
                    let run = Kind::Run(order.frames());
                    assert!(freed.is_err() || model.live.remove(&first) == Some(run), "{first:#x} {run:?}");
                    if freed.is_err() {
                        assert_eq!(frames.validate().unwrap(), before);
                    }
                }
                return;
            }
            // Only what no live run touches is surely wrong; other CPUs' magazines do not tell.
            (0..CPUS).filter(|&other| other != cpu).for_each(|other| {
                frames.drain(&pin(other));
            });
            // A request to drain is served by whatever the CPU does next, and is not its effect.
            frames.service(&pin(cpu));
            if !model.touches(first, order.frames()) {
                let before = frames.validate().unwrap();
                // SAFETY: it must be refused.
                let freed = unsafe { frames.free(&pin(cpu), frame(first), order) };
                assert!(freed.is_err(), "{first:#x} order {}", order.get());
                assert_eq!(frames.validate().unwrap(), before);
            }
        }
        Step::Retire { cpu, at } => retire(frames, model, cpu, START - 64 + at),
        Step::Service => {
            (0..CPUS).for_each(|cpu| frames.service(&pin(cpu)));
            model.retiring.values_mut().for_each(|answered| *answered = true);
            model.settle();
        }
        Step::Drain { cpu } => _ = frames.drain(&pin(cpu)),
        Step::Trim { cpu } => (0..64).for_each(|_| frames.trim(&pin(cpu))),
        Step::Refill { cpu, budget } => {
            let filled = frames.refill_zeroed(&pin(cpu), budget);
            assert!(filled <= budget.min(POOL as usize));
        }
        Step::DrainZeroed { node } => {
            let node = NodeId::new(node).unwrap();
            let held = frames.stats(node).unwrap().zeroed.frames;
            assert_eq!(frames.drain_zeroed(node), held);
        }
        Step::Offline { cpu } => {
            frames.cpu_offline(&pin(cpu));
            frames.validate().unwrap();
            frames.cpu_online(&pin(cpu)).unwrap();
        }
    }
}

fn retire(frames: &Frames<Host>, model: &mut Model, cpu: usize, number: u64) {
    let given = frame(number);
    let result = frames.retire(&pin(cpu), given);
    if model.retiring.contains_key(&number) {
        assert!(matches!(result, Err(RetireError::AlreadyRetired { frame, .. }) if frame == given));
        return;
    }
    if !managed(number) {
        let inside = (19 * 256..19 * 256 + 3).contains(&number);
        let wrong = if inside { RetireError::Reserved(given) } else { RetireError::OutOfRange(given) };
        assert_eq!(result, Err(wrong));
        return;
    }
    model.retiring.insert(number, false);
    match result.unwrap() {
        Retired::Now => {
            assert!(!model.touches(number, 1) && frames.is_retired(given));
            model.gone.insert(number);
        }
        Retired::WhenDrained => assert!(!model.touches(number, 1) && !frames.is_retired(given)),
        Retired::WhenFreed => assert!(model.touches(number, 1) && !frames.is_retired(given)),
    }
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
