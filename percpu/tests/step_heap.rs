//! Every operation of the heap, stopped after each of its instructions while another context of
//! the CPU, or another CPU, uses the heap: every allocation is served, objects keep their contents,
//! nobody gets what somebody has, and in the end all pages are back.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{Machine, become_cpu, pin};
use topomem_percpu::{CpuId, Heap, LargeStats, Platform, SizeClass};
use topomem_stepper::{Context, Matrix, Operation, Plan};

/// Objects that somebody holds, in a fixed place.
struct Held {
    objects: [(AtomicUsize, AtomicUsize); 160],
    count: AtomicUsize,
}

impl Default for Held {
    fn default() -> Held {
        let objects = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 160];
        Held { objects, count: AtomicUsize::new(0) }
    }
}

impl Held {
    fn push(&self, object: NonNull<u8>, bytes: usize) {
        let count = self.count.load(Relaxed);
        let place = &self.objects[count];
        place.0.store(object.as_ptr().expose_provenance(), Relaxed);
        place.1.store(bytes, Relaxed);
        self.count.store(count + 1, Relaxed);
    }

    fn pop(&self) -> Option<(NonNull<u8>, usize)> {
        let count = self.count.load(Relaxed).checked_sub(1)?;
        self.count.store(count, Relaxed);
        Some(self.at(count))
    }

    fn at(&self, index: usize) -> (NonNull<u8>, usize) {
        let place = &self.objects[index];
        let object = NonNull::new(std::ptr::with_exposed_provenance_mut(place.0.load(Relaxed))).unwrap();
        (object, place.1.load(Relaxed))
    }

    fn all(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        (0..self.count.load(Relaxed)).map(|index| self.at(index))
    }
}

/// The CPUs of the machine, all played by this thread: spinning lets nobody else get on, so it does
/// not give the host's CPU away.
struct Cpus;

// SAFETY: the thread plays one CPU at a time, and the heap asks for no physical address.
unsafe impl Platform for Cpus {
    fn current_cpu(&self) -> CpuId {
        pin().cpu()
    }

