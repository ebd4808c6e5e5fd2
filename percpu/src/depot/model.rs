//! loom: magazines change hands whole, once, with what was done to their objects before.

use core::ptr::NonNull;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::slab::{Chain, next};

/// What an object's pages are to loom: a cell that each owner writes. Without a happens-before
/// from owner to owner, loom reports the race.
type Object = UnsafeCell<usize>;

/// An object, and in front of it the word by which it hangs on the next.
#[repr(C)]
struct Linked {
    link: Option<NonNull<u8>>,
    object: Object,
}

/// A magazine of `objects`, at least one.
fn magazine(objects: &[NonNull<u8>]) -> Magazine {
    let mut chain = Chain::EMPTY;
    for &object in objects {
        // SAFETY: the caller owns the objects, each of which begins with a link.
        unsafe { chain.push(object) };
    }
    // SAFETY: as above. (How many there are is nothing to a depot.)
    unsafe { Magazine::new(chain.head().unwrap()) }
}

/// A class whose magazines may take all places.
fn class() -> SizeClass {
    SizeClass::new(0).unwrap()
}

fn write(object: NonNull<u8>) {
    // SAFETY: the objects of these models are `Linked`, and live as long as the model.
    unsafe { object.cast::<Linked>().as_ref() }.object.with_mut(|value| unsafe { *value += 1 });
}

/// Uses the objects of a magazine, as their owner. Says how many there are.
fn consume(magazine: Magazine) -> usize {
    let mut found = 0;
    let mut cursor = Some(magazine.into_first());
    while let Some(object) = cursor {
        write(object);
        found += 1;
        // SAFETY: the objects are ours, each linked by `magazine`.
        cursor = unsafe { next(object) };
    }
    found
}

#[test]
fn a_magazine_has_one_owner_at_a_time() {
    loom::model(|| {
        let mut objects: Vec<Linked> =
            (0..3).map(|index| Linked { link: None, object: Object::new(index) }).collect();
        let addresses: Vec<_> = objects.iter_mut().map(|object| NonNull::from(object).cast::<u8>()).collect();
        let address = |index: usize| addresses[index];
        let depot = Arc::new(Depot::new());
        depot.put(class(), CpuId::BOOT, magazine(&[address(0)])).ok().unwrap();
        let racers: Vec<_> = [1, 2]
            .map(|index| {
                let depot = depot.clone();
                let mine = magazine(&[address(index)]);
                let cpu = CpuId::new(index - 1).unwrap();
                thread::spawn(move || {
                    let first = mine.into_first();
                    write(first);
                    // SAFETY: the objects are ours, as they were.
                    let kept =
                        depot.put(class(), cpu, unsafe { Magazine::new(first) }).err().map_or(0, consume);
                    kept + depot.take(class(), cpu).map_or(0, consume)
                })
            })
            .into_iter()
            .collect();
        let mut found: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
        while let Some(rest) = depot.take(class(), CpuId::BOOT) {
            found += consume(rest);
        }
        assert_eq!(found, 3);
    });
}
