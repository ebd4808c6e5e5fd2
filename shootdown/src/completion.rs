//! A ticket as a future, and the calling of its waker.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuPin, CpuSet};

use crate::domain::Kind;
use crate::waiters::{Awaited, Registration};
use crate::{Fault, Request, Shootdown, Ticket, Ticks, Tlb, Unresponsive};

/// Does somebody wait for a waker to be called? Said by what may have completed requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakersDue {
    /// No waker is registered, or nothing can have completed.
    No,
    /// [`Shootdown::wake_completed`] should be called soon.
    Perhaps,
}

/// The future of a [`Ticket`]: ready when every CPU has dropped the old translations.
///
/// Allocates nothing: its waker sits in one of a fixed number of slots of the queue. While all
/// are taken it wakes itself, so that its executor polls it again. May be dropped at any time.
#[must_use = "futures do nothing unless polled"]
pub struct Completion<'s, T: Tlb> {
    ticket: Ticket<'s, T>,
    registration: Option<Registration>,
    /// The wait after which the late CPU is next reported; before the first time less than
    /// [`Tlb::patience`]. Kept from one registration to the next, or each poll would report again.
    report_after: Ticks,
}

impl<'s, T: Tlb> Completion<'s, T> {
    pub(crate) const fn new(ticket: Ticket<'s, T>) -> Completion<'s, T> {
        Completion { ticket, registration: None, report_after: Ticks(0) }
    }

    /// What it waits for.
    pub const fn request(&self) -> Request {
        self.ticket.request()
    }

    fn deregister(&mut self) {
        if let Some(registration) = self.registration.take()
            && let Some(report_after) = self.ticket.queue.waiters.deregister(registration)
        {
            self.report_after = report_after;
        }
    }
}

impl<T: Tlb> Future for Completion<'_, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.deregister();
        let queue = this.ticket.queue;
        // One turn for each CPU at most: a CPU that is done stays so.
        while let Some(cpu) = this.ticket.outstanding() {
            let awaited = Awaited {
                cpu,
                kind: this.ticket.domain.kind,
                domain: Shootdown::<T>::mark(this.ticket.domain),
                request: this.ticket.request,
                issued: this.ticket.issued,
            };
            let report_after = this.report_after.max(queue.tlb.patience());
            match queue.waiters.register(awaited, report_after, context.waker().clone()) {
                Ok(registration) => this.registration = Some(registration),
                Err(waker) => {
                    waker.wake();
                    return Poll::Pending;
                }
            }
            // Pairs with the barrier in `Waiters::any`: a CPU that has published by now, and saw
            // no waker, is seen here.
            fence(Ordering::SeqCst);
            if queue.broken(Fault::RegisterBlindly) || this.ticket.outstanding() == Some(cpu) {
                return Poll::Pending;
            }
            this.deregister();
        }
        this.ticket.finish(&queue.tlb.pin());
        Poll::Ready(())
    }
}

impl<T: Tlb> Drop for Completion<'_, T> {
    fn drop(&mut self) {
        self.deregister();
    }
}

impl<T: Tlb> fmt::Debug for Completion<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Is a waker registered that may have to be called? Costs a full barrier and a load. May be
    /// asked anywhere, with locks held and in interrupt handlers, to decide whether
    /// [`Shootdown::wake_completed`] is to be called as soon as that is possible.
    #[inline]
    pub fn wakers_due(&self) -> WakersDue {
        if self.waiters.any() { WakersDue::Perhaps } else { WakersDue::No }
    }

    /// Calls the wakers of futures that can get on, and reports CPUs that keep one waiting for
    /// too long. Returns how many wakers were called.
    ///
    /// A kernel calls it with no lock held that a waker may need, soon after a function has
    /// answered [`WakersDue::Perhaps`]. Those are all that can complete a request without an
    /// interrupt that comes later: [`Shootdown::on_ipi`], [`Shootdown::activate`],
    /// [`Shootdown::deactivate`], [`Shootdown::leave_lazy`], [`Shootdown::cpu_online`] and
    /// [`Shootdown::cpu_offline`]. What [`Shootdown::poll`], a waiter, a change of the CPU's own and
    /// [`Shootdown::enter_lazy`] complete was asked for by an interrupt, which tells of it when it
    /// arrives. A kernel need not look at any of the answers if it calls this at the end of each
    /// interrupt, before halting, between tasks and after each switch of address spaces.
    ///
    /// A slow tick calls it, too: a CPU that does not answer is reported from here. Costs a full
    /// barrier and a load if nobody waits, else a look at each slot.
    pub fn wake_completed(&self, pin: &CpuPin) -> usize {
        if !self.waiters.any() {
            return 0;
        }
        let mut called = 0;
        for (registration, awaited) in self.waiters.iter() {
            if self.may_get_on(&awaited) {
                if let Some(waker) = self.waiters.take(registration) {
                    waker.wake();
                    called += 1;
                }
                continue;
            }
            let waited = self.tlb.now().since(awaited.issued);
            if self.waiters.report_due(registration, waited) {
                self.send_again(pin, CpuSet::of(awaited.cpu));
                let (cpu, generation) = (awaited.cpu, awaited.request.generation());
                self.report(Unresponsive { cpu, generation, waited });
            }
        }
        called
    }

    /// Is the awaited CPU done, or may it be? Follows no pointer: the domain may be gone.
    fn may_get_on(&self, awaited: &Awaited) -> bool {
        let state = self.state(awaited.cpu);
        let left = match awaited.kind {
            Kind::Kernel => !self.kernel.members.contains(awaited.cpu, Ordering::Acquire),
            // The slot is cleared before the CPU leaves.
            Kind::Space => state.published.active.load(Ordering::Acquire).addr() != awaited.domain,
        };
        left || self.is_satisfied(awaited.cpu, awaited.kind, &awaited.request)
    }
}