    fn phys_to_virt(&self, _: x86_64::PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

/// Two nodes of two CPUs: 0 and 1, 2 and 3.
struct Scene {
    heap: Heap<Cpus, &'static Machine>,
    /// What the operation allocated.
    ours: Held,
    /// What the operation is to free.
    ready: Held,
    /// What the context allocated.
    theirs: Held,
    /// What the context may free.
    spare: Held,
    /// Pages that the heap needs for itself.
    own_pages: usize,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// Runs `f` as `cpu`, and goes back to who it was.
fn on<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
    let before = pin().cpu().index();
    become_cpu(cpu);
    let result = f();
    become_cpu(before);
    result
}

/// A byte that no other object near it has.
fn tag(object: NonNull<u8>) -> u8 {
    (object.as_ptr().addr() >> 3) as u8 ^ 0x3c
}

impl Scene {
    fn new() -> Scene {
        let machine: &'static Machine = Box::leak(Box::new(Machine::new(2, 2, 4 << 20)));
        let heap = Heap::new(Cpus, machine);
        (0..4).for_each(|cpu| on(cpu, || heap.cpu_online(&pin()).unwrap()));
        let held = Held::default;
        let mut scene =
            Scene { heap, ours: held(), ready: held(), theirs: held(), spare: held(), own_pages: 0 };
        // The heap makes its own places when memory of a node is used first, and keeps them.
        for cpu in [0, 2] {
            on(cpu, || {
                scene.take(SMALL, &scene.ours);
                scene.give(&scene.ours);
            });
        }
        scene.drain();
        scene.own_pages = machine.outstanding();
        scene
    }

    fn keep(&self, object: NonNull<u8>, bytes: usize, held: &Held) {
        // SAFETY: the object was just allocated; both ends of it are written.
        unsafe {
            object.write(tag(object));
            object.add(bytes - 1).write(tag(object));
        }
        held.push(object, bytes);
    }

    fn take(&self, bytes: usize, held: &Held) {
        let object = self.heap.alloc(layout(bytes)).unwrap();
        self.keep(object, bytes, held);
    }

    fn check(object: NonNull<u8>, bytes: usize) {
        // SAFETY: the object is held.
        let ends = unsafe { [object.read(), object.add(bytes - 1).read()] };
        assert_eq!(ends, [tag(object); 2], "an object changed under its holder");
    }

    fn give(&self, held: &Held) {
        let Some((object, bytes)) = held.pop() else { return };
        Self::check(object, bytes);
        // SAFETY: allocated with this layout, and held until now.
        unsafe { self.heap.dealloc(object, layout(bytes)) }.unwrap();
    }

    /// Objects of one slab for operation and context, alternating.
    fn share_a_slab(&self, bytes: usize, count: usize) {
        for index in 0..count {
            self.take(bytes, if index % 2 == 0 { &self.ready } else { &self.spare });
        }
    }

    /// All CPUs return what they have, until nothing more comes.
    fn drain(&self) {
        for _ in 0..2 {
            for cpu in 0..4 {
                on(cpu, || self.heap.drain(&pin()));
            }
        }
    }

    /// Checks what is held, frees it, and checks that nothing else is in use.
    fn settle(&self) {
        let everyone = [&self.ours, &self.ready, &self.theirs, &self.spare];
        let mut all: Vec<_> = everyone.into_iter().flat_map(Held::all).collect();
        all.sort();
        all.iter().for_each(|&(object, bytes)| Self::check(object, bytes));
        for pair in all.windows(2) {
            let end = pair[0].0.as_ptr().addr() + pair[0].1;
            assert!(end <= pair[1].0.as_ptr().addr(), "handed out twice: {pair:?}");
        }
        on(1, || everyone.iter().for_each(|held| (0..held.all().count()).for_each(|_| self.give(held))));
        for cpu in 0..4 {
            on(cpu, || self.heap.cpu_online(&pin())).unwrap();
        }
        self.drain();
        self.heap.validate().unwrap();
        for class in SizeClass::all() {
            let stats = self.heap.class_stats(class);
            assert_eq!((stats.live, stats.cached, stats.free, stats.slabs), (0, 0, 0, 0), "{class:?}");
        }
        assert_eq!(self.heap.large_stats(), LargeStats::default());
        assert_eq!(self.heap.source().outstanding(), self.own_pages, "pages are lost");
    }
}

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

const NOTHING: fn(&Scene) = |_| {};
const SMALL: usize = 64;
const MIDDLE: usize = 2048;
const LARGEST_CLASS: usize = 16 << 10;
const LARGE: usize = 20 << 10;
const HUGE: usize = 256 << 10;

fn holds<const BYTES: usize>(scene: &Scene) {
    scene.share_a_slab(BYTES, 6);
}

/// The same, and the magazines are empty.
fn drained<const BYTES: usize>(scene: &Scene) {
    holds::<BYTES>(scene);
    scene.drain();
}

/// More than two magazines full, all free again: the depot has some.
fn stocked(scene: &Scene) {
    (0..150).for_each(|_| scene.take(SMALL, &scene.ours));
    (0..150).for_each(|_| scene.give(&scene.ours));
    holds::<SMALL>(scene);
}

/// The CPU keeps some runs, and the one of the operation's last object is not among them.
fn keeps_runs(scene: &Scene) {
    holds::<LARGE>(scene);
    (0..3).for_each(|_| free(scene));
    holds::<LARGE>(scene);
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
    let moved = unsafe { scene.heap.realloc(object, layout(FROM), TO) }.unwrap();
    // SAFETY: the contents were copied.
    assert_eq!(unsafe { moved.read() }, tag(object));
    scene.keep(moved, TO, &scene.ours);
}

const ALLOCATIONS: &[Operation<Scene>] = &[
    operation("alloc 64 B, a hit", holds::<SMALL>, alloc::<SMALL>),
    operation("alloc 64 B, from a slab", drained::<SMALL>, alloc::<SMALL>),
    operation("alloc 64 B, a new slab", NOTHING, alloc::<SMALL>),
    operation("70 of 64 B, from the depot", stocked, |scene| (0..70).for_each(|_| alloc::<SMALL>(scene))),
    operation("alloc 2 KiB, a new slab", NOTHING, alloc::<MIDDLE>),
    operation("alloc 16 KiB, from a slab", drained::<LARGEST_CLASS>, alloc::<LARGEST_CLASS>),
    operation("alloc 20 KiB", NOTHING, alloc::<LARGE>),
    operation("alloc 20 KiB, a kept run", keeps_runs, alloc::<LARGE>),
    operation("alloc 40 KiB, beside kept runs", keeps_runs, alloc::<{ 2 * LARGE }>),
    operation("alloc_zeroed", holds::<SMALL>, |scene| {
        let object = scene.heap.alloc_zeroed(layout(SMALL)).unwrap();
        scene.keep(object, SMALL, &scene.ours);
    }),
    operation("alloc_zeroed of 20 KiB", NOTHING, |scene| {
        let object = scene.heap.alloc_zeroed(layout(LARGE)).unwrap();
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
        "70 frees of 64 B, to the depot",
        |scene| (0..70).for_each(|_| scene.take(SMALL, &scene.ready)),
        |scene| (0..70).for_each(|_| free(scene)),
    ),
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
    operation("free 256 KiB, for which kept runs make room", |scene| fills_the_cache::<HUGE>(scene, 9), free),
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
        "tend, asked to drain",
        |scene| {
            stocked(scene);
            on(1, || scene.heap.reclaim(&pin()));
        },
        |scene| _ = scene.heap.tend(&pin()),
    ),
    operation(
        "tend, with frees of another node",
        |scene| {
            holds::<SMALL>(scene);
            on(2, || (0..3).for_each(|_| free(scene)));
        },
        |scene| _ = scene.heap.tend(&pin()),
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
        scene.heap.tend(&pin());
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

fn explore(name: &str, operations: &[Operation<Scene>]) {
    let (scene, plan) = (Scene::new, Plan::traps(20_000));
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
