//! loom: objects freed from anywhere come home, each once, with all that was done to them
//! before; a slab leaves its shelf only when nobody will touch it again.

use std::alloc::{Layout, alloc, dealloc};
use std::vec::Vec;

use crate::PhysAddr;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::CpuId;
use crate::heap::node::arrivals::Arrivals;
use crate::slab::SlabShape;

struct Host;

// SAFETY: the models pin nothing, and map nothing.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        unreachable!("shelves ask for no physical address")
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

/// A shelf of the largest class, whose slabs have the fewest objects, and the witnesses: a cell
/// per object that each owner writes. Without a happens-before from owner to owner, loom
/// reports the race.
struct Model {
    shelf: Shelf,
    /// Per slab.
    witnesses: Vec<Vec<UnsafeCell<usize>>>,
    /// The slabs' addresses.
    bases: Vec<NonNull<u8>>,
}

// SAFETY: the bases are only addresses to find witnesses by.
unsafe impl Send for Model {}
// SAFETY: as above; loom checks the witnesses.
unsafe impl Sync for Model {}

fn pin() -> CpuPin {
    // SAFETY: the models use pins to name the holders of locks only.
    unsafe { CpuPin::new(CpuId::BOOT) }
}

fn class() -> SizeClass {
    SizeClass::new(crate::CLASS_COUNT - 1).unwrap()
}

fn shape() -> SlabShape {
    SlabShape::ALL[class().index()]
}

fn layout() -> Layout {
    let bytes = shape().order.bytes() as usize;
    Layout::from_size_align(bytes, bytes).unwrap()
}

fn take(shelf: &mut LockedShelf<'_>) -> Option<NonNull<u8>> {
    let mut one = Chain::EMPTY;
    shelf.take(1, &mut one);
    one.pop()
}

/// An object on its way from one thread to another.
struct Sent(NonNull<u8>);

// SAFETY: who has the value owns the object.
unsafe impl Send for Sent {}

impl Model {
    /// `slabs` slabs, each with `out` objects in callers' hands, and the others on the shelf.
    fn new(slabs: usize, out: usize) -> (Arc<Model>, Vec<Sent>) {
        let shelf = Shelf::new(class());
        let mut taken = Vec::new();
        let bases: Vec<_> = (0..slabs)
            .map(|_| {
                // SAFETY: fresh memory of the shape's layout, which nobody else has; the slab
                // is new, and has objects left.
                unsafe {
                    let base = NonNull::new(alloc(layout())).unwrap();
                    let (slab, mut objects) = Slab::new_in(base, class(), NodeId::ZERO);
                    taken.extend((0..out).map(|_| Sent(objects.pop().unwrap())));
                    shelf.add(slab, objects);
                    base
                }
            })
            .collect();
        let witnesses = (0..slabs).map(|_| (0..shape().capacity).map(UnsafeCell::new).collect()).collect();
        drop(shelf.lock(&Host, &pin(), Patience::None));
        (Arc::new(Model { shelf, witnesses, bases }), taken)
    }

    fn use_object(&self, object: NonNull<u8>) {
        let address = object.addr().get();
        let bytes = layout().size();
        let of_slab = |base: &NonNull<u8>| (base.addr().get()..base.addr().get() + bytes).contains(&address);
        let slab = self.bases.iter().position(of_slab).unwrap();
        let index = shape().index_of(class(), address % bytes).unwrap();
        // SAFETY: loom checks that no other thread is at it.
        self.witnesses[slab][index].with_mut(|uses| unsafe { *uses += 1 });
    }

    /// All objects are home: on the shelf's lists, each once, ready for the next owner.
    fn check(&self) {
        let mut shelf = self.shelf.lock(&Host, &pin(), Patience::None).unwrap();
        let all = self.bases.len() * shape().capacity;
        assert_eq!(shelf.counts(), ShelfCounts { slabs: self.bases.len(), free: all });
        shelf.validate(NodeId::ZERO, class()).unwrap();
        for _ in 0..all {
            self.use_object(take(&mut shelf).unwrap());
        }
        drop(shelf);
        for base in &self.bases {
            // SAFETY: nobody uses the slabs any more.
            unsafe { dealloc(base.as_ptr(), layout()) };
        }
    }

    fn free_remotely(&self, object: Sent) {
        self.use_object(object.0);
        // SAFETY: the object was sent to us alone.
        unsafe { self.shelf.send_home(Slab::of(object.0, class()), object.0) };
    }

    fn take(&self) -> Option<Sent> {
        let mut shelf = self.shelf.lock(&Host, &pin(), Patience::None)?;
        let object = take(&mut shelf);
        assert!(shelf.unlock().pop_run().is_none());
        let object = object?;
        self.use_object(object);
        Some(Sent(object))
    }
}

/// Each object is freed by a thread of its own. The caller yields, for loom to try the orders in
/// which the frees come first.
fn free_from_threads(model: &Arc<Model>, objects: Vec<Sent>) -> Vec<thread::JoinHandle<()>> {
    let free = |object| {
        let model = model.clone();
        thread::spawn(move || model.free_remotely(object))
    };
    let freers = objects.into_iter().map(free).collect();
    thread::yield_now();
    freers
}

#[test]
fn objects_freed_from_anywhere_come_home() {
    loom::model(|| {
        // All but one are out, two of them with the threads: the owner takes what comes back.
        let (model, mut sent) = Model::new(1, shape().capacity - 1);
        let freers = free_from_threads(&model, sent.split_off(sent.len() - 2));
        let taken: Vec<Sent> = core::iter::from_fn(|| model.take()).collect();
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        taken.into_iter().chain(sent).for_each(|object| model.free_remotely(object));
        model.check();
    });
}

