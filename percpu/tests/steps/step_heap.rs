//! Every operation of the heap, stopped after each of its instructions while another context of
//! the CPU, or another CPU, uses the heap: every allocation is served, objects keep their contents,
//! nobody gets what somebody has, and in the end all pages are back.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod heap_scene;

use std::ptr::NonNull;

use common::pin;
use heap_scene::{SMALL, Scene, layout, on, tag};
use topomem_percpu::SizeClass;
use topomem_stepper::{Context, Matrix, Operation, Plan};

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

const NOTHING: fn(&Scene) = |_| {};
const MIDDLE: usize = 2048;
const LARGEST_CLASS: usize = 16 << 10;
const LARGE: usize = 20 << 10;
/// As much as the machine has in a row, and room for what measures add.
const HUGE: usize = if cfg!(feature = "hardening") { 250 << 10 } else { 256 << 10 };

fn holds<const BYTES: usize>(scene: &Scene) {
    scene.share_a_slab(BYTES, 6);
}

/// The same, and the magazines are empty.
fn drained<const BYTES: usize>(scene: &Scene) {
    holds::<BYTES>(scene);
    scene.drain();
}

/// Four magazines full, all free again: the depot has some.
fn stocked(scene: &Scene) {
    (0..40).for_each(|_| scene.take(MIDDLE, &scene.ours));
    (0..40).for_each(|_| scene.give(&scene.ours));
    holds::<MIDDLE>(scene);
}

/// So many magazines came to the depot that it gives up those that it has.
fn sheds(scene: &Scene) {
    (0..40).for_each(|_| scene.take(LARGEST_CLASS, &scene.ready));
    (0..34).for_each(|_| free(scene));
}

/// The CPU keeps some runs, and the one of the operation's last object is not among them.
fn keeps_runs(scene: &Scene) {
    holds::<LARGE>(scene);
    (0..3).for_each(|_| free(scene));
    holds::<LARGE>(scene);
}

/// The CPU keeps a run that is longer than that of a large object.
fn keeps_a_longer_run(scene: &Scene) {
    scene.take(3 * LARGE, &scene.ready);
    free(scene);
    holds::<MIDDLE>(scene);
}

/// The CPU keeps as many runs as it may, and one more is to be freed.
fn fills_the_cache<const BYTES: usize>(scene: &Scene, count: usize) {
    (0..count).for_each(|_| scene.take(BYTES, &scene.ready));
    (1..count).for_each(|_| free(scene));
}

fn alloc<const BYTES: usize>(scene: &Scene) {
    scene.take(BYTES, &scene.ours);
}

fn free(scene: &Scene) {
    scene.give(&scene.ready);
}

fn realloc<const FROM: usize, const TO: usize>(scene: &Scene) {
    let (object, bytes) = scene.ready.pop().unwrap();
    assert_eq!(bytes, FROM);
    // SAFETY: allocated with this layout, and held until now.
    let moved = unsafe { scene.heap.try_realloc(object, layout(FROM), TO) }.unwrap();
    // SAFETY: the contents were copied.
    assert_eq!(unsafe { moved.read() }, tag(object));
    scene.keep(moved, TO, &scene.ours);
}

const ALLOCATIONS: &[Operation<Scene>] = &[
    operation("alloc 64 B, a hit", holds::<SMALL>, alloc::<SMALL>),
    operation("alloc 64 B, from a slab", drained::<SMALL>, alloc::<SMALL>),
    operation("alloc 64 B, a new slab", NOTHING, alloc::<SMALL>),
    operation("24 of 2 KiB, from the depot", stocked, |scene| (0..24).for_each(|_| alloc::<MIDDLE>(scene))),
    operation("alloc 2 KiB, a new slab", NOTHING, alloc::<MIDDLE>),
    operation("alloc 16 KiB, from a slab", drained::<LARGEST_CLASS>, alloc::<LARGEST_CLASS>),
    operation("alloc 20 KiB", NOTHING, alloc::<LARGE>),
    operation("alloc 20 KiB, a kept run", keeps_runs, alloc::<LARGE>),
    operation("alloc 40 KiB, beside kept runs", keeps_runs, alloc::<{ 2 * LARGE }>),
    operation("alloc_zeroed", holds::<SMALL>, |scene| {
        let object = scene.heap.try_alloc_zeroed(layout(SMALL)).unwrap();
        scene.keep(object, SMALL, &scene.ours);
    }),
    operation("alloc_zeroed of 20 KiB", NOTHING, |scene| {
        let object = scene.heap.try_alloc_zeroed(layout(LARGE)).unwrap();
        scene.keep(object, LARGE, &scene.ours);
    }),
    operation("5 of 64 B at once", holds::<SMALL>, |scene| {
        let mut objects = [NonNull::dangling(); 5];
        scene.heap.alloc_many(layout(SMALL), &mut objects).unwrap();
        objects.into_iter().for_each(|object| scene.keep(object, SMALL, &scene.ours));
    }),
    operation("realloc in place", holds::<60>, realloc::<60, 62>),
    operation("realloc to more", holds::<SMALL>, realloc::<SMALL, 200>),
    operation("realloc to less", holds::<MIDDLE>, realloc::<MIDDLE, SMALL>),
    operation("realloc to large", holds::<MIDDLE>, realloc::<MIDDLE, LARGE>),
    operation(
        "realloc to large, into a longer run that is kept",
        keeps_a_longer_run,
        realloc::<MIDDLE, LARGE>,
    ),
    operation(
        "realloc of large to more, in place",
        |scene| scene.take(LARGE, &scene.ready),
        realloc::<LARGE, { 2 * LARGE }>,
    ),
    operation("realloc of large to less, in place", holds::<{ 2 * LARGE }>, realloc::<{ 2 * LARGE }, LARGE>),
    operation("realloc of large to more, elsewhere", holds::<LARGE>, realloc::<LARGE, { 2 * LARGE }>),
    operation("realloc from large", holds::<LARGE>, realloc::<LARGE, SMALL>),
];

