//! Threads on the other CPUs, which read pages so that their TLBs hold the translations.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::system::cpu::{self, CpuNumber};
use crate::guest::error::GuestError;
use crate::guest::pages::{Pages, Places};

/// What a helper does once it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It spins, in the same address space, so that its CPU has to be interrupted.
    Spin,
    /// It sleeps, so that its CPU idles.
    Sleep,
}

/// How long a CPU gets to fall asleep.
const DOZING_OFF: Duration = Duration::from_millis(20);

/// One thread on each other CPU. Dropped, they end.
#[derive(Debug)]
pub(crate) struct Helpers {
    orders: Arc<Orders>,
    threads: Vec<JoinHandle<()>>,
}

/// What helpers are told.
#[derive(Debug, Default)]
struct Orders {
    /// Goes up with each order: the Release store publishes the fields below, and helpers load it with Acquire.
    number: AtomicU32,
    first: AtomicPtr<u8>,
    step: AtomicUsize,
    /// Pages to read; [`END`] to end.
    count: AtomicUsize,
    afterwards: AtomicU32,
    /// Helpers that have carried out the order: added to with Release, once the pages are read, and loaded with
    /// Acquire by the main thread, which then unmaps them.
    done: AtomicUsize,
}

const END: usize = usize::MAX;
const SPIN: u32 = 0;
const SLEEP: u32 = 1;

impl Helpers {
    /// Starts a helper on each of `cpus`, and waits until it is there.
    pub(crate) fn start(cpus: &[CpuNumber]) -> Result<Self, GuestError> {
        let mut helpers = Self { orders: Arc::default(), threads: Vec::new() };
        let (sender, pinned) = mpsc::channel();
        for &cpu in cpus {
            let (orders, sender) = (Arc::clone(&helpers.orders), sender.clone());
            let thread = thread::Builder::new().spawn(move || {
                let result = cpu::pin(cpu);
                let is_there = result.is_ok();
                if sender.send(result).is_ok() && is_there {
                    orders.follow();
                }
            });
            helpers.threads.push(thread.map_err(|error| GuestError::Helper { cpu, error })?);
        }
        pinned.iter().take(cpus.len()).try_for_each(|result| result)?;
        Ok(helpers)
    }

    /// Has each helper read the pages, and returns when all have.
    pub(crate) fn read(&self, pages: &Pages, afterwards: Afterwards) {
        self.order(pages.places(), afterwards);
        while self.orders.done.load(Ordering::Acquire) < self.threads.len() {
            hint::spin_loop();
        }
        if afterwards == Afterwards::Sleep {
            thread::sleep(DOZING_OFF);
        }
    }

    fn order(&self, Places { first, step, count }: Places, afterwards: Afterwards) {
        let orders = &*self.orders;
        // Relaxed: the store to `number` publishes all of them.
        orders.first.store(first, Ordering::Relaxed);
        orders.step.store(step, Ordering::Relaxed);
        orders.count.store(count, Ordering::Relaxed);
        let was = orders.afterwards.swap(
            match afterwards {
                Afterwards::Spin => SPIN,
                Afterwards::Sleep => SLEEP,
            },
            Ordering::Relaxed,
        );
        orders.done.store(0, Ordering::Relaxed);
        orders.number.fetch_add(1, Ordering::Release);
        if was == SLEEP {
            self.threads.iter().for_each(|thread| thread.thread().unpark());
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        let nothing = Places { first: std::ptr::null_mut(), step: 0, count: END };
        self.order(nothing, Afterwards::Spin);
        for thread in self.threads.drain(..) {
            // A helper has no way to panic, and nobody to tell.
            let _ = thread.join();
        }
    }
}

impl Orders {
    /// A helper's life.
    fn follow(&self) {
        let mut carried_out = 0;
        loop {
            // Without `spin_loop`: for each PAUSE the emulator takes the lock under which it also sends interrupts,
            // which would slow down what is measured.
            let number = self.number.load(Ordering::Acquire);
            if number == carried_out {
                continue;
            }
            carried_out = number;
            let count = self.count.load(Ordering::Relaxed);
            if count == END {
                return;
            }
            let (first, step) = (self.first.load(Ordering::Relaxed), self.step.load(Ordering::Relaxed));
            for index in 0..count {
                // SAFETY: the main thread mapped the pages before it gave the order, and leaves them mapped until
                // `done` says that all helpers have read them.
                unsafe { first.wrapping_add(index * step).read_volatile() };
            }
            let sleeps = self.afterwards.load(Ordering::Relaxed) == SLEEP;
            self.done.fetch_add(1, Ordering::Release);
            while sleeps && self.number.load(Ordering::Acquire) == carried_out {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::pages::Layout;

    #[test]
    fn helpers_read_spin_sleep_and_end() {
        let cpus = cpu::allowed().unwrap();
        let helpers = Helpers::start(&cpus).unwrap();
        for afterwards in [Afterwards::Spin, Afterwards::Sleep, Afterwards::Sleep, Afterwards::Spin] {
            let pages = Pages::reserve(4, Layout::Apart).unwrap();
            pages.map().unwrap();
            helpers.read(&pages, afterwards);
            assert_eq!(helpers.orders.done.load(Ordering::Acquire), cpus.len());
            pages.clear().unwrap();
        }
    }
}