#[test]
fn two_takers_get_different_objects() {
    loom::model(|| {
        let (model, sent) = Model::new(1, 1);
        let other = model.clone();
        let taker = thread::spawn(move || {
            sent.into_iter().for_each(|object| other.free_remotely(object));
            other.take().into_iter().for_each(|object| other.free_remotely(object));
        });
        let taken = model.take();
        taker.join().unwrap();
        taken.into_iter().for_each(|object| model.free_remotely(object));
        model.check();
    });
}

#[test]
fn without_the_lock_objects_are_taken_once() {
    loom::model(|| {
        // One context frees, one takes from the inbox with the lock, one without it.
        let (model, mut sent) = Model::new(1, 3);
        let kept = sent.pop();
        let freers = free_from_threads(&model, sent);
        let waiting = model.shelf.take_waiting().map(Sent);
        waiting.iter().for_each(|object| model.use_object(object.0));
        let shelved = model.take();
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        kept.into_iter().chain(waiting).chain(shelved).for_each(|object| model.free_remotely(object));
        model.check();
    });
}

#[test]
fn who_takes_without_the_lock_leaves_the_slab_to_be_found() {
    loom::model(|| {
        let (model, mut sent) = Model::new(1, 3);
        let kept = sent.split_off(2);
        sent.into_iter().for_each(|object| model.free_remotely(object));
        let other = model.clone();
        let taker = thread::spawn(move || {
            let taken = other.shelf.take_waiting().map(Sent);
            taken.iter().for_each(|object| other.use_object(object.0));
            taken
        });
        let shelved = model.take();
        let waiting = taker.join().unwrap();
        kept.into_iter().chain(waiting).chain(shelved).for_each(|object| model.free_remotely(object));
        model.check();
    });
}

#[test]
fn the_inbox_loses_no_slab() {
    loom::model(|| {
        // With another object of each slab out, neither is emptied.
        let (model, mut sent) = Model::new(2, 2);
        sent.remove(2);
        sent.remove(0);
        let freers = free_from_threads(&model, sent);
        drop(model.shelf.lock(&Host, &pin(), Patience::None));
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        let shelf = model.shelf.lock(&Host, &pin(), Patience::None).unwrap();
        assert_eq!(shelf.counts().free, 2 * (shape().capacity - 1));
        drop(shelf);
        for base in &model.bases {
            // SAFETY: nobody uses the slabs any more.
            unsafe { dealloc(base.as_ptr(), layout()) };
        }
    });
}

#[test]
fn a_slab_that_left_its_shelf_is_touched_by_nobody() {
    loom::model(|| {
        let (model, sent) = Model::new(1, 2);
        let freers = free_from_threads(&model, sent);
        // Emptied or not: if so, its pages are at once a new slab, which a late push would break.
        let mut shelf = model.shelf.lock(&Host, &pin(), Patience::None).unwrap();
        shelf.release_spares();
        if let Some(run) = shelf.unlock().pop_run() {
            // SAFETY: the run came back whole.
            unsafe {
                let (slab, objects) = Slab::new_in(run, class(), NodeId::ZERO);
                model.shelf.add(slab, objects);
            }
        }
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        model.check();
    });
}

/// What a CPU that tends its node's heap does: it collects the inboxes that are noted.
fn collect(model: &Model, arrivals: &Arrivals) {
    for noted in arrivals.take() {
        match model.shelf.lock(&Host, &pin(), Patience::None) {
            Some(shelf) => assert!(shelf.unlock().pop_run().is_none()),
            None => arrivals.note(noted),
        }
    }
}

#[test]
fn what_came_home_is_noted_until_it_is_collected() {
    loom::model(|| {
        // With another object of each slab out, neither is emptied.
        let (model, mut sent) = Model::new(2, 2);
        sent.remove(2);
        sent.remove(0);
        let arrivals = Arc::new(Arrivals::new());
        let freers: Vec<_> = sent
            .into_iter()
            .map(|object| {
                let (model, arrivals) = (model.clone(), arrivals.clone());
                thread::spawn(move || {
                    // SAFETY: the object was sent to us alone.
                    let arrival = unsafe { model.shelf.send_home(Slab::of(object.0, class()), object.0) };
                    arrival.into_iter().for_each(|arrival| arrivals.note_arrival(class(), arrival));
                })
            })
            .collect();
        collect(&model, &arrivals);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        // Nobody frees any more: what is not home is noted.
        collect(&model, &arrivals);
        model.shelf.inbox.take(|_| panic!("a slab waits that nobody knows of"));
        assert_eq!(arrivals.take().count(), 0);
        for base in &model.bases {
            // SAFETY: nobody uses the slabs any more.
            unsafe { dealloc(base.as_ptr(), layout()) };
        }
    });
}

#[test]
fn what_is_reclaimed_beside_an_allocation_and_a_free_is_whole() {
    loom::model(|| {
        let (model, sent) = Model::new(1, 1);
        let freers = free_from_threads(&model, sent);
        // What the allocation takes, from the slab's lists or not at all, comes back before the look at the lists.
        let taken = model.take();
        taken.into_iter().for_each(|object| model.free_remotely(object));
        let mut shelf = model.shelf.lock(&Host, &pin(), Patience::None).unwrap();
        let whole = shelf.counts().free == shape().capacity;
        shelf.release_spares();
        let run = shelf.unlock().pop_run();
        assert_eq!(run.is_some(), whole, "a slab leaves if, and only if, all of its objects are free");
        if let Some(run) = run {
            // SAFETY: the run came back whole.
            unsafe {
                let (slab, objects) = Slab::new_in(run, class(), NodeId::ZERO);
                model.shelf.add(slab, objects);
            }
        }
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        model.check();
    });
}
