//! Operations that move the last free frames, stopped after each of their instructions while
//! somebody asks for these frames: another CPU, or a handler on the same one. What is asked for is
//! free throughout, so nobody is told that memory is exhausted, and a future that begins to wait is
//! woken.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../../frames/frames_support/mod.rs"]
mod frames_support;
#[path = "../step_support/mod.rs"]
mod step_support;
mod withheld;

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task;
use std::task::{Poll, Wake, Waker};

use frames_support::{Host, MIB, Machine, end, frame, online, pin};
use step_support::{Held, Run, bound, request};
use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest, Frames, FramesConfig, ZeroedFrames};
use topomem_percpu::{Order, PhysAddr};
use topomem_stepper::{Context, Matrix, Operation, Plan};

const ONE: FrameRequest = FrameRequest::frame();
const HUGE: FrameRequest = FrameRequest::order(Order::HUGE);

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A future, and how it fared.
struct Waiting {
    future: Pin<Box<AllocFuture<'static, Host>>>,
    waker: Waker,
    polled: Option<Poll<Result<topomem_percpu::PhysFrame, AllocError>>>,
}

struct Scene {
    frames: &'static Frames<Host>,
    /// What is free all the time.
    asked: FrameRequest,
    ours: Held,
    woken: Arc<Count>,
    waiting: Mutex<Option<Waiting>>,
    free: u64,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A future that waits uses the allocator when it is dropped.
        *self.waiting.lock().unwrap() = None;
        // SAFETY: each scene has an allocator of its own, and nothing keeps what operations and contexts get of it.
        unsafe { end(self.frames) };
    }
}

impl Scene {
    /// What is free in `frames` now is what is asked for, and what must be free in the end.
    fn new(frames: &'static Frames<Host>, asked: FrameRequest) -> Scene {
        let totals = frames.validate().unwrap();
        let free = totals.free + totals.in_magazines + totals.zeroed;
        let woken = Arc::new(Count::default());
        Scene { frames, asked, ours: Held::default(), woken, waiting: Mutex::new(None), free }
    }

    fn ready_to_wait(&self) {
        self.woken.0.store(0, Relaxed);
        let waker = Waker::from(self.woken.clone());
        let future = Box::pin(self.frames.alloc_async(self.asked));
        *self.waiting.lock().unwrap() = Some(Waiting { future, waker, polled: None });
    }

    fn take(&self, request: &FrameRequest) {
        if let Ok(first) = self.frames.alloc(&pin(1), request) {
            self.ours.push(Run::ordered(first, request.get_order()));
        }
    }

    fn take_run(&self, request: &FrameRequest, count: u64) {
        if let Ok(first) = self.frames.alloc_run(&pin(1), request, count, 1) {
            self.ours.push(Run::contiguous(first, count));
        }
    }

    fn give_all(&self, cpu: usize) {
        while let Some(run) = self.ours.pop() {
            // SAFETY: it was allocated, and nobody uses the arena.
            let freed = unsafe {
                match run.kind {
                    step_support::Kind::Ordered => {
                        let order = Order::new(run.frames.trailing_zeros() as u8).unwrap();
                        self.frames.free(&pin(cpu), run.first, order)
                    }
                    step_support::Kind::Contiguous => self.frames.free_run(&pin(cpu), run.first, run.frames),
                }
            };
            assert_eq!(freed, Ok(()));
        }
    }

    /// Everything comes home.
    fn settle(&self) {
        self.give_all(1);
        (0..2).for_each(|cpu| _ = self.frames.drain(&pin(cpu)));
        (0..2).for_each(|node| _ = self.frames.drain_zeroed(NodeId::new(node).unwrap()));
        let totals = self.frames.validate().unwrap();
        let retired = self.frames.retired().count() as u64;
        assert_eq!((totals.free + retired, totals.in_magazines, totals.zeroed), (self.free, 0, 0));
    }
}

/// Asks for what is free, on `CPU`.
fn ask<const CPU: usize>(scene: &Scene) {
    match scene.frames.alloc(&pin(CPU), &scene.asked) {
        // SAFETY: nobody uses the arena.
        Ok(first) => unsafe { scene.frames.free(&pin(CPU), first, scene.asked.get_order()) }.unwrap(),
        Err(AllocError::WouldBlock { .. }) => {}
        Err(error) => panic!("while it is free: {error:?}"),
    }
}

