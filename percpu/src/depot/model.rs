//! loom: magazines change hands whole, once, with what was done to their objects before.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc, dealloc};
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::SizeClass;

/// What an object's pages are to loom: a cell that each owner writes. Without a happens-before
/// from owner to owner, loom reports the race.
type Object = UnsafeCell<usize>;

fn magazine(objects: &[NonNull<u8>]) -> MagazineBox {
    // SAFETY: fresh memory of the class's size and alignment.
    let mut magazine = unsafe {
        let layout = Layout::from_size_align(256, 256).unwrap();
        MagazineBox::new_in(NonNull::new(alloc(layout)).unwrap())
    };
    for &object in objects {
        magazine.push(class(), object).unwrap();
    }
    magazine
}

fn class() -> SizeClass {
    SizeClass::new(0).unwrap()
}

fn write(object: NonNull<u8>) {
    // SAFETY: the objects of these models are `Object`s, and live as long as the model.
    unsafe { object.cast::<Object>().as_ref() }.with_mut(|value| unsafe { *value += 1 });
}

/// Empties a magazine, as the owner of its objects.
fn consume(mut magazine: MagazineBox) -> usize {
    let mut found = 0;
    while let Some(object) = magazine.pop() {
        write(object);
        found += 1;
    }
    // SAFETY: `magazine` allocated it with this layout.
    unsafe { dealloc(magazine.into_object().as_ptr(), Layout::from_size_align(256, 256).unwrap()) };
    found
}

#[test]
fn a_magazine_has_one_owner_at_a_time() {
    loom::model(|| {
        let objects: Vec<Object> = (0..3).map(Object::new).collect();
        let address = |index: usize| NonNull::from(&objects[index]).cast::<u8>();
        let depot = Arc::new(Depot::new());
        depot.put_full(magazine(&[address(0)])).ok().unwrap();
        let racers: Vec<_> = [1, 2]
            .map(|index| {
                let depot = depot.clone();
                let mine = magazine(&[address(index)]);
                thread::spawn(move || {
                    let mut mine = mine;
                    let object = mine.pop().unwrap();
                    write(object);
                    mine.push(class(), object).unwrap();
                    let kept = depot.put_full(mine).err().map_or(0, consume);
                    kept + depot.take_full().map_or(0, consume)
                })
            })
            .into_iter()
            .collect();
        let mut found: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
        while let Some(rest) = depot.take_full() {
            found += consume(rest);
        }
        assert_eq!(found, 3);
    });
}
