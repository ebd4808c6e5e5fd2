//! What the queue keeps for each CPU.

use core::ptr;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use crate::domain::{Domain, Kind};
use crate::stats::Counters;
use crate::{Generation, Request};

/// What a CPU promises not to touch until [`Shootdown::leave_lazy`].
///
/// [`Shootdown::leave_lazy`]: crate::Shootdown::leave_lazy
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Lazy {
    /// Addresses of the active address space: a kernel thread that borrows it.
    Space = 2,
    /// Those, and kernel addresses whose mappings come and go: a halted CPU, whose interrupt
    /// handlers leave this mode before they touch such an address.
    Idle = 3,
}

/// The CPU takes part in everything.
const BUSY: u8 = 0;
/// The CPU ceases to be lazy. Senders take it for busy, but it has not yet flushed what they spared
/// it: whoever needs a translation here has to catch up first.
const CATCHING_UP: u8 = 1;

/// The line that senders write.
pub(crate) struct Mailbox {
    /// Has an interrupt been sent that the handler has not begun to serve? Senders swap it to
    /// true, and only the one that found false sends. The handler swaps it to false before it
    /// reads any generation. Both are AcqRel: a sender that finds true leaves its generation to
    /// the handler that will swap it to false, and that swap acquires the sender's.
    pub(crate) pending: AtomicBool,
    /// [`BUSY`], [`CATCHING_UP`] or a [`Lazy`]; written by the owner only.
    lazy: AtomicU8,
}

/// The line that the owner publishes on and waiters read.
pub(crate) struct Published {
    /// What the CPU has seen of the active domain. [`Generation::NONE`] from before the CPU
    /// joins a domain until it has flushed for it, so that a waiter never takes what was seen of
    /// the last domain for something seen of the new one.
    pub(crate) space: AtomicU64,
    /// What it has seen of the kernel's domain.
    pub(crate) kernel: AtomicU64,
    /// The active domain; null while there is none and during a switch. Only the owner follows
    /// it; others compare it.
    pub(crate) active: AtomicPtr<Domain>,
}

/// One CPU's state: each line with one kind of writer.
pub(crate) struct CpuState {
    pub(crate) mailbox: CachePadded<Mailbox>,
    pub(crate) published: CachePadded<Published>,
    pub(crate) counters: CachePadded<Counters>,
}

/// The least mode in which a CPU is lazy in domains of `kind`.
#[inline]
const fn least_lazy(kind: Kind) -> u8 {
    match kind {
        Kind::Space => Lazy::Space as u8,
        Kind::Kernel => Lazy::Idle as u8,
    }
}

impl CpuState {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> CpuState {
        CpuState {
            mailbox: CachePadded::new(Mailbox { pending: AtomicBool::new(false), lazy: AtomicU8::new(BUSY) }),
            published: CachePadded::new(Published {
                space: AtomicU64::new(Generation::NONE.0),
                kernel: AtomicU64::new(Generation::NONE.0),
                active: AtomicPtr::new(ptr::null_mut()),
            }),
            counters: CachePadded::new(Counters::new()),
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> CpuState {
        CpuState {
            mailbox: CachePadded::new(Mailbox { pending: AtomicBool::new(false), lazy: AtomicU8::new(BUSY) }),
            published: CachePadded::new(Published {
                space: AtomicU64::new(Generation::NONE.0),
                kernel: AtomicU64::new(Generation::NONE.0),
                active: AtomicPtr::new(ptr::null_mut()),
            }),
            counters: CachePadded::new(Counters::new()),
        }
    }

    /// The generation published for domains of `kind`.
    #[inline]
    pub(crate) fn seen(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Space => &self.published.space,
            Kind::Kernel => &self.published.kernel,
        }
    }

    /// Is the CPU lazy in domains of `kind`?
    ///
    /// Acquire pairs with the Release of [`CpuState::set_lazy`]: the CPU's last use of the
    /// domain happened before.
    #[inline]
    pub(crate) fn is_lazy(&self, kind: Kind) -> bool {
        self.mailbox.lazy.load(Ordering::Acquire) >= least_lazy(kind)
    }

    /// Owner only: from here on the CPU is lazy.
    pub(crate) fn set_lazy(&self, lazy: Lazy) {
        self.mailbox.lazy.store(lazy as u8, Ordering::Release);
    }

    /// Owner only: senders take the CPU for busy from here on. True if the CPU was not busy. Then
    /// the caller owes a full barrier, a look at the generations, and [`CpuState::set_busy`]: a
    /// sender that skips the CPU has read "lazy", so its generation is seen after the barrier.
    ///
    /// A context that interrupts the caller before `set_busy` finds the CPU not busy yet, and does
    /// the same work itself.
    pub(crate) fn cease_to_be_lazy(&self) -> bool {
        // Relaxed: only the owner writes it, and the caller's full barrier orders the store.
        let lazy = self.mailbox.lazy.load(Ordering::Relaxed) != BUSY;
        if lazy {
            self.mailbox.lazy.store(CATCHING_UP, Ordering::Relaxed);
        }
        lazy
    }

    /// Owner only: the CPU has flushed what it was spared while it was lazy.
    pub(crate) fn set_busy(&self) {
        // Relaxed: only the owner tells `BUSY` from `CATCHING_UP`.
        self.mailbox.lazy.store(BUSY, Ordering::Relaxed);
    }

    /// Has this member of a domain of `kind` done what `request` asks?
    #[inline]
    pub(crate) fn satisfies(&self, kind: Kind, request: &Request) -> bool {
        // Acquire pairs with the Release with which the handler publishes: the flush happened
        // before, and so did the CPU's every use of a removed translation.
        let seen = Generation(self.seen(kind).load(Ordering::Acquire));
        seen >= request.generation || (seen >= request.tables && self.is_lazy(kind))
    }

    /// Does the CPU deal with `domain` when it catches up with all? Owner only.
    #[inline]
    pub(crate) fn uses(&self, domain: &Domain) -> bool {
        // Relaxed: this CPU wrote both.
        match domain.kind {
            Kind::Kernel => self.published.kernel.load(Ordering::Relaxed) != Generation::NONE.0,
            Kind::Space => ptr::eq(self.published.active.load(Ordering::Relaxed), domain),
        }
    }
}
