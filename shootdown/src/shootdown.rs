//! The queue: one per kernel.

use core::fmt;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{CpuId, CpuPin, MAX_CPUS};

use crate::asid::Asids;
use crate::cpu::CpuState;
use crate::domain::{Domain, Kind};
use crate::fault::FaultCell;
use crate::waiters::Waiters;
use crate::{Fault, Stats, Tlb};

/// How many pages are flushed singly before one full flush is cheaper.
pub const DEFAULT_THRESHOLD: u64 = 33;

/// The TLB shootdown queue of a kernel.
///
/// Every CPU that uses page tables joins with [`Shootdown::cpu_online`]; address spaces are
/// [`Domain`]s, and [`Shootdown::kernel`] is the domain of what all CPUs map. A change of page
/// tables is issued with [`Shootdown::invalidate`] and waited for through its
/// [`Ticket`](crate::Ticket). The kernel calls [`Shootdown::on_ipi`] from its interrupt handler,
/// [`Shootdown::poll`] where it spins and [`Shootdown::wake_completed`] where wakers may run.
///
/// About 1 KiB a CPU, all of it zero at first but for a few words: made for a `static`. No
/// method locks or allocates.
pub struct Shootdown<T: Tlb> {
    pub(crate) tlb: T,
    pub(crate) cpus: [CpuState; MAX_CPUS],
    /// Each the owner's alone.
    asids: [CachePadded<Asids>; MAX_CPUS],
    pub(crate) kernel: Domain,
    pub(crate) waiters: Waiters,
    threshold: AtomicU64,
    pub(crate) fault: FaultCell,
}

impl<T: Tlb> Shootdown<T> {
    /// A queue without CPUs.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(tlb: T) -> Shootdown<T> {
        Shootdown {
            tlb,
            cpus: [const { CpuState::new() }; MAX_CPUS],
            asids: [const { CachePadded::new(Asids::new()) }; MAX_CPUS],
            kernel: Domain::of(Kind::Kernel),
            waiters: Waiters::new(),
            threshold: AtomicU64::new(DEFAULT_THRESHOLD),
            fault: FaultCell::new(),
        }
    }

    /// A queue without CPUs (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(tlb: T) -> Shootdown<T> {
        Shootdown {
            tlb,
            cpus: core::array::from_fn(|_| CpuState::new()),
            asids: core::array::from_fn(|_| CachePadded::new(Asids::new())),
            kernel: Domain::of(Kind::Kernel),
            waiters: Waiters::new(),
            threshold: AtomicU64::new(DEFAULT_THRESHOLD),
            fault: FaultCell::new(),
        }
    }

    /// The kernel's own half of every address space. Its members are the CPUs that are online.
    pub const fn kernel(&self) -> &Domain {
        &self.kernel
    }

    /// The hooks that the queue was made with.
    pub const fn tlb(&self) -> &T {
        &self.tlb
    }

    /// Sets how many pages a CPU flushes singly before it flushes everything instead; 33 unless
    /// set (Linux's figure, and inside the break-even of 13 to 55 pages measured under TCG).
    pub fn set_threshold(&self, pages: u64) {
        // Relaxed: any value is correct at any time.
        self.threshold.store(pages, Ordering::Relaxed);
    }

    /// The threshold in force, in pages.
    #[inline]
    pub fn threshold(&self) -> u64 {
        self.threshold.load(Ordering::Relaxed)
    }

    /// Is every member of `domain` lazy in it, or is there none? Then no CPU uses a leaf of it, until one
    /// ceases to be lazy; page walkers may still run ahead through its tables. A moment's view.
    pub fn is_dormant(&self, domain: &Domain) -> bool {
        // Acquire: the last use of a lazy CPU, and of one that has left, happened before.
        domain.members.find_from(0, Ordering::Acquire, |cpu| !self.state(cpu).is_lazy(domain.kind)).is_none()
    }

    /// What `cpu` has counted; exact while the CPU is at rest.
    pub fn stats(&self, cpu: CpuId) -> Stats {
        self.state(cpu).counters.read()
    }

    #[inline]
    pub(crate) fn state(&self, cpu: CpuId) -> &CpuState {
        &self.cpus[cpu.index()]
    }

    #[inline]
    pub(crate) fn asids(&self, pin: &CpuPin) -> &Asids {
        &self.asids[pin.cpu().index()]
    }

    /// Breaks one mechanism, or none again: for tests that must then fail.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Option<Fault>) {
        self.fault.set(fault);
    }

    /// Is the mechanism to be broken? Constantly not without the feature `fault-injection`.
    #[inline(always)]
    pub(crate) fn broken(&self, fault: Fault) -> bool {
        self.fault.is(fault)
    }
}

impl<T: Tlb> fmt::Debug for Shootdown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shootdown").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}
