//! What spinning CPUs are told: which pages to read, so that their TLBs hold what is changed next.

use core::hint;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::space::apart;
use crate::arch::probe;
use crate::per_cpu;

/// One order at a time, from one CPU to all others.
#[derive(Debug)]
pub(super) struct Orders {
    /// Goes up with each order: the Release store publishes the count, and followers load it with
    /// Acquire.
    number: AtomicU64,
    /// So many pages are to be read; [`END`] to end.
    count: AtomicU64,
    /// Followers that have carried out the order: added to with Release, once the pages are read,
    /// and loaded with Acquire by who gave it, who then changes their mappings.
    done: AtomicUsize,
}

const END: u64 = u64::MAX;

impl Orders {
    /// Nothing ordered.
    pub(super) const fn new() -> Orders {
        Orders { number: AtomicU64::new(0), count: AtomicU64::new(0), done: AtomicUsize::new(0) }
    }

    /// Has each of `followers` CPUs read the first `count` pages, and returns when all have.
    pub(super) fn read(&self, count: u64, followers: usize) {
        self.order(count);
        while self.done.load(Ordering::Acquire) < followers {
            per_cpu::relax();
        }
    }

    /// Has all followers return.
    pub(super) fn end(&self) {
        self.order(END);
    }

    fn order(&self, count: u64) {
        // Relaxed: the Release below publishes both, and the followers of the last order are done
        // with it.
        self.count.store(count, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Release);
    }

    /// Carries out orders until the end. Spins between them, without PAUSE: for each the emulator
    /// takes the lock under which it also sends interrupts.
    pub(super) fn follow(&self) {
        let mut carried_out = 0;
        loop {
            let number = self.number.load(Ordering::Acquire);
            if number == carried_out {
                continue;
            }
            carried_out = number;
            let count = self.count.load(Ordering::Relaxed);
            if count == END {
                return;
            }
            for number in 0..count {
                let _ = hint::black_box(probe::load(apart(number).start().as_u64()));
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}