const FREES: &[Operation<Scene>] = &[
    operation("free 64 B, a hit", holds::<SMALL>, free),
    operation(
        "24 frees of 2 KiB, to the depot",
        |scene| (0..24).for_each(|_| scene.take(MIDDLE, &scene.ready)),
        |scene| (0..24).for_each(|_| free(scene)),
    ),
    operation("5 frees of 16 KiB, while the depot sheds", sheds, |scene| (0..5).for_each(|_| free(scene))),
    operation("3 frees of 64 B at once", holds::<SMALL>, |scene| {
        let objects = [(); 3].map(|()| scene.ready.pop().unwrap().0);
        objects.iter().for_each(|&object| Scene::check(object, SMALL));
        // SAFETY: allocated with this layout, and held until now.
        unsafe { scene.heap.free_many(layout(SMALL), &objects) }.unwrap();
    }),
    operation(
        "free 64 B of a CPU that is offline",
        |scene| {
            holds::<SMALL>(scene);
            scene.heap.cpu_offline(&pin()).unwrap();
        },
        free,
    ),
    operation(
        "free of a slab's last object, offline",
        |scene| {
            scene.take(SMALL, &scene.ready);
            scene.heap.cpu_offline(&pin()).unwrap();
        },
        free,
    ),
    operation("free 64 B of another node", |scene| on(2, || holds::<SMALL>(scene)), free),
    operation("free 16 KiB", holds::<LARGEST_CLASS>, free),
    operation("free 20 KiB", holds::<LARGE>, free),
    operation("free 20 KiB of another node", |scene| on(2, || holds::<LARGE>(scene)), free),
    operation("free 20 KiB, with no room for another run", |scene| fills_the_cache::<LARGE>(scene, 20), free),
    operation(
        "free of as much as a run may have, for which kept runs make room",
        |scene| fills_the_cache::<HUGE>(scene, 9),
        free,
    ),
];

const KEEPING: &[Operation<Scene>] = &[
    operation("drain of kept runs", keeps_runs, |scene| _ = scene.heap.drain(&pin())),
    operation("drain", stocked, |scene| _ = scene.heap.drain(&pin())),
    operation(
        "drain of what another node freed",
        |scene| {
            holds::<SMALL>(scene);
            on(2, || (0..3).for_each(|_| free(scene)));
        },
        |scene| _ = scene.heap.drain(&pin()),
    ),
    operation("reclaim", stocked, |scene| _ = scene.heap.reclaim(&pin())),
    operation(
        "pending work, asked to drain",
        |scene| {
            stocked(scene);
            on(1, || scene.heap.reclaim(&pin()));
        },
        |scene| _ = scene.heap.run_pending_work(&pin()),
    ),
    operation(
        "pending work, with frees of another node",
        |scene| {
            holds::<SMALL>(scene);
            on(2, || (0..3).for_each(|_| free(scene)));
        },
        |scene| _ = scene.heap.run_pending_work(&pin()),
    ),
    operation("cpu_offline", stocked, |scene| scene.heap.cpu_offline(&pin()).unwrap()),
    operation(
        "cpu_online",
        |scene| {
            holds::<SMALL>(scene);
            scene.heap.cpu_offline(&pin()).unwrap();
        },
        |scene| scene.heap.cpu_online(&pin()).unwrap(),
    ),
    operation("class_stats", holds::<SMALL>, |scene| {
        let class = SizeClass::of(layout(SMALL)).unwrap();
        _ = scene.heap.class_stats(class);
    }),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: NOTHING }
}

/// Allocates an object and frees it, as most handlers do.
fn brief<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        scene.take(SMALL, &scene.theirs);
        scene.give(&scene.theirs);
    });
}

/// Frees neighbours of what the operation has, and keeps objects of several sizes.
fn busy<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        scene.give(&scene.spare);
        for bytes in [SMALL, SMALL, MIDDLE, LARGE, SMALL] {
            scene.take(bytes, &scene.theirs);
        }
        scene.give(&scene.spare);
        scene.give(&scene.theirs);
    });
}

