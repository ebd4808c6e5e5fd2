//! Runs that lie across the border of two blocks, stopped after each instruction of an operation while another
//! context of the CPU, or another CPU, uses either block: nobody gets a frame of another's run, and all frames come
//! back.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
mod step_support;

use frames_support::{MIB, number, pin};
use step_support::{Held, Run, Scene, request};
use topomem_numa::frames::{AllocError, FrameRequest, FramesConfig, ZeroedFrames};
use topomem_stepper::{Context, Matrix, Operation, Plan};

const NOTHING: fn(&Scene) = |_| {};

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

/// Allocates `count` frames in a row.
fn take_aligned(scene: &Scene, cpu: usize, count: u64, align: u64, held: &Held) {
    match scene.frames.alloc_run(&pin(cpu), &FrameRequest::frame(), count, align) {
        Ok(first) => held.push(Run::contiguous(first, count)),
        // A block is changing hands.
        Err(AllocError::WouldBlock { .. }) => {}
        Err(error) => panic!("while enough is free: {error:?}"),
    }
}

fn take(scene: &Scene, cpu: usize, count: u64, held: &Held) {
    take_aligned(scene, cpu, count, 1, held);
}

/// A block of which the end is free, and behind it a whole one.
fn before_a_whole_block(scene: &Scene) {
    take(scene, 0, 300, &scene.spare);
}

/// Two blocks in use: the end of the first and the beginning of the second are free.
fn between_two_in_use(scene: &Scene) {
    take(scene, 0, 300, &scene.spare);
    take(scene, 0, 300, &scene.ready);
    take(scene, 0, 300, &scene.spare);
    free(scene);
}

/// A run across is allocated, between two others.
fn across(scene: &Scene) {
    take(scene, 0, 300, &scene.spare);
    take(scene, 0, 300, &scene.ready);
    take(scene, 0, 300, &scene.spare);
}

fn alloc<const COUNT: u64>(scene: &Scene) {
    take(scene, 0, COUNT, &scene.ours);
}

fn free(scene: &Scene) {
    scene.give(0, &scene.ready);
}

const OPERATIONS: &[Operation<Scene>] = &[
    operation("alloc of 300 frames, into a whole block", before_a_whole_block, alloc::<300>),
    operation("alloc of 300 frames, into a block in use", between_two_in_use, alloc::<300>),
    operation("alloc of 300 frames at a multiple of 8", between_two_in_use, |scene| {
        take_aligned(scene, 0, 290, 8, &scene.ours);
    }),
    operation(
        "alloc of 500 frames, of which hardly any are in the first block",
        before_a_whole_block,
        |scene| {
            take(scene, 0, 500, &scene.ours);
        },
    ),
    operation("two runs of 300 frames", before_a_whole_block, |scene| {
        alloc::<300>(scene);
        alloc::<300>(scene);
    }),
    operation("free of a run across", across, free),
    operation("free and alloc of a run across", across, |scene| {
        free(scene);
        alloc::<300>(scene);
    }),
    operation("a run across stays as long as it is", across, |scene| {
        let run = scene.ready.runs().last().unwrap();
        // SAFETY: the run is the operation's; what is refused has changed nothing.
        let extended = unsafe { scene.frames.extend_run(&pin(0), run.first, run.frames, run.frames + 4) };
        // The frames behind it are another run's.
        assert!(extended.is_err());
    }),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: NOTHING }
}

/// Frees the neighbour of the operation's run, and takes others.
fn busy<const CPU: usize>(scene: &Scene) {
    scene.give(CPU, &scene.spare);
    take(scene, CPU, 300, &scene.theirs);
    for level in [0, 5, 8] {
        scene.take(CPU, &request(level), &scene.theirs);
    }
    take(scene, CPU, 280, &scene.theirs);
    (0..3).for_each(|_| scene.give(CPU, &scene.theirs));
}

/// Takes the same place for a moment.
fn brief<const CPU: usize>(scene: &Scene) {
    take(scene, CPU, 300, &scene.theirs);
    scene.give(CPU, &scene.theirs);
}

/// The blocks around the run become whole, and one is taken as such.
fn whole<const CPU: usize>(scene: &Scene) {
    (0..2).for_each(|_| scene.give(CPU, &scene.spare));
    scene.frames.drain(&pin(CPU));
    scene.take(CPU, &request(9), &scene.theirs);
}

const CONTEXTS: &[Context<Scene>] = &[
    context("an interrupt: a run for a moment", brief::<0>),
    context("an interrupt: runs and frames", busy::<0>),
    context("an interrupt: whole blocks", whole::<0>),
    context("another CPU: a run for a moment", brief::<1>),
    context("another CPU: runs and frames", busy::<1>),
    context("another CPU: whole blocks", whole::<1>),
];

/// 16 MiB, so that few blocks are candidates, and contexts meet the operation's.
fn scene() -> Scene {
    let config = FramesConfig { zeroed: ZeroedFrames::Frames(0), ..FramesConfig::default() };
    Scene::on(&[(16 * MIB, 32 * MIB, 0), (32 * MIB, 36 * MIB, 1)], &config)
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn runs_across_borders() {
    let (contexts, plan) = (CONTEXTS, Plan::traps(15_000));
    Matrix {
        name: "frames: runs across borders",
        scene,
        operations: OPERATIONS,
        contexts,
        check: |_| {},
        plan,
        renew: None,
    }
    .explore();
}

/// Undisturbed, the operations have the runs that they are named after.
#[test]
fn the_runs_lie_across_borders() {
    for operation in OPERATIONS.iter().filter(|operation| operation.name.starts_with("alloc")) {
        let scene = scene();
        (operation.prepare)(&scene);
        (operation.run)(&scene);
        let crosses = |run: Run| number(run.first) / 512 != (number(run.first) + run.frames - 1) / 512;
        assert!(scene.ours.runs().all(crosses) && scene.ours.runs().count() > 0, "{}", operation.name);
        scene.settle();
    }
    let scene = scene();
    across(&scene);
    let run = scene.ready.runs().next().unwrap();
    assert_ne!(number(run.first) / 512, (number(run.first) + run.frames - 1) / 512);
    scene.settle();
}