/// Begins to wait for what is free.
fn wait(scene: &Scene) {
    let mut waiting = scene.waiting.lock().unwrap();
    let Waiting { future, waker, polled } = waiting.as_mut().unwrap();
    *polled = Some(future.as_mut().poll(&mut task::Context::from_waker(waker)));
}

/// When the operation is through and every CPU has done what it was asked to do, the future was
/// woken, if it can be served.
fn woken(scene: &Scene) {
    let waiting = scene.waiting.lock().unwrap().take().unwrap();
    match waiting.polled {
        Some(Poll::Ready(Ok(first))) => {
            // SAFETY: nobody uses the arena.
            unsafe { scene.frames.free(&pin(0), first, scene.asked.get_order()) }.unwrap();
        }
        Some(Poll::Ready(Err(error))) => panic!("{error:?}"),
        Some(Poll::Pending) => {
            (0..2).for_each(|cpu| scene.frames.service(&pin(cpu)));
            scene.frames.wake_waiters(&pin(0));
            if scene.woken.0.load(Relaxed) == 0 {
                let by_hand = scene.frames.alloc(&pin(0), &scene.asked);
                assert!(by_hand.is_err(), "never woken: {by_hand:?} is free");
            }
        }
        None => {}
    }
}

const CONTEXTS: &[Context<Scene>] = &[
    Context { name: "another CPU asks", run: ask::<0>, undo: |_| {} },
    Context { name: "an interrupt asks", run: ask::<1>, undo: |_| {} },
    Context { name: "a future begins to wait", run: wait, undo: woken },
];

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

const READY: fn(&Scene) = Scene::ready_to_wait;

fn plain(mib: u64) -> &'static Frames<Host> {
    let config = FramesConfig { zeroed: ZeroedFrames::Frames(0), ..FramesConfig::without_reserve() };
    Machine::simple(mib, 2).frames(&config)
}

fn explore(name: &str, scene: fn() -> Scene, operations: &[Operation<Scene>], renew: Option<u64>) {
    let plan = Plan::traps(40_000);
    Matrix { name, scene, operations, contexts: CONTEXTS, check: |_| {}, plan, renew }.explore();
}

/// Two frames of one word are free, CPU 1 has a magazine.
fn two_frames() -> Scene {
    let frames = plain(2);
    let mut all: Vec<_> = std::iter::from_fn(|| frames.alloc(&pin(0), &ONE).ok()).collect();
    all.sort();
    for &first in &all[70..72] {
        // SAFETY: nobody uses the arena.
        unsafe { frames.free(&pin(0), first, Order::FRAME) }.unwrap();
    }
    frames.cpu_online(&pin(1)).unwrap();
    Scene::new(frames, ONE)
}