/// Returns what there is, and asks others to do so.
fn draining<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        scene.give(&scene.spare);
        scene.heap.drain(&pin());
        scene.heap.reclaim(&pin());
        scene.heap.run_pending_work(&pin());
    });
}

const CONTEXTS: &[Context<Scene>] = &[
    context("an interrupt: an object for a moment", brief::<0>),
    context("an interrupt: objects of all sizes", busy::<0>),
    context("an interrupt: drains", draining::<0>),
    context("another CPU: an object for a moment", brief::<1>),
    context("another CPU: objects of all sizes", busy::<1>),
    context("another CPU: drains", draining::<1>),
    context("another node: objects of all sizes", busy::<2>),
    context("another node: drains", draining::<2>),
    context("another CPU goes and comes", |scene| {
        on(1, || {
            scene.take(SMALL, &scene.theirs);
            scene.heap.cpu_offline(&pin()).unwrap();
            scene.give(&scene.theirs);
            scene.heap.cpu_online(&pin()).unwrap();
        });
    }),
];

/// With measures against wrong uses, operations take ten times as long, and there are as many contexts.
const PLAN: Plan = Plan::traps(if cfg!(feature = "hardening") { 600 } else { 20_000 });

fn explore(name: &str, operations: &[Operation<Scene>]) {
    let (scene, plan) = (Scene::new, PLAN);
    Matrix { name, scene, operations, contexts: CONTEXTS, check: |_| {}, plan, renew: None }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn allocations() {
    explore("heap: allocations", ALLOCATIONS);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn frees() {
    explore("heap: frees", FREES);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn what_cpus_keep() {
    explore("heap: caches", KEEPING);
}

/// Wrong frees, each of which is refused and reported, whatever happens meanwhile.
#[cfg(feature = "hardening")]
const WRONG: &[Operation<Scene>] = &[
    operation("a second free", holds::<SMALL>, |scene| {
        let (object, bytes) = scene.ready.pop().unwrap();
        // SAFETY: the first free is right, and the second must be refused.
        unsafe {
            scene.heap.free(object, layout(bytes)).unwrap();
            refused(scene, object, layout(bytes));
        }
    }),
    operation("a second free of 20 KiB", holds::<LARGE>, |scene| {
        let (object, bytes) = scene.ready.pop().unwrap();
        // SAFETY: as above.
        unsafe {
            scene.heap.free(object, layout(bytes)).unwrap();
            refused(scene, object, layout(bytes));
        }
    }),
    operation("a free with another layout, and a right one", holds::<60>, |scene| {
        let (object, bytes) = scene.ready.pop().unwrap();
        // SAFETY: the first free must be refused, and the second is right.
        unsafe {
            refused(scene, object, layout(bytes - 1));
            scene.heap.free(object, layout(bytes)).unwrap();
        }
    }),
];

/// Frees memory wrongly.
///
/// # Safety
///
/// The free is refused.
#[cfg(feature = "hardening")]
unsafe fn refused(scene: &Scene, object: NonNull<u8>, layout: std::alloc::Layout) {
    // SAFETY: the caller's promise.
    unsafe { scene.heap.free(object, layout) }.unwrap_err();
    scene.wrong.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// A context may have got the memory between the two frees: then the second one would be its own.
#[cfg(feature = "hardening")]
const HARMLESS: &[Context<Scene>] = &[
    context("an interrupt: drains", draining::<0>),
    context("another CPU: an object for a moment", brief::<1>),
    context("another CPU: drains", draining::<1>),
    context("another node: drains", draining::<2>),
];

#[test]
#[cfg(feature = "hardening")]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn wrong_frees() {
    let (scene, plan) = (Scene::new, PLAN);
    let (name, operations, contexts) = ("heap: wrong frees", WRONG, HARMLESS);
    Matrix { name, scene, operations, contexts, check: |_| {}, plan, renew: None }.explore();
}

#[cfg(feature = "leak-tracking")]
const LISTS: &[Operation<Scene>] = &[operation(
    "live_by_site",
    |scene| {
        holds::<SMALL>(scene);
        holds::<LARGE>(scene);
    },
    |scene| {
        let mut bytes = 0;
        scene.heap.live_by_site(|live| bytes += live.bytes).unwrap();
        // What the operation has is out throughout.
        assert!(bytes >= 3 * (SMALL + LARGE) as u64, "{bytes}");
    },
)];

#[test]
#[cfg(feature = "leak-tracking")]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn lists_of_what_is_out() {
    // Few contexts: the list looks at every page near which the heap had memory.
    let (scene, plan, contexts) = (Scene::new, Plan::traps(40_000), &[CONTEXTS[1], CONTEXTS[4]]);
    let (name, operations) = ("heap: lists", LISTS);
    Matrix { name, scene, operations, contexts, check: |_| {}, plan, renew: None }.explore();
}
