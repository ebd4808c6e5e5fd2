//! Every operation of a pool, stopped after each of its instructions while another context of the CPU, or another
//! CPU, uses the pool: as long as no more objects are out than were reserved, none is refused, though the heap has
//! nothing; nobody gets what somebody has, and what was reserved is in the reserve again at the end.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod heap_scene;

use std::alloc::Layout;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{Machine, pin};
use heap_scene::{Cpus, Held, on};
use topomem_percpu::{HeapBox, Pool};
use topomem_stepper::{Context, Matrix, Operation, Plan};

type Object = [usize; 20];
type Objects = Pool<'static, Object, Cpus, &'static Machine>;

/// So many objects are reserved at first.
const RESERVED: usize = 4;

struct Scene {
    heap: heap_scene::Scene,
    pool: &'static Objects,
    /// What the operation allocated, or is to free.
    ours: Held,
    theirs: Held,
    /// All that the heap had.
    hoard: Held,
    /// How many objects of the pool were reserved meanwhile.
    added: AtomicUsize,
}

impl Scene {
    fn new() -> Scene {
        let heap = heap_scene::Scene::new();
        let pool: &'static Objects = Box::leak(Box::new(Pool::new(heap.heap)));
        pool.reserve(RESERVED).unwrap();
        Scene {
            heap,
            pool,
            ours: Held::default(),
            theirs: Held::default(),
            hoard: Held::default(),
            added: AtomicUsize::new(0),
        }
    }

    /// The page source gives nothing any more, and the heap has nothing.
    fn starve(&self) {
        self.heap.drain();
        self.heap.heap.source().allowance.store(0, Relaxed);
        // The slabs of the reserve's objects have others.
        while let Ok(object) = self.heap.heap.try_alloc(Layout::new::<Object>()) {
            self.hoard.push(object, size_of::<Object>());
        }
    }

    fn take(&self, held: &Held) {
        let (value, _) = self.pool.alloc([0; 20]).map_err(|refused| refused.error).unwrap().into_raw();
        let tag = value.addr().get();
        // SAFETY: the object is the holder's.
        unsafe { value.write([tag; 20]) };
        held.push(value.cast(), size_of::<Object>());
    }

    fn give(&self, held: &Held) {
        let Some((object, _)) = held.pop() else { return };
        // SAFETY: `take` gave the value up, which is valid, and held once.
        let value = unsafe { HeapBox::from_raw(object.cast::<Object>(), self.pool) };
        assert_eq!(*value, [object.addr().get(); 20], "an object changed under its holder");
    }

    /// Frees what is held, and checks that the reserve is full again.
    fn settle(&self) {
        let mut all: Vec<_> = [&self.ours, &self.theirs].into_iter().flat_map(Held::all).collect();
        all.sort();
        assert!(all.windows(2).all(|pair| pair[0].0 != pair[1].0), "handed out twice");
        for held in [&self.ours, &self.theirs] {
            (0..held.all().count()).for_each(|_| self.give(held));
        }
        let reserved = RESERVED + self.added.load(Relaxed);
        assert_eq!((self.pool.in_reserve(), self.pool.reserved()), (reserved, reserved));
        self.heap.heap.source().allowance.store(-1, Relaxed);
        while let Some((object, _)) = self.hoard.pop() {
            // SAFETY: allocated in `starve` with this layout, and not used.
            unsafe { self.heap.heap.free(object, Layout::new::<Object>()) }.unwrap();
        }
        self.heap.drain();
        self.heap.heap.validate().unwrap();
    }
}

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

fn alloc(scene: &Scene) {
    scene.take(&scene.ours);
}

fn free(scene: &Scene) {
    scene.give(&scene.ours);
}

/// Two objects of the reserve are out, and there are no others.
fn two_out(scene: &Scene) {
    scene.starve();
    (0..2).for_each(|_| alloc(scene));
}

/// One object of the reserve is out.
fn one_out(scene: &Scene) {
    scene.starve();
    alloc(scene);
}

/// Objects of the heap are out, too, so that a free finds the reserve full.
fn plenty(scene: &Scene) {
    (0..RESERVED + 2).for_each(|_| alloc(scene));
}

/// Reserves two objects more, if the heap has the memory.
fn reserve(scene: &Scene) {
    if scene.pool.reserve(2).is_ok() {
        scene.added.fetch_add(2, Relaxed);
    }
}

/// Operations that come to the reserve at once.
const FREES: &[Operation<Scene>] = &[
    operation("free to the reserve", two_out, free),
    operation("free, while the reserve is full", plenty, free),
    operation("counts", two_out, |scene| {
        assert!(scene.pool.in_reserve() <= scene.pool.reserved());
    }),
];

/// Operations that come to the reserve after the heap has found nothing, and end there.
const ALLOCATIONS: &[Operation<Scene>] = &[
    operation("alloc, of the reserve", Scene::starve, alloc),
    operation("alloc of the reserve's last but two", one_out, alloc),
    operation("free and alloc", two_out, |scene| {
        free(scene);
        alloc(scene);
    }),
];

/// Longer ones.
const OPERATIONS: &[Operation<Scene>] = &[
    operation("alloc, of the heap", |_| {}, alloc),
    operation("two of the reserve", Scene::starve, |scene| (0..2).for_each(|_| alloc(scene))),
    operation("reserve", |_| {}, reserve),
    operation("reserve, with no memory", Scene::starve, reserve),
    operation(
        "reserve, with memory for a part",
        |scene| {
            scene.heap.drain();
            // For the block of slots, but not for the objects.
            scene.heap.heap.source().allowance.store(1, Relaxed);
        },
        reserve,
    ),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: |_| {} }
}

/// Allocates an object and frees it.
fn brief<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        scene.take(&scene.theirs);
        scene.give(&scene.theirs);
    });
}

/// Allocates as many objects as may be out beside the operation's, and keeps one.
fn busy<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        (0..2).for_each(|_| scene.take(&scene.theirs));
        scene.give(&scene.theirs);
        scene.take(&scene.theirs);
        scene.give(&scene.theirs);
    });
}

/// The heap gives back what it has, and the reserve grows if there is memory.
fn growing<const CPU: usize>(scene: &Scene) {
    on(CPU, || {
        scene.heap.heap.drain(&pin());
        reserve(scene);
    });
}

const CONTEXTS: &[Context<Scene>] = &[
    context("an interrupt: an object for a moment", brief::<0>),
    context("an interrupt: objects", busy::<0>),
    context("an interrupt: a larger reserve", growing::<0>),
    context("another CPU: an object for a moment", brief::<1>),
    context("another CPU: objects", busy::<1>),
    context("another CPU: a larger reserve", growing::<1>),
    context("another node: objects", busy::<2>),
];

fn explore(name: &str, operations: &[Operation<Scene>], plan: Plan) {
    let contexts = CONTEXTS;
    // A reserve that has grown stays so.
    let renew = Some(16);
    Matrix { name, scene: Scene::new, operations, contexts, check: |_| {}, plan, renew }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn frees() {
    explore("pools: frees", FREES, Plan::exhaustive());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn allocations() {
    explore("pools: allocations", ALLOCATIONS, Plan::last(250));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn operations_as_wholes() {
    explore("pools", OPERATIONS, Plan::traps(1_500));
}
