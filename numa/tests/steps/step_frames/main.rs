//! Every operation of the frame allocator, stopped after each of its instructions while another
//! context of the CPU, or another CPU, uses the allocator. Memory is plenty: whatever is asked for
//! is had, nobody gets what somebody has, and in the end all of it is there.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../../frames/frames_support/mod.rs"]
mod frames_support;
mod modes;
#[path = "../step_support/mod.rs"]
mod step_support;

use std::sync::atomic::Ordering::Relaxed;

use frames_support::{MIB, frame, pin};
use step_support::{Held, Kind, Run, Scene, bound, request};
use topomem_numa::NodeId;
use topomem_numa::frames::{FrameRequest, FramesConfig, ResizeError, ZeroedFrames};
use topomem_percpu::{Order, PhysAddr};
use topomem_stepper::{Context, Matrix, Operation, Plan, Trace};

const ONE: FrameRequest = FrameRequest::frame();

/// An operation of CPU 0. Everything goes home after it.
const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

const NOTHING: fn(&Scene) = |_| {};

/// The magazine has frames, some of whose word are in use.
const WARM: fn(&Scene) = Scene::share_a_word;

/// The same, and the magazine is empty.
const COLD: fn(&Scene) = |scene| {
    scene.share_a_word();
    scene.drain();
};

/// Something of `LEVEL` is allocated.
fn holds<const LEVEL: u8>(scene: &Scene) {
    scene.take(0, &request(LEVEL), &scene.ready);
}

fn alloc<const LEVEL: u8>(scene: &Scene) {
    scene.take(0, &request(LEVEL), &scene.ours);
}

fn free(scene: &Scene) {
    scene.give(0, &scene.ready);
}

fn run_of<const FRAMES: u64>(scene: &Scene, held: &Held) {
    let first = scene.frames.alloc_run(&pin(0), &ONE, FRAMES, 1).unwrap();
    held.push(Run::contiguous(first, FRAMES));
}

/// Makes the run of the operation one of `FRAMES` frames, if what is behind it is free.
fn resize<const FRAMES: u64>(scene: &Scene) {
    let run = scene.ready.pop().unwrap();
    // SAFETY: the run is held, and nobody uses the arena.
    let resized = unsafe {
        if run.frames < FRAMES {
            scene.frames.extend_run(&pin(0), run.first, run.frames, FRAMES)
        } else {
            scene.frames.shrink_run(&pin(0), run.first, run.frames, FRAMES)
        }
    };
    match resized {
        Ok(()) => scene.ours.push(Run::contiguous(run.first, FRAMES)),
        Err(ResizeError::NotFree) => scene.ours.push(run),
        Err(error) => panic!("{error}"),
    }
}

fn retire_next(scene: &Scene) {
    let bad = scene.bad.load(Relaxed);
    scene.frames.retire(&pin(0), frame(bad)).unwrap();
}

const ALLOCATIONS: &[Operation<Scene>] = &[
    operation("alloc order 0, a hit", WARM, alloc::<0>),
    operation("alloc order 0, a refill", COLD, alloc::<0>),
    operation("alloc order 0, a new block", NOTHING, alloc::<0>),
    operation("alloc order 3", NOTHING, alloc::<3>),
    operation("alloc order 6", WARM, alloc::<6>),
    operation("alloc order 8", NOTHING, alloc::<8>),
    operation("alloc order 9", NOTHING, alloc::<9>),
    operation(
        "alloc order 9, a hit",
        |scene| {
            holds::<9>(scene);
            free(scene);
        },
        alloc::<9>,
    ),
    operation("alloc order 10", NOTHING, alloc::<10>),
    operation("alloc_bulk", WARM, |scene| {
        let mut places = [frame(0); 6];
        scene.frames.alloc_bulk(&pin(0), &ONE, &mut places).unwrap();
        places.into_iter().for_each(|first| scene.ours.push(Run::ordered(first, Order::FRAME)));
    }),
    operation("alloc_run of 5", WARM, |scene| run_of::<5>(scene, &scene.ours)),
    operation("alloc_run of 513", NOTHING, |scene| run_of::<513>(scene, &scene.ours)),
    operation("extend_run by 65", |scene| run_of::<5>(scene, &scene.ready), resize::<70>),
    operation("shrink_run by 65", |scene| run_of::<70>(scene, &scene.ready), resize::<5>),
    operation("alloc below a limit", WARM, |scene| {
        scene.take(0, &ONE.below(PhysAddr::new(20 * MIB - 4096)), &scene.ours);
    }),
    operation("alloc bound to another node", WARM, |scene| scene.take(0, &bound(1), &scene.ours)),
    operation("alloc zeroed", WARM, |scene| scene.take(0, &ONE.zeroed(), &scene.ours)),
    operation(
        "alloc zeroed, from the pool",
        |scene| _ = scene.frames.refill_zeroed(&pin(0), 4),
        |scene| scene.take(0, &ONE.zeroed(), &scene.ours),
    ),
    operation("alloc_owned and drop", WARM, |scene| drop(scene.frames.alloc_owned(&ONE).unwrap())),
];

