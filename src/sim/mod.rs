//! A machine made of threads: the platform for tests, docs and benches.
//!
//! A thread is a CPU, an arena is RAM, and a software MMU translates by the page tables that the
//! service writes into that RAM. Each CPU has a TLB that evicts nothing by itself, so a missing
//! flush shows at the next access instead of once in a long while; it tags translations, removes
//! them selectively and hears broadcasts where the [`Blueprint`] says so. Interrupts arrive at poll
//! points (any memory access, spin-loop turn or halt), as late as asked for. Firmware tables
//! describe the machine, so discovery runs as on hardware.
//!
//! ```
//! use topomem::sim::Sim;
//!
//! let sim = Sim::builder().nodes(2).cpus(4).memory(64 << 20).build()?;
//! let nodes = sim.run(|pin| sim.blueprint().node_of(pin.cpu()));
//! assert_eq!(nodes[0], nodes[1]);
//! assert_ne!(nodes[1], nodes[2]);
//! # Ok::<(), topomem::sim::BlueprintError>(())
//! ```

mod arena;
mod boot;
mod cpu;
mod description;
mod mmu;
mod platform;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;
use std::vec::Vec;

use topomem_percpu::{CpuId, CpuPin, CpuSet, InvalidFree, Platform};
use topomem_shootdown::Unresponsive;

pub use boot::{SimBootError, SimService};
pub use cpu::interrupt::{Delivery, Vector};
pub use description::blueprint::{Blueprint, BlueprintError, Node};
pub use description::builder::Builder;
pub use description::tables::Tables;
pub use mmu::{Access, Fault, Privilege};

use arena::Arena;
use cpu::interrupt::Mailbox;
use cpu::run::Crew;
use cpu::{State, with_state};
use mmu::broadcast::Inbox;

type Handler = Box<dyn Fn(&CpuPin) + Send + Sync>;

/// What is told of wrong uses of the heap.
#[cfg(feature = "hardening")]
type OnReport = Box<dyn Fn(&topomem_percpu::Report) + Send + Sync>;

/// A simulated machine. It is never freed: what was given to topomem as RAM must stay.
pub struct Sim {
    blueprint: Blueprint,
    tables: Tables,
    arena: Arena,
    cpus: Vec<Cpu>,
    crew: Crew,
    on_shootdown: OnceLock<Handler>,
    on_relax: OnceLock<Handler>,
    on_unresponsive: OnceLock<Box<dyn Fn(Unresponsive) + Send + Sync>>,
    on_heap_misuse: OnceLock<Box<dyn Fn(InvalidFree) + Send + Sync>>,
    #[cfg(feature = "hardening")]
    on_heap_report: OnceLock<OnReport>,
    /// In nanoseconds.
    unresponsive_timeout: AtomicU64,
    power_on: Instant,
}

/// What other CPUs reach of a CPU, and its state while no thread plays it.
struct Cpu {
    mailbox: Mailbox,
    inbox: Mutex<Inbox>,
    parked: Mutex<Option<State>>,
}

