//! loom: objects freed from anywhere come home, each once, with all that was done to them
//! before; a slab leaves its shelf only when nobody will touch it again.

use std::alloc::{Layout, alloc, dealloc};
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use x86_64::PhysAddr;

use super::*;
use crate::CpuId;

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
    witnesses: Vec<UnsafeCell<usize>>,
    base: NonNull<u8>,
}

// SAFETY: the base is only an address to find witnesses by.
unsafe impl Send for Model {}
// SAFETY: as above; loom checks the witnesses.
unsafe impl Sync for Model {}

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

/// An object on its way from one thread to another.
struct Sent(NonNull<u8>);

// SAFETY: who has the value owns the object.
unsafe impl Send for Sent {}

impl Model {
    /// A slab with `out` objects in callers' hands, and one more on the shelf.
    fn new(out: usize) -> (Arc<Model>, Vec<Sent>) {
        // SAFETY: fresh memory of the shape's layout, which nobody else has.
        let (base, (slab, mut objects)) = unsafe {
            let base = NonNull::new(alloc(layout())).unwrap();
            (base, Slab::new_in(base, class(), NodeId::ZERO))
        };
        let witnesses = (0..shape().capacity).map(UnsafeCell::new).collect();
        let model = Arc::new(Model { shelf: Shelf::new(class()), witnesses, base });
        let taken = (0..out).map(|_| Sent(objects.pop().unwrap())).collect();
        // SAFETY: the slab is new, and has objects left.
        unsafe { model.shelf.add(slab, objects) };
        (model, taken)
    }

    fn use_object(&self, object: NonNull<u8>) {
        let offset = object.addr().get() - self.base.addr().get();
        let index = shape().index_of(class(), offset).unwrap();
        // SAFETY: loom checks that no other thread is at it.
        self.witnesses[index].with_mut(|uses| unsafe { *uses += 1 });
    }

    fn free_remotely(&self, object: Sent) {
        self.use_object(object.0);
        // SAFETY: the object was sent to us alone.
        unsafe { self.shelf.send_home(Slab::of(object.0, class()), object.0) };
    }

    fn take(&self) -> Option<Sent> {
        let mut shelf = self.shelf.lock(&Host, Patience::None)?;
        let object = shelf.take();
        assert!(shelf.unlock().pop_run().is_none());
        let object = object?;
        self.use_object(object);
        Some(Sent(object))
    }
}

#[test]
fn objects_freed_from_anywhere_come_home() {
    loom::model(|| {
        let (model, sent) = Model::new(2);
        let freers: Vec<_> = sent
            .into_iter()
            .map(|object| {
                let model = model.clone();
                thread::spawn(move || model.free_remotely(object))
            })
            .collect();
        let taken = model.take();
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        if let Some(object) = taken {
            model.free_remotely(object);
        }
        let shelf = model.shelf.lock(&Host, Patience::None).unwrap();
        assert_eq!(shelf.counts(), ShelfCounts { slabs: 1, free: shape().capacity });
        shelf.validate(NodeId::ZERO, class()).unwrap();
        drop(shelf);
        // SAFETY: all objects are home.
        unsafe { dealloc(model.base.as_ptr(), layout()) };
    });
}

#[test]
fn two_takers_get_different_objects() {
    loom::model(|| {
        let (model, sent) = Model::new(1);
        let other = model.clone();
        let taker = thread::spawn(move || {
            sent.into_iter().for_each(|object| other.free_remotely(object));
            other.take().map(|object| other.free_remotely(object));
        });
        let taken = model.take();
        taker.join().unwrap();
        taken.into_iter().for_each(|object| model.free_remotely(object));
        let shelf = model.shelf.lock(&Host, Patience::None).unwrap();
        assert_eq!(shelf.counts().free, shape().capacity);
        shelf.validate(NodeId::ZERO, class()).unwrap();
        drop(shelf);
        // SAFETY: all objects are home.
        unsafe { dealloc(model.base.as_ptr(), layout()) };
    });
}

#[test]
fn a_slab_that_left_its_shelf_is_touched_by_nobody() {
    loom::model(|| {
        let (model, sent) = Model::new(2);
        let freers: Vec<_> = sent
            .into_iter()
            .map(|object| {
                let model = model.clone();
                thread::spawn(move || model.free_remotely(object))
            })
            .collect();
        // Emptied or not: if so, its pages are at once a new slab, which a late push would break.
        let mut shelf = model.shelf.lock(&Host, Patience::None).unwrap();
        shelf.release_spare();
        let run = shelf.unlock().pop_run();
        if let Some(run) = run {
            // SAFETY: the run came back whole.
            unsafe {
                let (slab, objects) = Slab::new_in(run, class(), NodeId::ZERO);
                model.shelf.add(slab, objects);
            }
        }
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        let shelf = model.shelf.lock(&Host, Patience::None).unwrap();
        assert_eq!(shelf.counts(), ShelfCounts { slabs: 1, free: shape().capacity });
        shelf.validate(NodeId::ZERO, class()).unwrap();
        drop(shelf);
        // SAFETY: all objects are home.
        unsafe { dealloc(model.base.as_ptr(), layout()) };
    });
}
