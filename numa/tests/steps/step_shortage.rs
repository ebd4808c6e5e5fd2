//! Operations stopped after each of their instructions while memory is scarce: whoever asks
//! meanwhile is told `Exhausted` only if nothing allowed is free, whoever begins to wait is woken,
//! and no operation calls a waker.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
mod step_support;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use frames_support::{Host, MIB, Machine, frame, online, pin};
use step_support::{Held, Run, bound, request};
use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, AllocFuture, FrameRequest, Frames, FramesConfig, Watermarks, ZeroedFrames, ZoneWatermarks,
};
use topomem_percpu::{Order, PhysAddr};
use topomem_stepper::{Context, Matrix, Operation, Plan, masked};

const ONE: FrameRequest = FrameRequest::frame();

/// Counts, and may not be called while the operation runs.
#[derive(Default)]
struct Counter {
    woken: AtomicUsize,
    inside: AtomicBool,
    misplaced: AtomicBool,
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Relaxed);
        self.misplaced.fetch_or(self.inside.load(Relaxed), Relaxed);
    }
}

type Waiting = Pin<Box<AllocFuture<'static, Host>>>;

/// Two blocks of node 0, where CPUs 0 and 1 are, and one of node 1, where CPU 2 is; all taken but
/// a few frames.
struct Scene {
    frames: &'static Frames<Host>,
    /// Frames that are free.
    free: u64,
    /// What the operation allocated.
    ours: Held,
    /// What the operation is to free.
    ready: Held,
    counter: Arc<Counter>,
    waiting: Mutex<Option<Waiting>>,
}

/// The first frame of node 0, and of node 1.
const FIRST: [u64; 2] = [16 * 256, 20 * 256];

impl Scene {
    /// All is taken but the frames at `places`, counted from the first of `node`.
    fn new(node: usize, places: impl Iterator<Item = u64>) -> Scene {
        let config = FramesConfig {
            watermarks: ZoneWatermarks::Frames(Watermarks::NONE),
            zeroed: ZeroedFrames::Frames(1),
            ..FramesConfig::without_reserve()
        };
        let ranges = [(16 * MIB, 20 * MIB, 0), (20 * MIB, 22 * MIB, 1)];
        let frames = Machine::new(&ranges, &[0, 0, 1]).frames(&config);
        while frames.alloc(&pin(0), &ONE).is_ok() {}
        let mut free = 0;
        for place in places {
            // SAFETY: allocated above, and nobody uses the arena.
            unsafe { frames.free(&pin(0), frame(FIRST[node] + place), Order::FRAME) }.unwrap();
            free += 1;
        }
        online(frames, 3);
        let (ours, ready) = (Held::default(), Held::default());
        let (counter, waiting) = (Arc::default(), Mutex::new(None));
        let scene = Scene { frames, free, ours, ready, counter, waiting };
        scene.settle();
        scene
    }

    fn take(&self, cpu: usize, request: &FrameRequest, held: &Held) {
        match self.frames.alloc(&pin(cpu), request) {
            Ok(first) => held.push(Run::ordered(first, request.get_order())),
            // Another CPU's magazine has what is free.
            Err(AllocError::WouldBlock { .. }) => {}
            Err(error) => panic!("some of it is free all the time: {error:?}"),
        }
    }

    fn give(&self, cpu: usize, held: &Held) {
        let Some(run) = held.pop() else { return };
        let order = Order::new(run.frames.trailing_zeros() as u8).unwrap();
        // SAFETY: it was allocated, and nobody uses the arena.
        unsafe { self.frames.free(&pin(cpu), run.first, order) }.unwrap();
    }

    /// Runs `act` as an operation of the allocator's, in which no waker may be called.
    fn operation(&self, act: impl FnOnce()) {
        self.counter.inside.store(true, Relaxed);
        act();
        self.counter.inside.store(false, Relaxed);
    }

    /// Every CPU does what it was asked to do, and the executor wakes the due waiters.
    fn run_requested_work(&self) {
        for cpu in 0..3 {
            self.frames.service(&pin(cpu));
            self.frames.wake_waiters(&pin(cpu));
        }
    }

    /// Everything goes home, and is as it was.
    fn settle(&self) {
        self.waiting.lock().unwrap().take();
        while self.ours.runs().next().is_some() {
            self.give(1, &self.ours);
        }
        while self.ready.runs().next().is_some() {
            self.give(1, &self.ready);
        }
        for cpu in 0..3 {
            self.frames.cpu_online(&pin(cpu)).unwrap();
            self.frames.drain(&pin(cpu));
        }
        for node in 0..2 {
            self.frames.drain_zeroed(NodeId::new(node).unwrap());
        }
        self.run_requested_work();
        assert!(!self.counter.misplaced.load(Relaxed), "a waker was called inside an operation");
        assert_eq!(self.frames.validate().unwrap().free, self.free);
    }

