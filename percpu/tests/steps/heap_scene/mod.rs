//! A heap on a machine that one thread plays, with all measures against wrong uses that the build has, and what the
//! stepped operations hold of it.
#![allow(dead_code)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use topomem_percpu::{CpuId, Heap, LargeStats, Platform, SizeClass};

use crate::common::{Machine, become_cpu, pin};

/// A small object.
pub(crate) const SMALL: usize = 64;

/// Objects that somebody holds, in a fixed place.
pub(crate) struct Held {
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
    pub(crate) fn push(&self, object: NonNull<u8>, bytes: usize) {
        let count = self.count.load(Relaxed);
        let place = &self.objects[count];
        place.0.store(object.as_ptr().expose_provenance(), Relaxed);
        place.1.store(bytes, Relaxed);
        self.count.store(count + 1, Relaxed);
    }

    pub(crate) fn pop(&self) -> Option<(NonNull<u8>, usize)> {
        let count = self.count.load(Relaxed).checked_sub(1)?;
        self.count.store(count, Relaxed);
        Some(self.at(count))
    }

    pub(crate) fn at(&self, index: usize) -> (NonNull<u8>, usize) {
        let place = &self.objects[index];
        let object = NonNull::new(std::ptr::with_exposed_provenance_mut(place.0.load(Relaxed))).unwrap();
        (object, place.1.load(Relaxed))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        (0..self.count.load(Relaxed)).map(|index| self.at(index))
    }
}

/// The CPUs of the machine, all played by this thread: spinning lets nobody else get on, so it does
/// not give the host's CPU away.
pub(crate) struct Cpus;

// SAFETY: the thread plays one CPU at a time, and the heap asks for no physical address.
unsafe impl Platform for Cpus {
    fn current_cpu(&self) -> CpuId {
        pin().cpu()
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

/// Two nodes of two CPUs: 0 and 1, 2 and 3.
pub(crate) struct Scene {
    pub(crate) heap: &'static Heap<Cpus, &'static Machine>,
    /// What the operation allocated.
    pub(crate) ours: Held,
    /// What the operation is to free.
    pub(crate) ready: Held,
    /// What the context allocated.
    pub(crate) theirs: Held,
    /// What the context may free.
    pub(crate) spare: Held,
    /// How many wrong frees were made, each of which the heap must report.
    pub(crate) wrong: AtomicUsize,
    /// Pages that the heap needs for itself.
    own_pages: usize,
}

pub(crate) fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// Runs `f` as `cpu`, and goes back to who it was.
pub(crate) fn on<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
    let before = pin().cpu().index();
    become_cpu(cpu);
    let result = f();
    become_cpu(before);
    result
}

/// A byte that no other object near it has.
pub(crate) fn tag(object: NonNull<u8>) -> u8 {
    (object.as_ptr().addr() >> 3) as u8 ^ 0x3c
}

fn new_heap(machine: &'static Machine) -> Box<Heap<Cpus, &'static Machine>> {
    #[cfg(feature = "hardening")]
    return Box::new(Heap::with_hardening(Cpus, machine, topomem_percpu::Hardening::ALL));
    #[cfg(not(feature = "hardening"))]
    Box::new(Heap::new(Cpus, machine))
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let machine: &'static Machine = Box::leak(Box::new(Machine::new(2, 2, 4 << 20)));
        let heap = Box::leak(new_heap(machine));
        (0..4).for_each(|cpu| on(cpu, || heap.cpu_online(&pin()).unwrap()));
        let held = Held::default;
        let mut scene = Scene {
            heap,
            ours: held(),
            ready: held(),
            theirs: held(),
            spare: held(),
            wrong: AtomicUsize::new(0),
            own_pages: 0,
        };
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

    pub(crate) fn keep(&self, object: NonNull<u8>, bytes: usize, held: &Held) {
        // SAFETY: the object was just allocated; both ends of it are written.
        unsafe {
            object.write(tag(object));
            object.add(bytes - 1).write(tag(object));
        }
        held.push(object, bytes);
    }

    pub(crate) fn take(&self, bytes: usize, held: &Held) {
        let object = self.heap.try_alloc(layout(bytes)).unwrap();
        self.keep(object, bytes, held);
    }

    pub(crate) fn check(object: NonNull<u8>, bytes: usize) {
        // SAFETY: the object is held.
        let ends = unsafe { [object.read(), object.add(bytes - 1).read()] };
        assert_eq!(ends, [tag(object); 2], "an object changed under its holder");
    }

    pub(crate) fn give(&self, held: &Held) {
        let Some((object, bytes)) = held.pop() else { return };
        Self::check(object, bytes);
        // SAFETY: allocated with this layout, and held until now.
        unsafe { self.heap.free(object, layout(bytes)) }.unwrap();
    }

    /// Objects of one slab for operation and context, alternating.
    pub(crate) fn share_a_slab(&self, bytes: usize, count: usize) {
        for index in 0..count {
            self.take(bytes, if index % 2 == 0 { &self.ready } else { &self.spare });
        }
    }

    /// All CPUs return what they have, until nothing more comes.
    pub(crate) fn drain(&self) {
        for _ in 0..2 {
            for cpu in 0..4 {
                on(cpu, || self.heap.drain(&pin()));
            }
        }
    }

    /// Checks what is held, frees it, and checks that nothing else is in use.
    pub(crate) fn settle(&self) {
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
        let reported = self.heap.source().refused.swap(0, Relaxed);
        assert_eq!(reported, self.wrong.swap(0, Relaxed), "wrong uses are reported, and no others");
    }
}
