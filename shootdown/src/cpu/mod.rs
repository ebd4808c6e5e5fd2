//! The queue's state of each CPU.

pub(super) mod asid;
pub(super) mod lifecycle;
pub(super) mod states;
pub(super) mod stats;

use core::fmt;
use core::ptr;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use crate::domain::{Domain, Kind};
use crate::waiting::halt::AwaitedCpus;
use crate::{Generation, Request};
use asid::Asids;
use stats::Counters;

/// The addresses not touched by a lazy CPU until [`Shootdown::leave_lazy`].
///
/// [`Shootdown::leave_lazy`]: crate::Shootdown::leave_lazy
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Lazy {
    /// Addresses of the active address space: a kernel thread borrows the space.
    Space = 2,
    /// Addresses of the active address space, and kernel addresses with changing mappings: the CPU
    /// is halted, and its interrupt handlers leave laziness before touching such an address.
    Idle = 3,
}

/// The CPU is not lazy.
const BUSY: u8 = 0;
/// The CPU is leaving laziness. Senders treat the CPU as busy, but the CPU has yet to flush the
/// invalidations skipped while lazy. A context in need of a translation has to catch up first.
const CATCHING_UP: u8 = 1;

/// The cache line written by senders.
pub(crate) struct Mailbox {
    /// True from the sending of an interrupt until the handler begins to serve it. A sender swaps
    /// the word to true, and sends an interrupt only if the word was false. The handler swaps the
    /// word to false before reading any generation. Both swaps are AcqRel and pair with each other:
    /// a sender finding true leaves its generation to the handler's next swap, which acquires the
    /// sender's stores.
    pub(crate) pending: AtomicBool,
    /// [`BUSY`], [`CATCHING_UP`] or a [`Lazy`]. Written by the owner only.
    lazy: AtomicU8,
}

/// The cache line on which the owner publishes, read by waiters.
pub(crate) struct Published {
    /// The newest generation of the active domain flushed by the CPU.
    ///
    /// [`Generation::NONE`] from before the CPU joins a domain until the CPU has flushed for the
    /// domain: a waiter never mistakes the last domain's generation for the new domain's.
    pub(crate) space: AtomicU64,
    /// The newest generation of the kernel's domain flushed by the CPU.
    pub(crate) kernel: AtomicU64,
    /// The active domain. Null if no domain is active, and during a switch. Only the owner follows
    /// the pointer; remote CPUs compare it.
    pub(crate) active: AtomicPtr<Domain>,
}

/// A CPU's state in the queue: about 1 KiB. Each cache line has a single kind of writer.
///
/// The kernel places the state in memory of the CPU's own node before the CPU comes online for the first time
/// ([`Shootdown::place`]).
///
/// [`Shootdown::place`]: crate::Shootdown::place
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
/// static BOOT_CPU: CpuState = CpuState::new(); // or memory of the CPU's node
/// QUEUE.place(pin.cpu(), &BOOT_CPU).unwrap();
/// assert!(QUEUE.is_placed(pin.cpu()));
/// ```
pub struct CpuState {
    pub(crate) mailbox: CachePadded<Mailbox>,
    pub(crate) published: CachePadded<Published>,
    pub(crate) counters: CachePadded<Counters>,
    /// The CPU's ASIDs, used by the owner only.
    pub(crate) asids: CachePadded<Asids>,
    /// Set once the state is a CPU's. Two CPUs must not share a state.
    pub(crate) is_placed: AtomicBool,
    /// The CPUs that this CPU's halted waiter waits for.
    pub(crate) awaited: CachePadded<AwaitedCpus>,
}

/// Returns the least lazy mode in which the CPU is lazy in domains of `kind`.
#[inline]
const fn least_lazy(kind: Kind) -> u8 {
    match kind {
        Kind::Space => Lazy::Space as u8,
        Kind::Kernel => Lazy::Idle as u8,
    }
}

