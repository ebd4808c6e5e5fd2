//! The shootdown queue, a single instance per kernel.

use core::fmt;

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{CpuId, CpuPin, CpuTable};

#[cfg(feature = "fault-injection")]
use crate::Fault;
use crate::cpu::CpuState;
use crate::cpu::asid::Asids;
use crate::cpu::states::{self, PlaceError, no_states};
use crate::domain::{Domain, Kind};
use crate::fault::FaultCell;
use crate::waiting::halt::Halted;
use crate::waiting::waiters::Waiters;
use crate::{Stats, Tlb};

/// Default number of pages flushed singly before a full flush is cheaper.
pub const DEFAULT_THRESHOLD: u64 = 33;

/// The TLB shootdown queue of a kernel.
///
/// Every user of page tables gets its state with [`Shootdown::place`] and joins with
/// [`Shootdown::cpu_online`]. Address spaces are [`Domain`]s,
/// and [`Shootdown::kernel`] is the domain of the mappings shared by all CPUs. A change of page
/// tables is issued with [`Shootdown::invalidate`] and waited for through its
/// [`Ticket`](crate::Ticket). The kernel calls [`Shootdown::on_ipi`] from its interrupt handler,
/// [`Shootdown::poll`] in its spin loops, and [`Shootdown::wake_completed`] where wakers may run.
///
/// The queue takes a word for each possible CPU, zero at first: made for a `static`. Each CPU that comes online has
/// a [`CpuState`] of about 1 KiB. No method locks or allocates.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
/// use topomem_shootdown::{CpuState, Shootdown, Tlb};
/// # use topomem_percpu::Platform;
///
/// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
/// static STATE: CpuState = CpuState::new();
///
/// let pin = QUEUE.tlb().pin();
/// QUEUE.place(pin.cpu(), &STATE)?;
/// QUEUE.cpu_online(&pin)?;
/// assert_eq!(QUEUE.kernel().cpus().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Shootdown<T: Tlb> {
    pub(crate) tlb: T,
    cpus: CpuTable<CpuState>,
    pub(crate) kernel: Domain,
    pub(crate) waiters: Waiters,
    pub(crate) halted: Halted,
    threshold: AtomicU64,
    pub(crate) fault: FaultCell,
}

impl<T: Tlb> Shootdown<T> {
    /// Returns a queue without CPUs.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(tlb: T) -> Shootdown<T> {
        Shootdown {
            tlb,
            cpus: no_states(),
            kernel: Domain::of(Kind::Kernel),
            waiters: Waiters::new(),
            halted: Halted::new(),
            threshold: AtomicU64::new(DEFAULT_THRESHOLD),
            fault: FaultCell::new(),
        }
    }

    /// Returns a queue without CPUs (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(tlb: T) -> Shootdown<T> {
        Shootdown {
            tlb,
            cpus: no_states(),
            kernel: Domain::of(Kind::Kernel),
            waiters: Waiters::new(),
            halted: Halted::new(),
            threshold: AtomicU64::new(DEFAULT_THRESHOLD),
            fault: FaultCell::new(),
        }
    }

    /// Returns the domain of the kernel's half of every address space. Its members are the CPUs
    /// online.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// assert!(QUEUE.kernel().cpus().is_empty()); // no CPU is online
    /// ```
    pub const fn kernel(&self) -> &Domain {
        &self.kernel
    }

    /// Returns the platform hooks passed to [`Shootdown::new`].
    pub const fn tlb(&self) -> &T {
        &self.tlb
    }

    /// Sets the number of pages a CPU flushes singly before flushing everything instead. The
    /// default is 33 (Linux's figure, and inside the break-even of 13 to 55 pages measured under
    /// TCG).
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{DEFAULT_THRESHOLD, Shootdown};
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    ///
    /// assert_eq!(QUEUE.threshold(), DEFAULT_THRESHOLD);
    /// QUEUE.set_threshold(16);
    /// assert_eq!(QUEUE.threshold(), 16);
    /// ```
    pub fn set_threshold(&self, pages: u64) {
        // Relaxed: any value is correct at any time.
        self.threshold.store(pages, Ordering::Relaxed);
    }

    /// Returns the threshold in force, in pages. Relaxed, as in [`Shootdown::set_threshold`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::DEFAULT_THRESHOLD;
    ///
    /// assert_eq!(QUEUE.threshold(), DEFAULT_THRESHOLD);
    /// ```
    #[inline]
    pub fn threshold(&self) -> u64 {
        self.threshold.load(Ordering::Relaxed)
    }

    /// Returns whether every member of `domain` is lazy, or no member exists, as of this moment.
    ///
    /// If true, no CPU uses a leaf of the domain until a CPU leaves laziness. Page walkers may
    /// still run ahead through the domain's tables.
    pub fn is_dormant(&self, domain: &Domain) -> bool {
        // Acquire pairs with the Release of a lazy CPU and of a leaving CPU: their last use
        // happened before.
        domain.members.find_from(0, Ordering::Acquire, |cpu| !self.state(cpu).is_lazy(domain.kind)).is_none()
    }

    /// Gives `cpu` its state, for good, before the CPU comes online for the first time.
    ///
    /// # Errors
    ///
    /// Returns [`PlaceError`], with nothing changed.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::CpuState;
    ///
    /// static BOOT_CPU: CpuState = CpuState::new();
    /// QUEUE.place(pin.cpu(), &BOOT_CPU)?;
    /// QUEUE.cpu_online(&pin)?;
    /// assert!(QUEUE.kernel().cpus().contains(pin.cpu()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn place(&self, cpu: CpuId, state: &'static CpuState) -> Result<(), PlaceError> {
        states::place(&self.cpus, cpu, state)
    }

    /// Returns whether `cpu` has a state.
    pub fn is_placed(&self, cpu: CpuId) -> bool {
        self.cpus.is_placed(cpu)
    }

    /// Returns the counts of `cpu`, exact while the CPU is at rest.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::{CpuState, Invalidation};
    ///
    /// # static BOOT_CPU: CpuState = CpuState::new();
    /// # QUEUE.place(pin.cpu(), &BOOT_CPU).unwrap();
    /// QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).wait(&pin);
    /// let stats = QUEUE.stats(pin.cpu());
    /// assert_eq!((stats.requests, stats.ipis_sent), (1, 0));
    /// ```
    pub fn stats(&self, cpu: CpuId) -> Stats {
        self.state(cpu).counters.read()
    }

    /// Returns the state of `cpu`. CPUs without a state of their own, none of which is or was online, share one:
    /// no waiter reads what they publish there, and they have nothing to flush.
    #[inline]
    pub(crate) fn state(&self, cpu: CpuId) -> &CpuState {
        self.cpus.get(cpu)
    }

    #[inline]
    pub(crate) fn asids(&self, pin: &CpuPin) -> &Asids {
        &self.state(pin.cpu()).asids
    }

    /// Breaks one mechanism, or restores all, for tests expected to fail.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Option<Fault>) {
        self.fault.set(fault);
    }
}

impl<T: Tlb> fmt::Debug for Shootdown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shootdown").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}