impl Sim {
    /// Describes a machine.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Builds `machine`, whose interrupts arrive as `delivery` says.
    ///
    /// # Errors
    ///
    /// [`BlueprintError`] where no such machine can exist, or the host has no room for it.
    pub fn boot(blueprint: Blueprint, delivery: Delivery) -> Result<&'static Sim, BlueprintError> {
        blueprint.check()?;
        let span = blueprint.span();
        let bytes = span.end - span.start;
        let arena = Arena::new(topomem_percpu::PhysAddr::new(span.start), bytes)
            .ok_or(BlueprintError::HostMemory(bytes))?;
        let cpus = (0..blueprint.cpus()).filter_map(CpuId::new);
        let cpus: Vec<Cpu> = cpus
            .map(|cpu| Cpu {
                mailbox: Mailbox::default(),
                inbox: Mutex::default(),
                parked: Mutex::new(Some(State::new(cpu, delivery))),
            })
            .collect();
        Ok(Box::leak(Box::new(Sim {
            tables: Tables::new(&blueprint),
            crew: Crew::new(cpus.len()),
            blueprint,
            arena,
            cpus,
            on_shootdown: OnceLock::new(),
            on_relax: OnceLock::new(),
            on_unresponsive: OnceLock::new(),
            on_heap_misuse: OnceLock::new(),
            #[cfg(feature = "hardening")]
            on_heap_report: OnceLock::new(),
            unresponsive_timeout: AtomicU64::new(platform::UNRESPONSIVE_TIMEOUT),
            power_on: Instant::now(),
        })))
    }

    /// The description that the machine was built from.
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The firmware tables that describe the machine.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The CPUs, in order of number.
    pub fn cpus(&self) -> impl ExactSizeIterator<Item = CpuId> + use<> {
        (0..self.cpus.len()).map(|index| CpuId::new(index).unwrap_or(CpuId::BOOT))
    }

    /// How long the machine has been on.
    pub fn uptime(&self) -> Duration {
        self.power_on.elapsed()
    }

    /// Sets what [`Vector::Shootdown`] runs, with interrupts masked. Only the first setting counts.
    pub fn on_shootdown(&self, handler: impl Fn(&CpuPin) + Send + Sync + 'static) {
        self.on_shootdown.get_or_init(|| Box::new(handler));
    }

    /// Sets what each turn of a spin loop runs when interrupts are masked, so that a spinning CPU
    /// still answers: the poll of the shootdown queue. Only the first setting counts.
    pub fn on_relax(&self, poll: impl Fn(&CpuPin) + Send + Sync + 'static) {
        self.on_relax.get_or_init(|| Box::new(poll));
    }

    /// Sets who is told of a CPU that answers no shootdown. Only the first setting counts.
    pub fn on_unresponsive(&self, tell: impl Fn(Unresponsive) + Send + Sync + 'static) {
        self.on_unresponsive.get_or_init(|| Box::new(tell));
    }

    /// Sets what is told of frees that the heap refuses. Only the first setting counts; without
    /// one, a refused free panics.
    pub fn on_heap_misuse(&self, tell: impl Fn(InvalidFree) + Send + Sync + 'static) {
        self.on_heap_misuse.get_or_init(|| Box::new(tell));
    }

    /// Sets what is told of wrong uses that a hardened heap finds. Only the first setting counts;
    /// without one, each panics.
    #[cfg(feature = "hardening")]
    pub fn on_heap_report(&self, tell: impl Fn(&topomem_percpu::Report) + Send + Sync + 'static) {
        self.on_heap_report.get_or_init(|| Box::new(tell));
    }

    /// Sets how long a CPU waits for another before it reports it; 5 s unless set.
    pub fn set_unresponsive_timeout(&self, unresponsive_timeout: Duration) {
        // Relaxed: any value is good at any time.
        self.unresponsive_timeout
            .store(u64::try_from(unresponsive_timeout.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Sends `vector` to each of `to`; CPUs that the machine lacks are ignored.
    pub fn send(&self, to: &CpuSet, vector: Vector) {
        for cpu in to.iter() {
            if let Some(target) = self.cpus.get(cpu.index()) {
                target.mailbox.post(vector);
            }
        }
    }

    /// Masks the calling CPU's interrupts; calls nest.
    pub fn mask_interrupts(&self) {
        self.state(|state| state.masked += 1);
    }

    /// Ends what the last [`Sim::mask_interrupts`] began, and takes what is pending.
    pub fn unmask_interrupts(&self) {
        self.state(|state| state.masked = state.masked.saturating_sub(1));
        self.take_interrupts();
    }

    /// Halts the calling CPU until an interrupt is pending, `limit` at most, and takes it.
    pub fn halt(&self, limit: Duration) {
        self.mailbox().halt(limit);
        self.take_interrupts();
    }

    /// A poll point: takes the interrupts that have arrived, if they are not masked.
    pub fn take_interrupts(&self) {
        let mailbox = self.mailbox();
        if mailbox.is_empty() || !self.state(State::arrives) {
            return;
        }
        self.state(|state| state.masked += 1);
        if mailbox.take().contain(Vector::Shootdown) {
            self.call(&self.on_shootdown);
        }
        self.state(|state| state.masked -= 1);
    }

    fn call(&self, handler: &OnceLock<Handler>) {
        if let Some(handler) = handler.get() {
            // SAFETY: a thread plays its CPU until its role ends, which is not inside the handler.
            let pin = unsafe { CpuPin::new(self.current_cpu()) };
            handler(&pin);
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.cpus[self.current_cpu().index()].mailbox
    }

    /// Uses the calling CPU's registers and caches.
    #[track_caller]
    fn state<R>(&self, use_it: impl FnOnce(&mut State) -> R) -> R {
        let _ = self.current_cpu();
        with_state(use_it).unwrap_or_else(|| not_a_cpu())
    }

    fn park(&self, cpu: CpuId, state: State) {
        let mut parked = self.cpus[cpu.index()].parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = Some(state);
    }

    fn unpark(&self, cpu: CpuId) -> Option<State> {
        let cpu = self.cpus.get(cpu.index())?;
        cpu.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cold]
#[track_caller]
fn not_a_cpu() -> ! {
    panic!("this thread plays no CPU of this machine: call from within Sim::run or Sim::on")
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("machine", &self.blueprint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