impl CpuState {
    /// Makes the state of a CPU that is offline.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> CpuState {
        CpuState {
            mailbox: CachePadded::new(Mailbox { pending: AtomicBool::new(false), lazy: AtomicU8::new(BUSY) }),
            published: CachePadded::new(Published {
                space: AtomicU64::new(Generation::NONE.0),
                kernel: AtomicU64::new(Generation::NONE.0),
                active: AtomicPtr::new(ptr::null_mut()),
            }),
            counters: CachePadded::new(Counters::new()),
            asids: CachePadded::new(Asids::new()),
            is_placed: AtomicBool::new(false),
            awaited: CachePadded::new(AwaitedCpus::nobody()),
        }
    }

    /// Makes the state of a CPU that is offline (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> CpuState {
        CpuState {
            mailbox: CachePadded::new(Mailbox { pending: AtomicBool::new(false), lazy: AtomicU8::new(BUSY) }),
            published: CachePadded::new(Published {
                space: AtomicU64::new(Generation::NONE.0),
                kernel: AtomicU64::new(Generation::NONE.0),
                active: AtomicPtr::new(ptr::null_mut()),
            }),
            counters: CachePadded::new(Counters::new()),
            asids: CachePadded::new(Asids::new()),
            is_placed: AtomicBool::new(false),
            awaited: CachePadded::new(AwaitedCpus::nobody()),
        }
    }

    /// Returns the generation published for domains of `kind`.
    #[inline]
    pub(crate) fn seen(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Space => &self.published.space,
            Kind::Kernel => &self.published.kernel,
        }
    }

    /// Returns whether the CPU is lazy in domains of `kind`.
    ///
    /// Acquire pairs with the Release of [`CpuState::set_lazy`]: the CPU's last use of the domain
    /// happened before.
    #[inline]
    pub(crate) fn is_lazy(&self, kind: Kind) -> bool {
        self.mailbox.lazy.load(Ordering::Acquire) >= least_lazy(kind)
    }

    /// Makes the CPU lazy. Called by the owner only.
    pub(crate) fn set_lazy(&self, lazy: Lazy) {
        self.mailbox.lazy.store(lazy as u8, Ordering::Release);
    }

    /// Makes senders treat the CPU as busy. Returns whether the CPU was not busy. Called by the
    /// owner only.
    ///
    /// If true, the caller must execute a full barrier, look at the generations, and call
    /// [`CpuState::set_busy`]. A sender skipping the CPU has read "lazy"; the sender's generation
    /// is therefore visible after the caller's barrier.
    ///
    /// A context interrupting the caller before `set_busy` finds the CPU not yet busy, and does the
    /// same work itself.
    pub(crate) fn cease_to_be_lazy(&self) -> bool {
        // Relaxed: only the owner writes the word, and the caller's full barrier orders the store.
        let lazy = self.mailbox.lazy.load(Ordering::Relaxed) != BUSY;
        if lazy {
            self.mailbox.lazy.store(CATCHING_UP, Ordering::Relaxed);
        }
        lazy
    }

    /// Ends laziness: the CPU has flushed the invalidations skipped while lazy. Called by the owner
    /// only.
    pub(crate) fn set_busy(&self) {
        // Relaxed: only the owner distinguishes `BUSY` from `CATCHING_UP`.
        self.mailbox.lazy.store(BUSY, Ordering::Relaxed);
    }

    /// Returns whether the CPU, a member of a domain of `kind`, has done its part of `request`.
    #[inline]
    pub(crate) fn satisfies(&self, kind: Kind, request: &Request) -> bool {
        // Acquire pairs with the Release of the handler's `publish`: the flush, and the CPU's every
        // use of a removed translation, happened before.
        let seen = Generation(self.seen(kind).load(Ordering::Acquire));
        seen >= request.generation || (seen >= request.tables && self.is_lazy(kind))
    }

    /// Returns whether the CPU serves `domain` when catching up. Called by the owner only.
    #[inline]
    pub(crate) fn uses(&self, domain: &Domain) -> bool {
        // Relaxed: this CPU wrote both words.
        match domain.kind {
            Kind::Kernel => self.published.kernel.load(Ordering::Relaxed) != Generation::NONE.0,
            Kind::Space => ptr::eq(self.published.active.load(Ordering::Relaxed), domain),
        }
    }
}

impl Default for CpuState {
    fn default() -> CpuState {
        CpuState::new()
    }
}

impl fmt::Debug for CpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuState").finish_non_exhaustive()
    }
}