const FREES: &[Operation<Scene>] = &[
    operation("free order 0, a hit", WARM, free),
    operation("free order 0, straight home", COLD, free),
    operation("free order 0, gathered", COLD, |scene| (0..3).for_each(|_| free(scene))),
    operation("free order 3", holds::<3>, free),
    operation("free order 6", holds::<6>, free),
    operation("free order 8", holds::<8>, free),
    operation("free order 9", holds::<9>, free),
    operation("free order 10", holds::<10>, free),
    operation(
        "free order 0 of another node",
        |scene| scene.take(2, &bound(1), &scene.ready),
        |scene| scene.give(0, &scene.ready),
    ),
    operation("free_run of 5", |scene| run_of::<5>(scene, &scene.ready), free),
    operation("free_run of 513", |scene| run_of::<513>(scene, &scene.ready), free),
    operation("free_bulk", WARM, |scene| {
        let places = [(); 3].map(|()| scene.ready.pop().unwrap().first);
        // SAFETY: they are allocated, and nobody uses the arena.
        unsafe { scene.frames.free_bulk(&pin(0), &places) }.unwrap();
    }),
    operation(
        "free of a block's last frame",
        |scene| {
            scene.take(0, &ONE, &scene.ready);
            scene.drain();
        },
        free,
    ),
];

const KEEPING: &[Operation<Scene>] = &[
    operation("drain", WARM, |scene| _ = scene.frames.drain(&pin(0))),
    operation(
        "drain of a block",
        |scene| {
            holds::<9>(scene);
            free(scene);
        },
        |scene| _ = scene.frames.drain(&pin(0)),
    ),
    operation(
        "service, asked to drain",
        |scene| {
            scene.share_a_word();
            scene.frames.request_drain(pin(0).cpu());
        },
        |scene| scene.frames.service(&pin(0)),
    ),
    operation("service, asked for nothing", WARM, |scene| scene.frames.service(&pin(0))),
    operation(
        "trim that looks",
        |scene| {
            scene.share_a_word();
            (0..63).for_each(|_| scene.frames.trim(&pin(0)));
        },
        |scene| scene.frames.trim(&pin(0)),
    ),
    operation("request_drain", WARM, |scene| scene.frames.request_drain(pin(1).cpu())),
    operation("cpu_offline", WARM, |scene| _ = scene.frames.cpu_offline(&pin(0))),
    operation(
        "cpu_online",
        |scene| {
            scene.share_a_word();
            scene.frames.cpu_offline(&pin(0));
        },
        |scene| scene.frames.cpu_online(&pin(0)).unwrap(),
    ),
    operation("refill_zeroed", WARM, |scene| _ = scene.frames.refill_zeroed(&pin(0), 2)),
    operation(
        "drain_zeroed",
        |scene| _ = scene.frames.refill_zeroed(&pin(0), 4),
        |scene| _ = scene.frames.drain_zeroed(NodeId::ZERO),
    ),
    operation("stats", WARM, |scene| _ = scene.frames.stats(NodeId::ZERO)),
];

/// A retired frame stays away, so each of these takes another frame, and soon another scene.
const RETIREMENTS: &[Operation<Scene>] = &[
    operation(
        "retire a free frame of a free block",
        |scene| _ = scene.bad.fetch_add(37, Relaxed),
        retire_next,
    ),
    operation(
        "retire an allocated frame",
        |scene| {
            scene.share_a_word();
            scene.bad.store(frames_support::number(scene.ready.runs().last().unwrap().first), Relaxed);
        },
        retire_next,
    ),
    operation(
        "retire a frame in the magazine",
        |scene| {
            scene.share_a_word();
            let run = scene.ready.runs().last().unwrap();
            scene.give(0, &scene.ready);
            scene.bad.store(frames_support::number(run.first), Relaxed);
        },
        retire_next,
    ),
    operation(
        "retire a frame of an allocated block",
        |scene| {
            holds::<9>(scene);
            scene.bad.store(frames_support::number(scene.ready.runs().next().unwrap().first) + 77, Relaxed);
        },
        retire_next,
    ),
    operation(
        "free of a frame to retire",
        |scene| {
            scene.share_a_word();
            let bad = scene.ready.runs().last().unwrap().first;
            scene.frames.retire(&pin(0), bad).unwrap();
        },
        free,
    ),
];

/// Frames in numbers that fill and empty magazines, and blocks between them.
const COURSES: &[Operation<Scene>] = &[operation("a long course", NOTHING, |scene| {
    for count in [5, 70, 40] {
        (0..count).for_each(|_| alloc::<0>(scene));
        alloc::<9>(scene);
        (0..count + 1).for_each(|_| scene.give(0, &scene.ours));
    }
})];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: NOTHING }
}

/// Allocates a frame and frees it, as most handlers do.
fn brief<const CPU: usize>(scene: &Scene) {
    scene.take(CPU, &ONE, &scene.theirs);
    scene.give(CPU, &scene.theirs);
}