fn bring_into_the_magazine(scene: &Scene) {
    scene.ready_to_wait();
    scene.take(&ONE);
    scene.take(&ONE);
    scene.give_all(1);
    scene.take(&ONE);
    scene.give_all(1);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn two_frames_of_a_word() {
    let operations = [
        operation("a refill takes one", READY, |scene| scene.take(&ONE)),
        operation("a drain", bring_into_the_magazine, |scene| _ = scene.frames.drain(&pin(1))),
        operation("a hit", bring_into_the_magazine, |scene| scene.take(&ONE)),
        Operation {
            name: "going offline",
            prepare: bring_into_the_magazine,
            run: |scene| _ = scene.frames.cpu_offline(&pin(1)),
            undo: |scene| {
                scene.frames.cpu_online(&pin(1)).unwrap();
                scene.settle();
            },
        },
        operation(
            "a trim that looks",
            |scene| {
                bring_into_the_magazine(scene);
                (0..63).for_each(|_| scene.frames.trim(&pin(1)));
            },
            |scene| scene.frames.trim(&pin(1)),
        ),
        operation("three at once, of which the last fails", READY, |scene| {
            let mut places = [frame(0); 3];
            assert!(scene.frames.alloc_bulk(&pin(1), &ONE, &mut places).is_err());
        }),
    ];
    explore("scarce: two frames", two_frames, &operations, None);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn an_owned_block() {
    let drain = operation(
        "a drain gives the only block up",
        |scene| {
            scene.ready_to_wait();
            scene.take(&ONE);
            scene.give_all(1);
        },
        |scene| _ = scene.frames.drain(&pin(1)),
    );
    for asked in [HUGE, ONE, request(8)] {
        let scene = match asked {
            HUGE => || owned(HUGE),
            ONE => || owned(ONE),
            _ => || owned(request(8)),
        };
        explore("scarce: an owned block", scene, &[drain], None);
    }
}

fn owned(asked: FrameRequest) -> Scene {
    let frames = plain(2);
    frames.cpu_online(&pin(1)).unwrap();
    Scene::new(frames, asked)
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn a_block_changes() {
    let operations = [
        operation("a block is broken up", READY, |scene| scene.take(&ONE)),
        operation("a block is broken up for a run", READY, |scene| scene.take_run(&ONE, 60)),
        operation("an order of several words", READY, |scene| scene.take(&request(8))),
        operation(
            "the last free makes a block",
            |scene| {
                scene.ready_to_wait();
                scene.take(&ONE);
            },
            |scene| scene.give_all(1),
        ),
        operation(
            "a run foiled in its last word",
            |scene| {
                scene.ready_to_wait();
                scene.take(&ONE);
            },
            |scene| scene.take_run(&ONE, 500),
        ),
    ];
    explore("scarce: a block", || Scene::new(plain(2), ONE), &operations, None);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn the_rest_of_a_long_run() {
    const BELOW: FrameRequest = ONE.below(PhysAddr::new(20 * MIB - 4096));
    let operations = [
        operation("a run of 513", READY, |scene| scene.take_run(&ONE, 513)),
        operation("a run of 513 below a limit", READY, |scene| scene.take_run(&BELOW, 513)),
        operation(
            "a free of 513",
            |scene| {
                scene.ready_to_wait();
                scene.take_run(&ONE, 513);
            },
            |scene| scene.give_all(1),
        ),
    ];
    explore("scarce: long runs", || Scene::new(plain(4), ONE), &operations, None);
}

/// One frame of node 1 is free, in the magazine of CPU 0 of node 0.
#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn a_word_of_another_node() {
    let scene = || {
        let ranges = [(16 * MIB, 18 * MIB, 0), (18 * MIB, 20 * MIB, 1)];
        let config = FramesConfig { zeroed: ZeroedFrames::Frames(0), ..FramesConfig::without_reserve() };
        let frames = Machine::new(&ranges, &[1, 0]).frames(&config);
        let mut all: Vec<_> = std::iter::from_fn(|| frames.alloc(&pin(0), &bound(1)).ok()).collect();
        while frames.alloc(&pin(0), &bound(0)).is_ok() {}
        all.sort();
        frames.cpu_online(&pin(1)).unwrap();
        // The first goes straight home, the second gathers.
        for &first in &all[1..3] {
            // SAFETY: nobody uses the arena.
            unsafe { frames.free(&pin(1), first, Order::FRAME) }.unwrap();
        }
        frames.alloc(&pin(0), &bound(1)).unwrap();
        assert_eq!(frames.validate().unwrap().in_magazines, 1);
        Scene::new(frames, bound(1))
    };
    let drain = operation("a drain", READY, |scene| _ = scene.frames.drain(&pin(1)));
    explore("scarce: away", scene, &[drain], Some(1));
}

/// A handler that allocates and frees, while the CPU goes offline: nothing stays behind.
#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn going_offline_beside_handlers() {
    let scene = || {
        let frames = plain(8);
        online(frames, 2);
        Scene::new(frames, ONE)
    };
    let offline = Operation {
        name: "going offline",
        prepare: |scene: &Scene| {
            scene.frames.cpu_online(&pin(1)).unwrap();
            scene.take(&ONE);
            scene.give_all(1);
        },
        run: |scene| _ = scene.frames.cpu_offline(&pin(1)),
        undo: |scene| {
            // Only what is home counts: a magazine that was taken away is not looked at.
            scene.frames.drain(&pin(0));
            assert_eq!(scene.frames.validate().unwrap().free, scene.free);
        },
    };
    let interrupt = Context { name: "an interrupt: a frame for a moment", run: ask::<1>, undo: |_| {} };
    Matrix {
        name: "scarce: offline",
        scene,
        operations: &[offline],
        contexts: &[interrupt],
        check: |_| {},
        plan: Plan::exhaustive(),
        renew: None,
    }
    .explore();
}
