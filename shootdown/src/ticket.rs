//! An issued invalidation, to be waited for.

use core::fmt;
use core::future::IntoFuture;
use core::ptr;

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::sync::hint;
use topomem_percpu::{CpuId, CpuPin, CpuSet, MAX_CPUS};

use crate::cpu::{CpuState, Mailbox};
use crate::domain::{Domain, Kind};
use crate::{Completion, Fault, Request, Shootdown, Ticks, Tlb, Unresponsive};

/// Above every CPU.
pub(crate) const NOBODY: usize = usize::MAX;

/// How many turns a waiter spins before it looks at the clock.
const TURNS: u32 = 64;

/// An issued invalidation. Until it completes, CPUs may use the old translations: what they
/// lead to must not be freed.
///
/// Await it, [`Ticket::wait`] for it, or [`Ticket::detach`] it and ask later. Dropping it stops
/// nothing: the CPUs flush all the same.
#[must_use = "until the ticket completes, other CPUs may use the old translations"]
pub struct Ticket<'s, T: Tlb> {
    pub(crate) queue: &'s Shootdown<T>,
    pub(crate) domain: &'s Domain,
    pub(crate) request: Request,
    /// CPUs numbered below this are known to be done; [`NOBODY`] where no other was concerned. A
    /// CPU that was done once stays so, and one that joins the domain later flushes by itself.
    done_below: usize,
    pub(crate) issued: Ticks,
}

/// How long a waiter goes on before it does something about a CPU.
#[derive(Clone, Copy)]
struct Reminders {
    /// Interrupts it again.
    resend_after: Ticks,
    /// Reports it.
    report_after: Ticks,
}

impl Reminders {
    const fn first(patience: Ticks) -> Reminders {
        Reminders { resend_after: Ticks(patience.0 / 16), report_after: patience }
    }
}

impl<'s, T: Tlb> Ticket<'s, T> {
    #[inline]
    pub(crate) const fn new(
        queue: &'s Shootdown<T>,
        domain: &'s Domain,
        request: Request,
        done_below: usize,
        issued: Ticks,
    ) -> Ticket<'s, T> {
        Ticket { queue, domain, request, done_below, issued }
    }

    /// What it waits for.
    #[inline]
    pub const fn request(&self) -> Request {
        // Nor does it later: a CPU need not have published what a broadcast has removed.
        if self.done_below == NOBODY { Request::NOTHING } else { self.request }
    }

    /// The domain that it belongs to: the one it was issued for, or the kernel's where it
    /// concerned everything.
    pub const fn domain(&self) -> &'s Domain {
        self.domain
    }

    /// Have all CPUs dropped the old translations? Never blocks; costs two or three loads for
    /// each CPU not done before.
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.outstanding().is_none()
    }

    /// The first CPU that isn't done.
    #[inline]
    pub(crate) fn outstanding(&mut self) -> Option<CpuId> {
        if self.done_below >= MAX_CPUS {
            return None;
        }
        let (queue, kind, request) = (self.queue, self.domain.kind, self.request);
        // Acquire as in `is_done_by`, whose other half is the closure.
        let late = self
            .domain
            .members
            .find_from(self.done_below, Ordering::Acquire, |cpu| !queue.is_satisfied(cpu, kind, &request));
        self.done_below = late.map_or(MAX_CPUS, CpuId::index);
        late
    }

    /// Waits until all CPUs are done, serving this CPU's own requests meanwhile: two CPUs that
    /// wait for each other with interrupts masked both get on.
    ///
    /// A CPU that does not answer is interrupted again, then reported
    /// ([`Tlb::on_unresponsive`]), and waited for further.
    ///
    /// An interrupt handler may wait, too. If it has interrupted [`Shootdown::activate`],
    /// [`Shootdown::deactivate`] or [`Shootdown::cpu_online`] on its CPU, it does not wait for the
    /// context that it keeps from running: it flushes this CPU's whole TLB in the place of it. But it
    /// waits for such a context of another CPU. So two handlers that have each interrupted a switch to
    /// or from one address space, and wait for a change of it, wait for each other for ever, and are
    /// reported. A kernel whose handlers may meet like that lets them [`Ticket::detach`].
    #[inline]
    pub fn wait(mut self, pin: &CpuPin) {
        self.block(pin);
    }

    /// The same as [`Ticket::wait`], for a ticket that is part of something else.
    #[inline]
    pub fn block(&mut self, pin: &CpuPin) {
        if self.done_below != NOBODY {
            self.block_for_others(pin);
        }
    }

    #[inline(never)]
    fn block_for_others(&mut self, pin: &CpuPin) {
        let own = self.queue.state(pin.cpu());
        let (mut reminders, mut flushed) = (None, None);
        while !self.spin(&own.mailbox, flushed) {
            if !self.queue.broken(Fault::WaitWithoutPolling) {
                self.queue.poll(pin);
                if flushed.is_none() && !self.queue.is_done_by(self.domain, &self.request, pin.cpu()) {
                    flushed = self.answer_own(pin);
                }
            }
            reminders = Some(self.remind(pin, reminders));
        }
        // Once done a CPU stays so, and what we have flushed here no other CPU has to do.
        self.done_below = MAX_CPUS;
        self.count(own);
    }

    /// Does the executing CPU's part, although it has not published it and nothing is pending: this
    /// context has interrupted a switch or `cpu_online`. If that context alone can publish it, all of
    /// the CPU's translations go instead, and the CPU is returned: it has none that the request
    /// removed, whichever root is loaded, and what it walks from here on it finds changed.
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

    /// Spins until all CPUs are done, and says so; not for long, and not where something waits
    /// for this CPU. Calls nothing, so it keeps what it looks at in registers. `flushed` is done.
    #[inline]
    fn spin(&self, mailbox: &Mailbox, flushed: Option<CpuId>) -> bool {
        let (queue, domain) = (self.queue, self.domain);
        let mut turns = 0;
        // Acquire as in `is_done_by`: the membership is read before what the CPU has published.
        let late = domain.members.find_from(0, Ordering::Acquire, |cpu| {
            let mut done = queue.is_satisfied(cpu, domain.kind, &self.request);
            // Relaxed as in `poll`.
            while !done && turns < TURNS && !mailbox.pending.load(Ordering::Relaxed) {
                turns += 1;
                hint::spin_loop();
                done = queue.is_done_by(domain, &self.request, cpu);
            }
            !done && Some(cpu) != flushed
        });
        late.is_none()
    }

    /// The CPUs that aren't done, but for the executing one.
    fn late(&self, pin: &CpuPin) -> CpuSet {
        let is_late =
            |&cpu: &CpuId| cpu != pin.cpu() && !self.queue.is_done_by(self.domain, &self.request, cpu);
        let members = self.domain.members.load(Ordering::Acquire);
        members.iter().filter(is_late).collect()
    }

    /// Looks at the clock: interrupts the late CPUs again, and reports the first, where it is time.
    #[cold]
    fn remind(&mut self, pin: &CpuPin, reminders: Option<Reminders>) -> Reminders {
        let waited = self.queue.tlb.now().since(self.issued);
        let mut next = reminders.unwrap_or_else(|| Reminders::first(self.queue.tlb.patience()));
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

    /// Counts a wait that has ended, unless there was nobody to wait for.
    #[inline]
    pub(crate) fn finish(&self, pin: &CpuPin) {
        if self.done_below != NOBODY {
            self.count(self.queue.state(pin.cpu()));
        }
    }

    #[inline]
    fn count(&self, own: &CpuState) {
        own.counters.took(self.queue.tlb.now().since(self.issued));
    }

    /// Gives up the wait and keeps what it was for: [`Shootdown::is_done`] tells later whether
    /// it is complete.
    #[must_use = "the request tells when the memory may be freed"]
    pub fn detach(self) -> Request {
        self.request()
    }

    /// Both tickets as one, complete when both are.
    ///
    /// # Errors
    ///
    /// Both come back where they are not of one domain and queue.
    #[allow(clippy::result_large_err)]
    pub fn merge(self, other: Ticket<'s, T>) -> Result<Ticket<'s, T>, (Ticket<'s, T>, Ticket<'s, T>)> {
        if !ptr::eq(self.domain, other.domain) || !ptr::eq(self.queue, other.queue) {
            return Err((self, other));
        }
        // Each CPU that either waits for is asked for the newer generation: one that only the
        // older ticket waits for was lazy, or had left, when the newer was issued, or will see
        // both.
        Ok(Ticket {
            queue: self.queue,
            domain: self.domain,
            request: self.request().merge(other.request()),
            done_below: self.done_below.min(other.done_below),
            issued: self.issued.min(other.issued),
        })
    }
}

impl<'s, T: Tlb> IntoFuture for Ticket<'s, T> {
    type Output = ();
    type IntoFuture = Completion<'s, T>;

    fn into_future(self) -> Completion<'s, T> {
        Completion::new(self)
    }
}

