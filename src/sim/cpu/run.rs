//! Threads that play the CPUs.

use core::any::Any;
use core::panic::AssertUnwindSafe;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::panic::{catch_unwind, resume_unwind};
use std::thread;
use std::vec::Vec;

use topomem_percpu::{CpuId, CpuPin, Platform};

use super::{Role, enter};
use crate::sim::{Sim, State, not_a_cpu};

/// How the CPUs of one [`Sim::run`] wait for each other.
#[derive(Debug)]
pub(in crate::sim) struct Crew {
    members: usize,
    /// How many have finished their closure in this run.
    finished: AtomicUsize,
    /// A closure panicked: waiting for its CPU would never end.
    failed: AtomicBool,
    arrived: AtomicUsize,
    /// How many barriers have been passed.
    round: AtomicUsize,
}

impl Crew {
    pub(in crate::sim) const fn new(members: usize) -> Crew {
        Crew {
            members,
            finished: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
        }
    }
}

impl Sim {
    /// Runs `body` on every CPU, a thread each, and returns what each returned, in CPU order.
    ///
    /// A CPU whose `body` has returned stays on and takes interrupts until all have. Registers
    /// and TLBs keep their contents from one run to the next.
    ///
    /// # Panics
    ///
    /// If a `body` does, and if a CPU is being played already.
    pub fn run<T: Send>(&'static self, body: impl Fn(&CpuPin) -> T + Sync) -> Vec<T> {
        self.crew.finished.store(0, Ordering::Relaxed);
        self.crew.failed.store(false, Ordering::Relaxed);
        let results = thread::scope(|scope| {
            let body = &body;
            let spawned = self.cpus().map(|cpu| {
                let thread = thread::Builder::new().name(std::format!("{cpu}"));
                thread.spawn_scoped(scope, move || self.on(cpu, |pin| self.serve(pin, body)))
            });
            let threads: Vec<_> = spawned.collect();
            let joined = threads.into_iter().map(|thread| match thread {
                Ok(thread) => thread.join().and_then(|result| result),
                Err(refused) => Err(self.absent(Box::new(refused))),
            });
            joined.collect::<Vec<thread::Result<T>>>()
        });
        results.into_iter().map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }

    /// The host refused a thread for a CPU: the others must not wait for it.
    fn absent(&self, refused: Box<dyn Any + Send>) -> Box<dyn Any + Send> {
        self.crew.failed.store(true, Ordering::SeqCst);
        self.crew.finished.fetch_add(1, Ordering::AcqRel);
        refused
    }

    /// Runs `body`, then takes interrupts until every CPU's body has ended.
    fn serve<T>(&self, pin: &CpuPin, body: &impl Fn(&CpuPin) -> T) -> thread::Result<T> {
        let result = catch_unwind(AssertUnwindSafe(|| body(pin)));
        if result.is_err() {
            self.crew.failed.store(true, Ordering::SeqCst);
            // The others may wait for what its interrupts do.
            self.state(|state| state.masked = 0);
            self.take_interrupts();
        }
        // AcqRel and Acquire: a CPU leaves after all that the others did.
        self.crew.finished.fetch_add(1, Ordering::AcqRel);
        while self.crew.finished.load(Ordering::Acquire) < self.crew.members {
            self.halt(Duration::from_millis(1));
        }
        result
    }

    /// Runs `body` on the calling thread as `cpu`.
    ///
    /// The other CPUs are off meanwhile, unless other threads play them: they answer no interrupt.
    ///
    /// # Panics
    ///
    /// If the machine has no such CPU, or another thread plays it.
    pub fn on<T>(&self, cpu: CpuId, body: impl FnOnce(&CpuPin) -> T) -> T {
        let Some(state) = self.unpark(cpu) else { panic!("{cpu} is missing, or being played already") };
        let role = Role { machine: ptr::from_ref(self).addr(), cpu };
        let leave = |state: State| self.park(cpu, state);
        let _role = enter(role, state, &leave);
        // SAFETY: the state of `cpu` was parked and is ours now, so no other thread plays that
        // CPU, and this thread does until `body` ends.
        body(&unsafe { CpuPin::new(cpu) })
    }

    /// Waits until every CPU of the current [`Sim::run`] is here; takes interrupts meanwhile.
    ///
    /// # Panics
    ///
    /// If another CPU's closure has panicked, and outside of a CPU.
    pub fn barrier(&self) {
        let crew = &self.crew;
        if super::role().is_none() {
            not_a_cpu();
        }
        // Acquire pairs with the Release of the last arrival: all of the others' work is seen.
        let round = crew.round.load(Ordering::Acquire);
        if crew.arrived.fetch_add(1, Ordering::AcqRel) + 1 == crew.members {
            crew.arrived.store(0, Ordering::Relaxed);
            crew.round.fetch_add(1, Ordering::Release);
            return;
        }
        while crew.round.load(Ordering::Acquire) == round {
            assert!(!crew.failed.load(Ordering::SeqCst), "another CPU has panicked");
            self.relax();
        }
    }
}