    /// Asks for what is free: one `request`, which goes back at once.
    fn ask(&self, cpu: usize, request: &FrameRequest) {
        match self.frames.alloc(&pin(cpu), request) {
            Ok(first) => {
                // SAFETY: just allocated.
                unsafe { self.frames.free(&pin(cpu), first, request.get_order()) }.unwrap();
            }
            Err(AllocError::WouldBlock { .. }) => {}
            Err(error) => panic!("some of it is free all the time: {error:?}"),
        }
    }

    fn poll(&self, future: &mut Waiting) -> bool {
        let waker = Waker::from(self.counter.clone());
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(first) => {
                // SAFETY: just allocated.
                unsafe { self.frames.free(&pin(0), first.unwrap(), Order::FRAME) }.unwrap();
                true
            }
            Poll::Pending => false,
        }
    }

    /// Begins to wait for a frame, in a task of another CPU: its poll may call wakers.
    fn wait(&self) {
        let inside = self.counter.inside.swap(false, Relaxed);
        self.counter.woken.store(0, Relaxed);
        let mut future = Box::pin(self.frames.alloc_async(ONE));
        if !self.poll(&mut future) {
            *self.waiting.lock().unwrap() = Some(future);
        }
        self.counter.inside.store(inside, Relaxed);
    }

    /// Whoever waits is woken, unless there is nothing.
    fn is_woken(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(mut future) = waiting.take() else { return };
        for _ in 0..8 {
            self.run_requested_work();
            if self.counter.woken.swap(0, Relaxed) == 0 {
                break;
            }
            if self.poll(&mut future) {
                return;
            }
        }
        let served = self.frames.alloc(&pin(0), &ONE);
        assert!(served.is_err(), "nobody woke a future that can be served");
    }
}

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

const NOTHING: fn(&Scene) = |_| {};

/// CPU 1 has taken a frame and given it back: its magazine has the word.
const CACHED: fn(&Scene) = |scene| {
    scene.take(1, &ONE, &scene.ours);
    scene.give(1, &scene.ours);
};

/// These leave every frame free.
const MOVING: &[Operation<Scene>] = &[
    operation("drain", CACHED, |scene| scene.operation(|| _ = scene.frames.drain(&pin(1)))),
    operation(
        "service, asked to drain",
        |scene| {
            CACHED(scene);
            scene.frames.request_drain(pin(1).cpu());
        },
        |scene| scene.operation(|| scene.frames.service(&pin(1))),
    ),
    operation(
        "trim that looks",
        |scene| {
            CACHED(scene);
            (0..63).for_each(|_| scene.frames.trim(&pin(1)));
        },
        |scene| scene.operation(|| scene.frames.trim(&pin(1))),
    ),
    operation("cpu_offline", CACHED, |scene| scene.operation(|| _ = scene.frames.cpu_offline(&pin(1)))),
    operation(
        "cpu_online",
        |scene| {
            CACHED(scene);
            scene.frames.cpu_offline(&pin(1));
        },
        |scene| scene.operation(|| scene.frames.cpu_online(&pin(1)).unwrap()),
    ),
    operation("refill_zeroed", NOTHING, |scene| {
        scene.operation(|| _ = scene.frames.refill_zeroed(&pin(1), 1));
    }),
    operation(
        "drain_zeroed",
        |scene| _ = scene.frames.refill_zeroed(&pin(1), 1),
        |scene| scene.operation(|| _ = scene.frames.drain_zeroed(NodeId::ZERO)),
    ),
];

/// These take one frame at most at any time, or give one back.
const TAKING: &[Operation<Scene>] = &[
    operation("alloc", NOTHING, |scene| scene.operation(|| scene.take(1, &ONE, &scene.ours))),
    operation("alloc, a hit", CACHED, |scene| scene.operation(|| scene.take(1, &ONE, &scene.ours))),
    operation("alloc bound to the node", NOTHING, |scene| {
        scene.operation(|| scene.take(1, &bound(0), &scene.ours));
    }),
    operation("alloc zeroed", NOTHING, |scene| {
        scene.operation(|| scene.take(1, &ONE.zeroed(), &scene.ours));
    }),
    operation("alloc below a limit", NOTHING, |scene| {
        let below = ONE.below(PhysAddr::new(20 * MIB - 1));
        scene.operation(|| scene.take(1, &below, &scene.ours));
    }),
    operation("alloc_run of 1", NOTHING, |scene| {
        scene.operation(|| match scene.frames.alloc_run(&pin(1), &ONE, 1, 1) {
            Ok(first) => scene.ours.push(Run::ordered(first, Order::FRAME)),
            Err(error) => assert!(matches!(error, AllocError::WouldBlock { .. }), "{error:?}"),
        });
    }),
    operation(
        "free, a hit",
        |scene| scene.take(1, &ONE, &scene.ready),
        |scene| scene.operation(|| scene.give(1, &scene.ready)),
    ),
    operation(
        "free, straight home",
        |scene| {
            scene.take(1, &ONE, &scene.ready);
            scene.frames.drain(&pin(1));
        },
        |scene| scene.operation(|| scene.give(1, &scene.ready)),
    ),
    operation(
        "free by another node",
        |scene| {
            scene.take(1, &ONE, &scene.ready);
            scene.frames.drain(&pin(1));
        },
        |scene| scene.operation(|| scene.give(2, &scene.ready)),
    ),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: NOTHING }
}

