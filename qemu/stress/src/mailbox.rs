//! Lock-free rings that carry frames and objects from one CPU to another.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What fits into a letter: an encoded [`Parcel`](crate::parcel::Parcel).
pub(crate) type Letter = [u64; 3];

const CAPACITY: u32 = 8;

/// A ring that one CPU fills and one empties (Lamport 1983).
#[derive(Debug)]
pub(crate) struct Ring {
    /// Letters posted so far; only the sender stores it.
    posted: AtomicU32,
    /// Letters taken so far; only the receiver stores it.
    taken: AtomicU32,
    letters: [[AtomicU64; 3]; CAPACITY as usize],
}

impl Ring {
    const fn new() -> Ring {
        Ring {
            posted: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            letters: [const { [const { AtomicU64::new(0) }; 3] }; CAPACITY as usize],
        }
    }

    /// Posts `letter`; the letter comes back where the ring is full.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let posted = self.posted.load(Ordering::Relaxed);
        // Acquire pairs with the Release in `take`: the place has been read before it is reused.
        if posted.wrapping_sub(self.taken.load(Ordering::Acquire)) == CAPACITY {
            return Err(letter);
        }
        for (place, word) in self.letters[(posted % CAPACITY) as usize].iter().zip(letter) {
            place.store(word, Ordering::Relaxed);
        }
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
        let letter = core::array::from_fn(|word| place[word].load(Ordering::Relaxed));
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

    #[test]
    fn letters_arrive_once_and_in_order() {
        let office = PostOffice::new(2).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..1000 {
                    while office.ring(0, 1).post([number, number + 1, !number]).is_err() {
                        thread::yield_now();
                    }
                }
            });
            for number in 0..1000 {
                let letter = loop {
                    match office.ring(0, 1).take() {
                        Some(letter) => break letter,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(letter, [number, number + 1, !number]);
            }
        });
        assert_eq!(office.ring(0, 1).take(), None);
    }

    #[test]
    fn a_full_ring_returns_the_letter() {
        let ring = Ring::new();
        for number in 0..u64::from(CAPACITY) {
            assert_eq!(ring.post([number; 3]), Ok(()));
        }
        assert_eq!(ring.post([9; 3]), Err([9; 3]));
    }
}
