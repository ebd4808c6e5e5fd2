//! Interrupts between CPUs: a mailbox each, emptied when the CPU takes interrupts.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};

/// How late interrupts arrive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// At most so many poll points of the receiver late; 0 is at once.
    pub longest: u32,
    /// Where the draws start.
    pub seed: u64,
}

/// What an interrupt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    /// The shootdown queue has work: the handler of [`Sim::on_shootdown`](crate::sim::Sim::on_shootdown) runs.
    Shootdown,
    /// A halted CPU shall look around; no handler runs.
    Wake,
}

impl Vector {
    const fn bit(self) -> u32 {
        match self {
            Vector::Shootdown => 1,
            Vector::Wake => 2,
        }
    }
}

/// The vectors taken out of a mailbox together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) struct Vectors(u32);

impl Vectors {
    pub(in crate::sim) const fn contain(self, vector: Vector) -> bool {
        self.0 & vector.bit() != 0
    }
}

/// One CPU's pending interrupts, and the bell that ends its halt.
#[derive(Debug, Default)]
pub(in crate::sim) struct Mailbox {
    pending: AtomicU32,
    /// Set while the owner is about to sleep or sleeps.
    halted: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Mailbox {
    /// Makes `vector` pending, and ends a halt.
    pub(in crate::sim) fn post(&self, vector: Vector) {
        // SeqCst here and in `halt`: the sender stores `pending` and then reads `halted`, the
        // owner the other way round; one of them must see the other.
        self.pending.fetch_or(vector.bit(), Ordering::SeqCst);
        if self.halted.load(Ordering::SeqCst) {
            // Taking the lock waits until the owner, past its last look at `pending`, listens.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_one();
        }
    }

    /// Is anything pending?
    pub(in crate::sim) fn is_empty(&self) -> bool {
        // Relaxed: a poll point that misses a fresh interrupt leaves it to the next one.
        self.pending.load(Ordering::Relaxed) == 0
    }

    /// Takes all that is pending.
    pub(in crate::sim) fn take(&self) -> Vectors {
        // SeqCst pairs with the one in `post`: what the sender did before is seen after.
        Vectors(self.pending.swap(0, Ordering::SeqCst))
    }

    /// Sleeps until something is pending, `limit` at most.
    pub(in crate::sim) fn halt(&self, limit: Duration) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.halted.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) == 0 {
            drop(self.bell.wait_timeout(guard, limit));
        }
        // Relaxed: a sender that still sees the old value rings once too often.
        self.halted.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn vectors_coalesce() {
        let mailbox = Mailbox::default();
        assert!(mailbox.is_empty());
        mailbox.post(Vector::Shootdown);
        mailbox.post(Vector::Shootdown);
        let taken = mailbox.take();
        assert!(taken.contain(Vector::Shootdown) && !taken.contain(Vector::Wake));
        assert!(mailbox.is_empty());
    }

    #[test]
    fn a_post_ends_a_halt() {
        let mailbox = Mailbox::default();
        let started = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| mailbox.halt(Duration::from_secs(60)));
            thread::sleep(Duration::from_millis(5));
            mailbox.post(Vector::Wake);
        });
        assert!(started.elapsed() < Duration::from_secs(30));
        mailbox.halt(Duration::from_secs(60));
        assert!(started.elapsed() < Duration::from_secs(30), "a pending interrupt prevents the halt");
    }
}
