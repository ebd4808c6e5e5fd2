//! The blocking wait for a ticket: spinning, flushing for others, reminding late CPUs, and halting.

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::sync::hint;
use topomem_percpu::{CpuId, CpuPin, CpuSet, MAX_CPUS};

use crate::cpu::{CpuState, Mailbox};
use crate::protocol::ticket::{ALL_DONE, Ticket};
use crate::{Shootdown, Ticks, Tlb, Unresponsive};

/// Number of turns a waiter spins before looking at the clock.
const TURNS: u32 = if cfg!(loom) { 1 } else { 64 };

/// The times after which a waiter acts on a late CPU.
#[derive(Clone, Copy)]
struct Reminders {
    /// The time after which the waiter interrupts the CPU again.
    resend_after: Ticks,
    /// The time after which the waiter reports the CPU.
    report_after: Ticks,
}

impl Reminders {
    const fn first(timeout: Ticks) -> Reminders {
        Reminders { resend_after: Ticks(timeout.0 / 16), report_after: timeout }
    }
}

impl<T: Tlb> Ticket<'_, T> {
    /// Waits until all CPUs are done, and serves this CPU's own requests meanwhile: two CPUs
    /// waiting for each other with interrupts masked both proceed.
    ///
    /// An unresponsive CPU is interrupted again, then reported ([`Tlb::on_unresponsive`]), and
    /// waited for further.
    ///
    /// An interrupt handler may wait, too. If the handler has interrupted [`Shootdown::activate`],
    /// [`Shootdown::deactivate`] or [`Shootdown::cpu_online`] on its CPU, the function does not
    /// wait for the interrupted context. It flushes this CPU's whole TLB instead. The function does
    /// wait, however, for such a context of a remote CPU. Two handlers, each in the middle of an
    /// interrupted switch to or from the same address space, therefore wait for each other for ever
    /// if both wait for a change of the space. They are reported. A kernel with such handlers lets
    /// them [`Ticket::detach`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::Invalidation;
    ///
    /// QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).wait(&pin);
    /// ```
    #[inline]
    pub fn wait(mut self, pin: &CpuPin) {
        self.block(pin);
    }

    /// Waits like [`Ticket::wait`], for a ticket inside a larger value.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::Invalidation;
    ///
    /// let mut ticket = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain());
    /// ticket.block(&pin);
    /// assert!(ticket.is_complete());
    /// ```
    #[inline]
    pub fn block(&mut self, pin: &CpuPin) {
        if self.done_below != ALL_DONE {
            self.block_for_others(pin);
        }
    }

    #[inline(never)]
    fn block_for_others(&mut self, pin: &CpuPin) {
        let own = self.queue.state(pin.cpu());
        if !self.spin_for_first(&own.mailbox) {
            return self.block_for_long(pin);
        }
        self.done_by_all(own);
    }

    /// Spins until the first CPU that may be late has answered, and says whether all others have, too.
    ///
    /// Membership is not looked at. A CPU that was no member when the request was issued, or has left since, is done
    /// whatever generation the CPU has published; looking would only shorten the spinning.
    #[inline(always)]
    fn spin_for_first(&self, mailbox: &Mailbox) -> bool {
        let (queue, domain, kind) = (self.queue, self.domain, self.domain.kind);
        let Some(first) = CpuId::new(self.done_below) else { return false };
        let mut turns = TURNS;
        while !queue.has_published(first, kind, self.request.generation) {
            // Relaxed as in `poll`.
            if turns == 0 || mailbox.pending.load(Ordering::Relaxed) {
                return false;
            }
            turns -= 1;
            hint::spin_loop();
        }
        let is_late = |cpu| !queue.is_satisfied(cpu, kind, &self.request);
        // Acquire as in `is_done_by`, whose other half is the closure.
        domain.members.find_from(first.index() + 1, Ordering::Acquire, is_late).is_none()
    }

    // Apart, so that a wait for CPUs that answer at once saves no registers for it.
    #[inline(never)]
    fn block_for_long(&mut self, pin: &CpuPin) {
        let own = self.queue.state(pin.cpu());
        let (mut reminders, mut flushed) = (None, None);
        while !self.spin(&own.mailbox, flushed) {
            self.queue.fault.serve_own(|| {
                self.queue.poll(pin);
                if flushed.is_none() && !self.queue.is_done_by(self.domain, &self.request, pin.cpu()) {
                    flushed = self.answer_own(pin);
                }
            });
            reminders = Some(self.remind(pin, reminders));
            self.halt_if_long(pin);
        }
        self.done_by_all(own);
    }

    /// Ends a wait. A CPU stays done, and no further CPU has to do the work flushed here.
    #[inline]
    fn done_by_all(&mut self, own: &CpuState) {
        self.done_below = MAX_CPUS;
        self.count(own);
    }

    /// Does the executing CPU's part, although the CPU has not published the generation and nothing
    /// is pending, since this context has interrupted a switch or `cpu_online`.
    ///
    /// If only the interrupted context can publish the generation, the function flushes all of the
    /// CPU's translations instead and returns the CPU. The CPU then has no translation removed by
    /// the request, whichever root is loaded, and later walks find the changed tables.
    #[cold]
    fn answer_own(&self, pin: &CpuPin) -> Option<CpuId> {
        let (queue, cpu) = (self.queue, pin.cpu());
        queue.catch_up_all(pin);
        if queue.is_done_by(self.domain, &self.request, cpu) {
            return None;
        }
        queue.state(cpu).counters.full_flushes.add(1);
        queue.tlb.flush_all();
        Some(cpu)
    }

    /// Spins until all CPUs are done, and returns whether they are. The function gives up after a
    /// short time, or if a request waits for this CPU. It calls nothing, and so keeps its values in
    /// registers. `flushed` counts as done.
    #[inline]
    fn spin(&self, mailbox: &Mailbox, flushed: Option<CpuId>) -> bool {
        let (queue, domain) = (self.queue, self.domain);
        let mut turns = 0;
        // Acquire, as in `is_done_by`: the membership is read before the CPU's published
        // generation.
        let late = domain.members.find_from(0, Ordering::Acquire, |cpu| {
            let mut done = queue.is_satisfied(cpu, domain.kind, &self.request);
            // Relaxed, as in `poll`.
            while !done && turns < TURNS && !mailbox.pending.load(Ordering::Relaxed) {
                turns += 1;
                hint::spin_loop();
                done = queue.is_done_by(domain, &self.request, cpu);
            }
            !done && Some(cpu) != flushed
        });
        late.is_none()
    }

    /// Returns the CPUs not yet done, except the executing CPU.
    pub(crate) fn late(&self, pin: &CpuPin) -> CpuSet {
        let is_late =
            |&cpu: &CpuId| cpu != pin.cpu() && !self.queue.is_done_by(self.domain, &self.request, cpu);
        let members = self.domain.members.load(Ordering::Acquire);
        members.iter().filter(is_late).collect()
    }

    /// Looks at the clock, interrupts the late CPUs again, and reports the first of them, if the
    /// time has come.
    #[cold]
    fn remind(&mut self, pin: &CpuPin, reminders: Option<Reminders>) -> Reminders {
        let waited = self.queue.tlb.now().since(self.issued);
        let mut next = reminders.unwrap_or_else(|| Reminders::first(self.queue.tlb.unresponsive_timeout()));
        if waited > next.resend_after {
            next.resend_after = Ticks(waited.0.saturating_mul(2));
            self.queue.send_again(pin, self.late(pin));
        }
        if waited > next.report_after
            && let Some(cpu) = self.late(pin).iter().next()
        {
            next.report_after = Ticks(waited.0.saturating_mul(2));
            let generation = self.request.generation;
            self.queue.report(Unresponsive { cpu, generation, waited });
        }
        next
    }

    /// Counts a finished wait, unless no CPU was awaited.
    #[inline]
    pub(crate) fn finish(&self, pin: &CpuPin) {
        if self.done_below != ALL_DONE {
            self.count(self.queue.state(pin.cpu()));
        }
    }

    #[inline]
    fn count(&self, own: &CpuState) {
        own.counters.record_latency(self.queue.tlb.now().since(self.issued));
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Reports an unresponsive CPU.
    pub(crate) fn report(&self, report: Unresponsive) {
        self.fault.report(report.cpu, || self.tlb.on_unresponsive(report));
    }

    /// Interrupts the CPUs in `late` again. If this context has interrupted the context about to
    /// send the interrupt, no other context will send it.
    pub(crate) fn send_again(&self, pin: &CpuPin, mut late: CpuSet) {
        late.remove(pin.cpu());
        if !late.is_empty() {
            self.state(pin.cpu()).counters.ipis_resent.add(late.len() as u64);
            self.tlb.send_ipi(&late);
        }
    }
}
