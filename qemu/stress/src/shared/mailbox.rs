//! Lock-free rings that carry frames and objects from one CPU to another.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// What fits into a letter: an encoded [`Parcel`](super::parcel::Parcel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Letter {
    pub head: u64,
    /// Travels as a pointer, so that the receiver may use what it points to.
    pub pointer: *mut u8,
    pub tail: u64,
}

/// A place for a letter in a ring.
#[derive(Debug)]
struct Place {
    head: AtomicU64,
    pointer: AtomicPtr<u8>,
    tail: AtomicU64,
}

impl Place {
    const fn new() -> Place {
        Place { head: AtomicU64::new(0), pointer: AtomicPtr::new(ptr::null_mut()), tail: AtomicU64::new(0) }
    }
}

const CAPACITY: u32 = 8;

/// A ring that one CPU fills and one empties (Lamport 1983).
#[derive(Debug)]
pub(crate) struct Ring {
    /// Letters posted so far; only the sender stores it.
    posted: AtomicU32,
    /// Letters taken so far; only the receiver stores it.
    taken: AtomicU32,
    letters: [Place; CAPACITY as usize],
}

impl Ring {
    const fn new() -> Ring {
        Ring {
            posted: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            letters: [const { Place::new() }; CAPACITY as usize],
        }
    }

    /// Posts `letter`; the letter comes back where the ring is full.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let posted = self.posted.load(Ordering::Relaxed);
        // Acquire pairs with the Release in `take`: the place has been read before it is reused.
        if posted.wrapping_sub(self.taken.load(Ordering::Acquire)) == CAPACITY {
            return Err(letter);
        }
        let place = &self.letters[(posted % CAPACITY) as usize];
        place.head.store(letter.head, Ordering::Relaxed);
        place.pointer.store(letter.pointer, Ordering::Relaxed);
        place.tail.store(letter.tail, Ordering::Relaxed);
        // Release pairs with the Acquire in `take`: who sees the count sees the letter, and what
        // the sender wrote into the memory that it names.
        self.posted.store(posted.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Takes the oldest letter.
    pub(crate) fn take(&self) -> Option<Letter> {
        let taken = self.taken.load(Ordering::Relaxed);
        if self.posted.load(Ordering::Acquire) == taken {
            return None;
        }
        let place = &self.letters[(taken % CAPACITY) as usize];
        let letter = Letter {
            head: place.head.load(Ordering::Relaxed),
            pointer: place.pointer.load(Ordering::Relaxed),
            tail: place.tail.load(Ordering::Relaxed),
        };
        self.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some(letter)
    }
}

/// A ring for each ordered pair of CPUs.
#[derive(Debug)]
pub(crate) struct PostOffice {
    cpus: usize,
    rings: Vec<Ring>,
}

impl PostOffice {
    /// Rings between `cpus` CPUs; `None` without memory for them.
    pub(crate) fn new(cpus: usize) -> Option<PostOffice> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(cpus * cpus).ok()?;
        rings.extend((0..cpus * cpus).map(|_| Ring::new()));
        Some(PostOffice { cpus, rings })
    }

    /// The ring that `from` fills and `to` empties.
    pub(crate) fn ring(&self, from: usize, to: usize) -> &Ring {
        &self.rings[from * self.cpus + to]
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn letter(number: u64) -> Letter {
        let pointer = ptr::without_provenance_mut(number as usize + 1);
        Letter { head: number, pointer, tail: !number }
    }

    #[test]
    fn letters_arrive_once_and_in_order() {
        let office = PostOffice::new(2).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..1000 {
                    while office.ring(0, 1).post(letter(number)).is_err() {
                        thread::yield_now();
                    }
                }
            });
            for number in 0..1000 {
                let received = loop {
                    match office.ring(0, 1).take() {
                        Some(letter) => break letter,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(received, letter(number));
            }
        });
        assert_eq!(office.ring(0, 1).take(), None);
    }

    #[test]
    fn a_full_ring_returns_the_letter() {
        let ring = Ring::new();
        for number in 0..u64::from(CAPACITY) {
            assert_eq!(ring.post(letter(number)), Ok(()));
        }
        assert_eq!(ring.post(letter(9)), Err(letter(9)));
    }
}
