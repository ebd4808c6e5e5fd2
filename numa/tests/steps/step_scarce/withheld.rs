//! The last frames in the pool of zeroed frames, and in retirement.

use topomem_numa::NodeId;
use topomem_numa::frames::{FramesConfig, ZeroedFrames};

use super::{ONE, READY, Scene, explore, operation, plain};
use crate::frames_support::{Machine, frame, number, pin};
use crate::step_support::request;

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn the_pool_of_zeroed_frames() {
    let scene = || {
        let config = FramesConfig { zeroed: ZeroedFrames::Frames(1), ..FramesConfig::without_reserve() };
        let frames = Machine::simple(2, 2).frames(&config);
        for level in 3..=8 {
            frames.alloc(&pin(0), &request(level)).unwrap();
        }
        Scene::new(frames, request(3))
    };
    let operations = [
        operation("a frame is zeroed ahead", READY, |scene| _ = scene.frames.refill_zeroed(&pin(1), 1)),
        operation(
            "the pool goes home",
            |scene| {
                scene.ready_to_wait();
                scene.frames.refill_zeroed(&pin(1), 1);
            },
            |scene| _ = scene.frames.drain_zeroed(NodeId::ZERO),
        ),
    ];
    explore("scarce: the pool", scene, &operations, None);
}

/// Retires a frame behind `first` that has not retired yet.
fn retire_next(scene: &Scene, cpu: usize, first: u64) {
    let bad = first + 5 + scene.frames.retired().count() as u64;
    scene.frames.retire(&pin(cpu), frame(bad)).unwrap();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn a_retirement() {
    let operations = [
        operation("a frame of the only block retires", READY, |scene| retire_next(scene, 1, 16 * 256)),
        operation(
            "a block with a frame to retire is freed",
            |scene| {
                scene.ready_to_wait();
                scene.take(&request(8));
                retire_next(scene, 0, number(scene.ours.runs().next().unwrap().first));
            },
            |scene| scene.give_all(1),
        ),
        operation(
            "a block with a frame to retire is asked for",
            |scene| {
                scene.ready_to_wait();
                retire_next(scene, 0, 16 * 256);
            },
            |scene| scene.take(&request(8)),
        ),
    ];
    explore("scarce: retirement", || Scene::new(plain(2), ONE), &operations, Some(1));
}
