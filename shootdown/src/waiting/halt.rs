//! Halting waiters: after a long wait, a waiter halts its CPU until all awaited CPUs have answered.
//!
//! A waiter names the awaited CPUs, passes a full barrier, looks at them again, and halts. A CPU publishes, passes a
//! full barrier ([`Waiters::any`](super::waiters::Waiters::any)), and takes its name out of the halted CPUs' sets. The
//! CPU that takes out the last name interrupts the halted CPU. One side sees the other. The load that looks for wakers
//! looks for halted CPUs, too, so an answer costs no more while no CPU halts.
//!
//! A CPU may have answered an earlier request only: then the waiter wakes too early, and names the CPU again.

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{AtomicCpuSet, CpuId, CpuPin, CpuSet};

use crate::{Shootdown, Ticket, Tlb};

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

/// The CPUs awaited by a halted CPU's waiter. The owner adds names; all CPUs take them out.
pub(crate) struct AwaitedCpus(AtomicCpuSet);

impl AwaitedCpus {
    #[cfg(not(loom))]
    pub(crate) const fn nobody() -> AwaitedCpus {
        AwaitedCpus(AtomicCpuSet::new())
    }

    #[cfg(loom)]
    pub(crate) fn nobody() -> AwaitedCpus {
        AwaitedCpus(AtomicCpuSet::new())
    }

    /// Takes out the name of `cpu`. Returns whether the name was the last.
    fn take_out(&self, cpu: CpuId) -> bool {
        // SeqCst: of two CPUs that take out the last two names, in whichever words, one sees none left.
        self.0.contains(cpu, Ordering::Relaxed)
            && self.0.remove(cpu, Ordering::SeqCst)
            && self.0.load(Ordering::SeqCst).is_empty()
    }

    /// Takes out all names of `cpus`. Returns whether no name is left.
    fn take_all_out(&self, cpus: &CpuSet) -> bool {
        cpus.iter().for_each(|cpu| _ = self.0.remove(cpu, Ordering::SeqCst));
        self.0.load(Ordering::SeqCst).is_empty()
    }

    /// Names `cpus` and no others, and returns the names before.
    fn replace(&self, cpus: &CpuSet) -> CpuSet {
        // Relaxed: the owner alone adds names, and the barriers of both sides order it.
        let before = self.0.load(Ordering::Relaxed);
        before.clone().difference(cpus).iter().for_each(|cpu| _ = self.0.remove(cpu, Ordering::Relaxed));
        cpus.iter().for_each(|cpu| _ = self.0.insert(cpu, Ordering::Relaxed));
        before
    }
}

impl<T: Tlb> Ticket<'_, T> {
    /// Halts the CPU until all late CPUs have answered, if the wait has been long and the machine can
    /// halt. Returns after any interrupt.
    #[cold]
    #[inline(never)]
    pub(crate) fn halt_if_long(&mut self, pin: &CpuPin) {
        let queue = self.queue;
        let Some(limit) = queue.tlb.spin_limit() else { return };
        if queue.tlb.now().since(self.issued) < limit {
            return;
        }
        // A CPU does its own part itself.
        if self.outstanding().is_none_or(|late| late == pin.cpu()) {
            return;
        }
        let late = self.late(pin);
        let own = queue.state(pin.cpu());
        let before = own.awaited.replace(&late);
        // Before the CPU is in the set: a handler that waits in between, too, finds itself counted.
        queue.waiters.halter_came();
        let outermost = queue.halted.0.insert(pin.cpu(), Ordering::Relaxed);
        own.counters.halts.add(1);
        queue.tlb.halt_unless(|| {
            // Pairs with the barrier in `Waiters::any`: a CPU that has published by now, and saw no name of its own,
            // is seen below. Here and not before, since a handler may have halted in between, and restored the names.
            fence(Ordering::SeqCst);
            let has_answered = |&cpu: &CpuId| queue.is_done_by(self.domain, &self.request, cpu);
            // Relaxed: the interrupt on its way is served when interrupts are on.
            queue.fault.look_before_halting(|| {
                own.mailbox.pending.load(Ordering::Relaxed)
                    || own.awaited.take_all_out(&late.iter().filter(has_answered).collect())
            })
        });
        // A waiter that has interrupted another waiter's halt restores that waiter's names. The interrupted waiter
        // wakes at the end of this handler, and looks again.
        own.awaited.replace(&before);
        if outermost {
            queue.halted.0.remove(pin.cpu(), Ordering::Relaxed);
        }
        queue.waiters.halter_went();
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Interrupts the CPUs that halt until the executing CPU, as the last, has answered.
    #[cold]
    #[inline(never)]
    pub(crate) fn wake_halted(&self) {
        let own = self.tlb.current_cpu();
        // Relaxed: the caller's full barrier comes before.
        let halted = self.halted.0.load(Ordering::Relaxed);
        let waiting: CpuSet =
            halted.iter().filter(|&cpu| cpu != own && self.state(cpu).awaited.take_out(own)).collect();
        if !waiting.is_empty() {
            self.tlb.send_ipi(&waiting);
        }
    }
}