impl<T: Tlb> fmt::Debug for Ticket<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("request", &self.request)
            .field("done_below", &self.done_below)
            .finish_non_exhaustive()
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Is `request`, of an invalidation of `domain`, complete? Costs three loads for each CPU
    /// that is a member of the domain.
    #[must_use]
    pub fn is_done(&self, domain: &Domain, request: Request) -> bool {
        // Acquire pairs with a leaving CPU's Release.
        let members = domain.members.load(Ordering::Acquire);
        members.iter().all(|cpu| self.is_done_by(domain, &request, cpu))
    }

    /// Has `cpu` done its part? The membership is read first: who joined since has published
    /// nothing from before it joined (`Published::space`), and where what is read belongs to
    /// the domain that the CPU went to, it has left this one.
    #[inline]
    fn is_done_by(&self, domain: &Domain, request: &Request, cpu: CpuId) -> bool {
        !domain.members.contains(cpu, Ordering::Acquire) || self.is_satisfied(cpu, domain.kind, request)
    }

    /// Has `cpu`, a member of a domain of `kind`, done what `request` asks?
    #[inline]
    pub(crate) fn is_satisfied(&self, cpu: CpuId, kind: Kind, request: &Request) -> bool {
        self.fault.answered(cpu).unwrap_or_else(|| self.state(cpu).satisfies(kind, request))
    }

    /// Reports a CPU that doesn't answer.
    pub(crate) fn report(&self, report: Unresponsive) {
        if !self.broken(Fault::NeverReport) {
            self.fault.give_up(report.cpu);
            self.tlb.on_unresponsive(report);
        }
    }

    /// Interrupts `late` once more: where the context that was to send the interrupt has itself
    /// been interrupted by us, nobody else will.
    pub(crate) fn send_again(&self, pin: &CpuPin, mut late: CpuSet) {
        late.remove(pin.cpu());
        if !late.is_empty() {
            self.state(pin.cpu()).counters.ipis_resent.add(late.len() as u64);
            self.tlb.send_ipi(&late);
        }
    }

    /// The address that stands for `domain` where nothing is followed: zero for the kernel's.
    pub(crate) fn mark(domain: &Domain) -> usize {
        match domain.kind {
            Kind::Kernel => 0,
            Kind::Space => ptr::from_ref(domain).addr(),
        }
    }
}