/// Frees neighbours of what the operation has, and keeps frames of several sizes.
fn busy<const CPU: usize>(scene: &Scene) {
    scene.give(CPU, &scene.spare);
    for level in [0, 3, 9, 0, 6] {
        scene.take(CPU, &request(level), &scene.theirs);
    }
    scene.give(CPU, &scene.spare);
    scene.give(CPU, &scene.theirs);
    scene.give(CPU, &scene.spare);
    scene.take(CPU, &ONE.zeroed(), &scene.theirs);
}

/// Sends home what there is, and asks others to do so.
fn draining<const CPU: usize>(scene: &Scene) {
    scene.frames.drain(&pin(CPU));
    scene.frames.drain_zeroed(NodeId::ZERO);
    (0..3).for_each(|cpu| scene.frames.request_drain(pin(cpu).cpu()));
    scene.frames.service(&pin(CPU));
    scene.frames.trim(&pin(CPU));
}

const CONTEXTS: &[Context<Scene>] = &[
    context("an interrupt: a frame for a moment", brief::<0>),
    context("an interrupt: frames and blocks", busy::<0>),
    context("an interrupt: drains", draining::<0>),
    context("another CPU: a frame for a moment", brief::<1>),
    context("another CPU: frames and blocks", busy::<1>),
    context("another CPU: drains", draining::<1>),
    context("another CPU: zeroed frames", |scene| {
        scene.frames.refill_zeroed(&pin(1), 2);
        scene.take(1, &ONE.zeroed(), &scene.theirs);
    }),
    context("another CPU goes and comes", |scene| {
        scene.take(1, &ONE, &scene.theirs);
        scene.frames.cpu_offline(&pin(1));
        scene.give(1, &scene.theirs);
        scene.frames.cpu_online(&pin(1)).unwrap();
    }),
    context("a CPU of another node", |scene| {
        scene.give(2, &scene.spare);
        scene.take(2, &bound(0), &scene.theirs);
        scene.take(2, &ONE, &scene.theirs);
        scene.give(2, &scene.spare);
    }),
    context("another CPU: a run", |scene| {
        let first = scene.frames.alloc_run(&pin(1), &ONE, 70, 1).unwrap();
        scene.theirs.push(Run { first, frames: 70, kind: Kind::Contiguous });
    }),
];

const RETIRING: &[Context<Scene>] = &[
    context("an interrupt retires a neighbour", |scene| {
        let bad = scene.spare.runs().next().map(|run| run.first);
        scene.frames.retire(&pin(0), bad.unwrap_or(frame(20 * 256 + 5))).unwrap();
    }),
    context("another CPU retires a neighbour", |scene| {
        let bad = scene.spare.runs().next().map(|run| run.first);
        scene.frames.retire(&pin(1), bad.unwrap_or(frame(20 * 256 + 5))).unwrap();
    }),
];

const PLAN: Plan = Plan::traps(20_000);

fn plain() -> Scene {
    Scene::new(&FramesConfig { zeroed: ZeroedFrames::Frames(8), ..FramesConfig::without_reserve() })
}

fn explore(name: &str, scene: fn() -> Scene, operations: &[Operation<Scene>], contexts: &[Context<Scene>]) {
    Matrix { name, scene, operations, contexts, check: |_| {}, plan: PLAN, renew: None }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn allocations() {
    explore("frames: allocations", plain, ALLOCATIONS, CONTEXTS);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn frees() {
    explore("frames: frees", plain, FREES, CONTEXTS);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn what_cpus_keep() {
    explore("frames: caches", plain, KEEPING, CONTEXTS);
}

/// Bad frames leave circulation for good: a scene bears a few dozen of them.
fn explore_retiring(name: &str, operations: &[Operation<Scene>], contexts: &[Context<Scene>], renew: u64) {
    let plan = Plan::traps(15_000);
    Matrix { name, scene: plain, operations, contexts, check: |_| {}, plan, renew: Some(renew) }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn retirements() {
    explore_retiring("frames: retirements", RETIREMENTS, CONTEXTS, 4);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn retirements_meanwhile() {
    let meanwhile = [ALLOCATIONS, FREES, KEEPING];
    for (name, operations) in ["allocations", "frees", "caches"].into_iter().zip(meanwhile) {
        explore_retiring(&format!("frames: {name} beside retirements"), operations, RETIRING, 1);
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn long_courses() {
    let plan = Plan::traps(60_000);
    let (operations, contexts) = (COURSES, CONTEXTS);
    Matrix { name: "frames: courses", scene: plain, operations, contexts, check: |_| {}, plan, renew: None }
        .explore();
}

/// An interrupt in the middle of a hit finds the magazine in use, and is served all the same.
#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn interrupts_meet_magazines_in_use() {
    let scene = plain();
    scene.share_a_word();
    let mut hit = Trace::of(|| {
        alloc::<0>(&scene);
        scene.give(0, &scene.ours);
    });
    let nested = || scene.frames.cpu_stats(pin(0).cpu()).unwrap().nested;
    let before = nested();
    for at in 0..hit.len() {
        assert!(hit.stop_after(at, |_| brief::<0>(&scene)).is_some());
    }
    assert!(nested() > before);
    scene.settle();
}
