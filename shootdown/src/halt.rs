//! Halting waiters: after a long wait, a waiter halts its CPU until the awaited CPU has answered.
//!
//! A waiter names the awaited CPU, passes a full barrier, looks at the CPU again, and halts. A CPU publishes, passes
//! a full barrier ([`Waiters::any`](crate::waiters::Waiters::any)), and interrupts the CPUs that name the publishing
//! CPU. One side sees the other. The load that looks for wakers looks for halted CPUs, too, so an answer costs no more
//! while no CPU halts.

use topomem_percpu::sync::atomic::{AtomicUsize, Ordering, fence};
use topomem_percpu::{AtomicCpuSet, CpuId, CpuPin, CpuSet};

use crate::{Fault, Shootdown, Ticket, Tlb};

/// The CPUs whose waiters halt, or are about to.
pub(crate) struct Halted(AtomicCpuSet);

impl Halted {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Halted {
        Halted(AtomicCpuSet::new())
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Halted {
        Halted(AtomicCpuSet::new())
    }
}

/// The CPU awaited by a halted CPU's waiter: the number plus one, or 0.
pub(crate) struct AwaitedCpu(AtomicUsize);

impl AwaitedCpu {
    #[cfg(not(loom))]
    pub(crate) const fn nobody() -> AwaitedCpu {
        AwaitedCpu(AtomicUsize::new(0))
    }

    #[cfg(loom)]
    pub(crate) fn nobody() -> AwaitedCpu {
        AwaitedCpu(AtomicUsize::new(0))
    }

    fn is(&self, cpu: CpuId) -> bool {
        // Relaxed: the barriers of both sides order it.
        self.0.load(Ordering::Relaxed) == cpu.index() + 1
    }

    /// Sets the word, and returns the value before.
    fn set(&self, value: usize) -> usize {
        // Relaxed: the owner alone writes it, and the barriers of both sides order it.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(value, Ordering::Relaxed);
        before
    }
}

impl<T: Tlb> Ticket<'_, T> {
    /// Halts the CPU until the first late CPU has answered, if the wait has been long and the machine
    /// can halt. Returns after any interrupt.
    #[cold]
    #[inline(never)]
    pub(crate) fn halt_if_long(&mut self, pin: &CpuPin) {
        let queue = self.queue;
        let Some(limit) = queue.tlb.spin_limit() else { return };
        if queue.tlb.now().since(self.issued) < limit {
            return;
        }
        // A CPU does its own part itself.
        let Some(late) = self.outstanding().filter(|&late| late != pin.cpu()) else { return };
        let own = queue.state(pin.cpu());
        let before = own.awaited.set(late.index() + 1);
        // Before the CPU is in the set: a handler that waits in between, too, finds itself counted.
        queue.waiters.halter_came();
        let outermost = queue.halted.0.insert(pin.cpu(), Ordering::Relaxed);
        // Pairs with the barrier in `Waiters::any`: a CPU that has published by now, and saw nobody
        // halt, is seen below.
        fence(Ordering::SeqCst);
        own.counters.halts.add(1);
        queue.tlb.halt_unless(|| {
            // Relaxed: the interrupt on its way is served when interrupts are on.
            !queue.fault_is_active(Fault::HaltBlindly)
                && (own.mailbox.pending.load(Ordering::Relaxed)
                    || queue.is_done_by(self.domain, &self.request, late))
        });
        // A waiter that has interrupted another waiter's halt restores that waiter's words. The interrupted waiter
        // wakes at the end of this handler, and looks again.
        own.awaited.set(before);
        if outermost {
            queue.halted.0.remove(pin.cpu(), Ordering::Relaxed);
        }
        queue.waiters.halter_went();
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Interrupts the CPUs that halt until the executing CPU has answered.
    #[cold]
    #[inline(never)]
    pub(crate) fn wake_halted(&self) {
        let own = self.tlb.current_cpu();
        // Relaxed: the caller's full barrier comes before.
        let halted = self.halted.0.load(Ordering::Relaxed);
        let waiting: CpuSet =
            halted.iter().filter(|&cpu| cpu != own && self.state(cpu).awaited.is(own)).collect();
        if !waiting.is_empty() {
            self.tlb.send_ipi(&waiting);
        }
    }
}
