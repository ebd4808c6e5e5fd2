//! Lock-free rings that carry frames and objects from one CPU to another.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The content of a ring entry: an encoded [`Transfer`](super::transfer::Transfer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub head: u64,
    /// Travels as a pointer, so that the receiver may use what it points to.
    pub pointer: *mut u8,
    pub tail: u64,
}

/// An entry for a message in a ring.
#[derive(Debug)]
struct Entry {
    head: AtomicU64,
    pointer: AtomicPtr<u8>,
    tail: AtomicU64,
}

impl Entry {
    const fn new() -> Entry {
        Entry { head: AtomicU64::new(0), pointer: AtomicPtr::new(ptr::null_mut()), tail: AtomicU64::new(0) }
    }
}

const CAPACITY: u32 = 8;

/// A ring that one CPU fills and one empties (Lamport 1983).
#[derive(Debug)]
pub(crate) struct Ring {
    /// Messages pushed so far; only the sender stores it.
    pushed: AtomicU32,
    /// Messages popped so far; only the receiver stores it.
    popped: AtomicU32,
    messages: [Entry; CAPACITY as usize],
}

impl Ring {
    const fn new() -> Ring {
        Ring {
            pushed: AtomicU32::new(0),
            popped: AtomicU32::new(0),
            messages: [const { Entry::new() }; CAPACITY as usize],
        }
    }

    /// Pushes `message`; the message comes back where the ring is full.
    pub(crate) fn push(&self, message: Message) -> Result<(), Message> {
        let pushed = self.pushed.load(Ordering::Relaxed);
        // Acquire pairs with the Release in `pop`: the entry has been read before it is reused.
        if pushed.wrapping_sub(self.popped.load(Ordering::Acquire)) == CAPACITY {
            return Err(message);
        }
        let entry = &self.messages[(pushed % CAPACITY) as usize];
        entry.head.store(message.head, Ordering::Relaxed);
        entry.pointer.store(message.pointer, Ordering::Relaxed);
        entry.tail.store(message.tail, Ordering::Relaxed);
        // Release pairs with the Acquire in `pop`: who sees the count sees the message, and what
        // the sender wrote into the memory that it names.
        self.pushed.store(pushed.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&self) -> Option<Message> {
        let popped = self.popped.load(Ordering::Relaxed);
        if self.pushed.load(Ordering::Acquire) == popped {
            return None;
        }
        let entry = &self.messages[(popped % CAPACITY) as usize];
        let message = Message {
            head: entry.head.load(Ordering::Relaxed),
            pointer: entry.pointer.load(Ordering::Relaxed),
            tail: entry.tail.load(Ordering::Relaxed),
        };
        self.popped.store(popped.wrapping_add(1), Ordering::Release);
        Some(message)
    }
}

/// A ring for each ordered pair of CPUs.
#[derive(Debug)]
pub(crate) struct TransferQueues {
    cpus: usize,
    rings: Vec<Ring>,
}

impl TransferQueues {
    /// Rings between `cpus` CPUs; `None` without memory for them.
    pub(crate) fn new(cpus: usize) -> Option<TransferQueues> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(cpus * cpus).ok()?;
        rings.extend((0..cpus * cpus).map(|_| Ring::new()));
        Some(TransferQueues { cpus, rings })
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

    fn message(number: u64) -> Message {
        let pointer = ptr::without_provenance_mut(number as usize + 1);
        Message { head: number, pointer, tail: !number }
    }

    #[test]
    fn messages_arrive_once_and_in_order() {
        let transfers = TransferQueues::new(2).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..1000 {
                    while transfers.ring(0, 1).push(message(number)).is_err() {
                        thread::yield_now();
                    }
                }
            });
            for number in 0..1000 {
                let received = loop {
                    match transfers.ring(0, 1).pop() {
                        Some(message) => break message,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(received, message(number));
            }
        });
        assert_eq!(transfers.ring(0, 1).pop(), None);
    }

    #[test]
    fn a_full_ring_returns_the_message() {
        let ring = Ring::new();
        for number in 0..u64::from(CAPACITY) {
            assert_eq!(ring.push(message(number)), Ok(()));
        }
        assert_eq!(ring.push(message(9)), Err(message(9)));
    }
}
