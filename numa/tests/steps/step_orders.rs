//! Runs of orders 1 to 8 that CPUs' magazines have, stopped after each instruction of an operation
//! while another context of the CPU, or another CPU, uses the allocator. The node has enough memory for
//! magazines to hold whole words, of one block each, so that two blocks vie for the place.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
mod step_support;

use frames_support::{MIB, number, pin};
use step_support::{Scene, request};
use topomem_numa::frames::{DoubleFrees, FrameRequest, FramesConfig, ZeroedFrames};
use topomem_stepper::{Context, Matrix, Operation, Plan};

const NOTHING: fn(&Scene) = |_| {};

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

fn alloc<const LEVEL: u8>(scene: &Scene) {
    scene.take(0, &request(LEVEL), &scene.ours);
}

/// `COUNT` runs are allocated, half of them for the context to free.
fn holds<const LEVEL: u8, const COUNT: usize>(scene: &Scene) {
    for index in 0..COUNT {
        scene.take(0, &request(LEVEL), if index % 2 == 0 { &scene.ready } else { &scene.spare });
    }
}

fn free(scene: &Scene) {
    scene.give(0, &scene.ready);
}

/// The magazine has runs, and two are allocated beside them.
fn warm<const LEVEL: u8>(scene: &Scene) {
    holds::<LEVEL, 4>(scene);
    free(scene);
    scene.give(0, &scene.spare);
}

/// Whole words of a block are held, all of another are allocated.
fn holds_another_block(scene: &Scene) {
    holds::<8, 4>(scene);
    free(scene);
}

/// Two of the operation's runs are a double free, which is refused wherever the run is.
fn free_twice(scene: &Scene) {
    let run = scene.ready.runs().last().unwrap();
    free(scene);
    let order = step_support::order(run.frames.trailing_zeros() as u8);
    // SAFETY: it must be refused.
    assert!(unsafe { scene.frames.free(&pin(0), run.first, order) }.is_err());
}

const OPERATIONS: &[Operation<Scene>] = &[
    operation("alloc order 1, a hit", warm::<1>, alloc::<1>),
    operation("alloc order 3, a refill", NOTHING, alloc::<3>),
    operation(
        "alloc order 5, a block without",
        |scene| {
            // One frame of each word is taken, and the other half of a word.
            holds::<5, 15>(scene);
            scene.take(0, &FrameRequest::frame(), &scene.theirs);
        },
        alloc::<5>,
    ),
    operation("alloc order 6, a hit", warm::<6>, alloc::<6>),
    operation("alloc order 7, a block broken up", NOTHING, alloc::<7>),
    operation("alloc order 8, a hit", warm::<8>, alloc::<8>),
    operation("alloc order 8, a block broken up", NOTHING, alloc::<8>),
    operation("free order 1, a hit", warm::<1>, free),
    operation(
        "free order 3, gathered",
        |scene| {
            holds::<3, 6>(scene);
            scene.drain();
        },
        |scene| (0..3).for_each(|_| free(scene)),
    ),
    operation("free order 6, a hit", warm::<6>, free),
    operation("free order 8, the first", holds::<8, 2>, free),
    operation("free order 8, instead of another", holds_another_block, free),
    operation("alloc_bulk of order 3", NOTHING, |scene| {
        let mut places = [frames_support::frame(0); 3];
        scene.frames.alloc_bulk(&pin(0), &request(3), &mut places).unwrap();
        places
            .into_iter()
            .for_each(|first| scene.ours.push(step_support::Run::ordered(first, step_support::order(3))));
    }),
    operation("a frame freed into words", warm::<6>, |scene| {
        free(scene);
        scene.take(0, &FrameRequest::frame(), &scene.ours);
        scene.give(0, &scene.ours);
    }),
    operation("drain of words", warm::<7>, |scene| _ = scene.frames.drain(&pin(0))),
    operation(
        "trim of words",
        |scene| {
            warm::<6>(scene);
            (0..127).for_each(|_| scene.frames.trim(&pin(0)));
        },
        |scene| scene.frames.trim(&pin(0)),
    ),
];

/// By the operation's CPU alone: what another CPU holds is found later.
const TWICE: &[Operation<Scene>] = &[
    operation("free order 1 twice", warm::<1>, free_twice),
    operation("free order 5 twice", holds::<5, 2>, free_twice),
    operation("free order 6 twice", warm::<6>, free_twice),
    operation("free order 8 twice", warm::<8>, free_twice),
];

const RETIREMENTS: &[Operation<Scene>] = &[
    operation(
        "retire a frame of a word held",
        |scene| {
            warm::<6>(scene);
            let run = scene.ready.runs().last().unwrap();
            free(scene);
            scene.bad.store(number(run.first) + 9, std::sync::atomic::Ordering::Relaxed);
        },
        retire,
    ),
    operation(
        "retire a frame of a run",
        |scene| {
            warm::<3>(scene);
            let run = scene.ready.runs().last().unwrap();
            scene.bad.store(number(run.first) + 1, std::sync::atomic::Ordering::Relaxed);
        },
        retire,
    ),
];