const ASKING: &[Context<Scene>] = &[
    context("an interrupt asks for a frame", |scene| scene.ask(1, &ONE)),
    context("another CPU asks for a frame", |scene| scene.ask(0, &ONE)),
    context("another CPU asks for a zeroed frame", |scene| scene.ask(0, &ONE.zeroed())),
    context("another node's CPU asks for a frame", |scene| scene.ask(2, &ONE)),
    context("another node's CPU asks for a frame bound to the node", |scene| scene.ask(2, &bound(0))),
    Context { name: "a task begins to wait", run: |scene| masked(|| scene.wait()), undo: Scene::is_woken },
];

/// Blocks are asked for while all of one is free.
const ASKING_FOR_BLOCKS: &[Context<Scene>] = &[
    context("an interrupt asks for a block", |scene| scene.ask(1, &request(9))),
    context("another CPU asks for a block", |scene| scene.ask(0, &request(9))),
    context("another CPU asks for 64 frames", |scene| scene.ask(0, &request(6))),
];

fn explore(name: &str, scene: fn() -> Scene, operations: &[Operation<Scene>], contexts: &[Context<Scene>]) {
    let plan = Plan::traps(20_000);
    Matrix { name, scene, operations, contexts, check: |_| {}, plan, renew: None }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn two_frames_of_a_word_are_free() {
    let scene = || Scene::new(0, [70, 71].into_iter());
    explore("scarce: two frames of a word, moved", scene, MOVING, ASKING);
    explore("scarce: two frames of a word, taken", scene, TAKING, ASKING);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn two_frames_of_two_blocks_are_free() {
    let scene = || Scene::new(0, [70, 600].into_iter());
    explore("scarce: two frames of two blocks, moved", scene, MOVING, ASKING);
    explore("scarce: two frames of two blocks, taken", scene, TAKING, ASKING);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn eight_frames_are_free() {
    // More than four pools' worth: one becomes a zeroed one.
    let scene = || Scene::new(0, 64..72);
    explore("scarce: eight frames, moved", scene, MOVING, ASKING);
    explore("scarce: eight frames, taken", scene, TAKING, ASKING);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn one_block_is_free() {
    let scene = || Scene::new(0, 0..512);
    explore("scarce: one block, moved", scene, MOVING, ASKING);
    explore("scarce: one block, taken", scene, TAKING, ASKING);
    explore("scarce: one block, asked for", scene, MOVING, ASKING_FOR_BLOCKS);
}

/// Frames of node 1 that a CPU of node 0 gathers on their way home.
const AWAY: &[Operation<Scene>] = &[operation(
    "drain of another node's frames",
    |scene| {
        (0..2).for_each(|_| scene.take(2, &bound(1), &scene.ready));
        scene.frames.drain(&pin(2));
        (0..2).for_each(|_| scene.give(1, &scene.ready));
    },
    |scene| scene.operation(|| _ = scene.frames.drain(&pin(1))),
)];

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn frames_on_their_way_home() {
    let contexts = [
        context("the node's CPU asks for a frame bound to it", |scene| scene.ask(2, &bound(1))),
        context("the node's CPU asks for a frame", |scene| scene.ask(2, &ONE)),
        context("an interrupt asks for a frame", |scene| scene.ask(1, &ONE)),
    ];
    explore("scarce: frames of another node", || Scene::new(1, [70, 71, 72].into_iter()), AWAY, &contexts);
}

/// Nothing is free but what the operation gives back: whoever waits gets that.
const RETURNING: &[Operation<Scene>] = &[
    operation(
        "free",
        |scene| scene.take(1, &ONE, &scene.ready),
        |scene| scene.operation(|| scene.give(1, &scene.ready)),
    ),
    operation("drain", CACHED, |scene| scene.operation(|| _ = scene.frames.drain(&pin(1)))),
    operation("cpu_offline", CACHED, |scene| scene.operation(|| _ = scene.frames.cpu_offline(&pin(1)))),
];

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn the_last_frame_reaches_who_waits() {
    explore("scarce: the last frame", || Scene::new(0, [70].into_iter()), RETURNING, &ASKING[5..]);
}