fn retire(scene: &Scene) {
    let bad = scene.bad.load(std::sync::atomic::Ordering::Relaxed);
    scene.frames.retire(&pin(0), frames_support::frame(bad)).unwrap();
}

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: NOTHING }
}

/// Frees a neighbour of what the operation has, and keeps and frees runs of all kinds.
fn busy<const CPU: usize>(scene: &Scene) {
    scene.give(CPU, &scene.spare);
    for level in [1, 6, 8, 0, 3, 7, 9] {
        scene.take(CPU, &request(level), &scene.theirs);
    }
    (0..6).for_each(|_| scene.give(CPU, &scene.theirs));
    scene.give(CPU, &scene.spare);
    scene.take(CPU, &request(6), &scene.theirs);
}

fn brief<const CPU: usize>(scene: &Scene) {
    for level in [2, 6] {
        scene.take(CPU, &request(level), &scene.theirs);
        scene.give(CPU, &scene.theirs);
    }
}

fn draining<const CPU: usize>(scene: &Scene) {
    scene.frames.drain(&pin(CPU));
    (0..3).for_each(|cpu| scene.frames.request_drain(pin(cpu).cpu()));
    scene.frames.service(&pin(CPU));
}

const CONTEXTS: &[Context<Scene>] = &[
    context("an interrupt: runs for a moment", brief::<0>),
    context("an interrupt: runs and blocks", busy::<0>),
    context("an interrupt: drains", draining::<0>),
    context("another CPU: runs for a moment", brief::<1>),
    context("another CPU: runs and blocks", busy::<1>),
    context("another CPU: drains", draining::<1>),
    context("another CPU: a single frame", |scene| {
        scene.take(1, &FrameRequest::frame(), &scene.theirs);
        scene.give(1, &scene.spare);
    }),
];

const RETIRING: &[Context<Scene>] = &[
    context("an interrupt retires a neighbour", |scene| retire_neighbour(scene, 0)),
    context("another CPU retires a neighbour", |scene| retire_neighbour(scene, 1)),
];

fn retire_neighbour(scene: &Scene, cpu: usize) {
    let bad = scene.spare.runs().next().map(|run| run.first);
    scene.frames.retire(&pin(cpu), bad.unwrap_or(frames_support::frame(20 * 256 + 5))).unwrap();
}

/// Node 0 has 64 MiB, so that each of its two CPUs may hold words of one block.
fn scene() -> Scene {
    let config = FramesConfig { zeroed: ZeroedFrames::Frames(0), ..FramesConfig::without_reserve() };
    Scene::on(&[(16 * MIB, 80 * MIB, 0), (80 * MIB, 84 * MIB, 1)], &config)
}

fn paranoid() -> Scene {
    let config = FramesConfig {
        zeroed: ZeroedFrames::Frames(0),
        double_frees: DoubleFrees::FoundAtOnce,
        ..FramesConfig::without_reserve()
    };
    Scene::on(&[(16 * MIB, 80 * MIB, 0), (80 * MIB, 84 * MIB, 1)], &config)
}

fn explore(name: &str, operations: &[Operation<Scene>], contexts: &[Context<Scene>], renew: Option<u64>) {
    explore_on(name, scene, operations, contexts, renew);
}

fn explore_on(
    name: &str,
    scene: fn() -> Scene,
    operations: &[Operation<Scene>],
    contexts: &[Context<Scene>],
    renew: Option<u64>,
) {
    let plan = Plan::traps(15_000);
    Matrix { name, scene, operations, contexts, check: |_| {}, plan, renew }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn runs_of_magazines() {
    explore("frames: runs", OPERATIONS, CONTEXTS, None);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn runs_freed_twice() {
    explore("frames: runs freed twice", TWICE, &CONTEXTS[3..4], None);
}

/// Runs of one word, which magazines have in paranoid mode, too.
#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn paranoid_runs() {
    let short = |operation: &&Operation<Scene>| {
        ["order 1", "order 3", "order 5"].iter().any(|order| operation.name.contains(order))
    };
    let short = |all: &[Operation<Scene>]| all.iter().filter(short).copied().collect::<Vec<_>>();
    let contexts = &[CONTEXTS[1], CONTEXTS[4]];
    explore_on("frames: paranoid runs", paranoid, &short(OPERATIONS), contexts, None);
    explore_on("frames: paranoid runs freed twice", paranoid, &short(TWICE), &CONTEXTS[3..4], None);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn retirements() {
    explore("frames: retirements of runs", RETIREMENTS, CONTEXTS, Some(4));
    explore("frames: runs beside retirements", OPERATIONS, RETIRING, Some(1));
}
