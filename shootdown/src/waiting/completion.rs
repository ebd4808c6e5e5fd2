//! The future of a ticket, and the calling of its waker.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuPin, CpuSet};

use super::waiters::{Awaited, Expected, Registration};
use crate::domain::Kind;
use crate::{Request, Shootdown, Ticket, Ticks, Tlb, Unresponsive};

/// Whether a waker may have to be called. Returned by each function able to complete requests.
///
/// ```
/// use topomem_shootdown::WakersDue;
///
/// fn after_interrupt(due: WakersDue, wake_completed: impl FnOnce()) {
///     if due == WakersDue::Perhaps {
///         wake_completed();
///     }
/// }
/// # after_interrupt(WakersDue::No, || unreachable!());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakersDue {
    /// No waker is registered, or no request can have completed.
    No,
    /// [`Shootdown::wake_completed`] should be called soon.
    Perhaps,
}

/// The future of a [`Ticket`], ready when every CPU has dropped the old translations.
///
/// The future allocates nothing: its waker lies in one of a fixed number of slots of the queue.
/// While all slots are taken, the future wakes itself, and the executor polls again. The future may
/// be dropped at any time.
#[must_use = "futures do nothing unless polled"]
pub struct Completion<'s, T: Tlb> {
    ticket: Ticket<'s, T>,
    registration: Option<Registration>,
    /// The wait after which the late CPU is next reported; at first below [`Tlb::unresponsive_timeout`]. The
    /// value is kept across registrations, or each poll would report the CPU again.
    report_after: Ticks,
}

impl<'s, T: Tlb> Completion<'s, T> {
    pub(crate) const fn new(ticket: Ticket<'s, T>) -> Completion<'s, T> {
        Completion { ticket, registration: None, report_after: Ticks(0) }
    }

    /// Returns the awaited request.
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
        // At most one turn for each CPU: a CPU stays done.
        while let Some(cpu) = this.ticket.outstanding() {
            let awaited = Awaited {
                cpu,
                kind: this.ticket.domain.kind,
                domain: Shootdown::<T>::domain_key(this.ticket.domain),
                request: this.ticket.request,
                issued: this.ticket.issued,
            };
            let report_after = this.report_after.max(queue.tlb.unresponsive_timeout());
            match queue.waiters.register(awaited, report_after, context.waker().clone()) {
                Ok(registration) => this.registration = Some(registration),
                Err(waker) => {
                    waker.wake();
                    return Poll::Pending;
                }
            }
            // Pairs with the barrier in `Waiters::any`: the second look below sees the answer of a
            // CPU whose handler has published by now without seeing the waker.
            fence(Ordering::SeqCst);
            if queue.fault.look_after_registering(|| this.ticket.outstanding() == Some(cpu)) {
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
    /// Returns whether a registered waker may have to be called.
    ///
    /// Any context may ask, with locks held and in interrupt handlers too, to decide whether to
    /// call [`Shootdown::wake_completed`] soon. Also interrupts the CPUs that halt until the executing CPU has
    /// answered ([`Tlb::halt_unless`]). Cost: a full barrier and a load, if no CPU halts.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::WakersDue;
    ///
    /// assert_eq!(QUEUE.wakers_due(), WakersDue::No);
    /// ```
    #[inline]
    pub fn wakers_due(&self) -> WakersDue {
        let expected = self.waiters.any();
        if expected.is_empty() { WakersDue::No } else { self.told(expected) }
    }

    /// Interrupts the CPUs that halt for the executing CPU, and returns whether wakers are due.
    #[cold]
    pub(crate) fn told(&self, expected: Expected) -> WakersDue {
        if expected.has_halters() {
            self.wake_halted();
        }
        if expected.has_wakers() { WakersDue::Perhaps } else { WakersDue::No }
    }

    /// Calls the wakers of futures able to proceed, and reports late CPUs. Returns the number of
    /// wakers called.
    ///
    /// A kernel calls the function soon after [`WakersDue::Perhaps`], holding no lock needed by a
    /// waker. Six functions can complete a request without a later interrupt:
    /// [`Shootdown::on_ipi`], [`Shootdown::activate`], [`Shootdown::deactivate`],
    /// [`Shootdown::leave_lazy`], [`Shootdown::cpu_online`] and [`Shootdown::cpu_offline`].
    /// Requests completed by [`Shootdown::poll`], by a waiter, by a change of the CPU's own or by
    /// [`Shootdown::enter_lazy`] have an interrupt on its way, whose handler returns the answer. A
    /// kernel may ignore all answers if it calls `wake_completed` at the end of each interrupt,
    /// before halting, between tasks and after each switch of address spaces.
    ///
    /// A slow tick must call the function, too, for the reports of late CPUs. Cost: a full barrier
    /// and a load if no future waits, else a look at each slot.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// // Between tasks, with no lock held that wakers take:
    /// assert_eq!(QUEUE.wake_completed(&pin), 0); // no future waits
    /// ```
    pub fn wake_completed(&self, pin: &CpuPin) -> usize {
        if !self.waiters.any().has_wakers() {
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

    /// Returns whether the awaited CPU may be done. Follows no pointer: the domain may be gone.
    fn may_get_on(&self, awaited: &Awaited) -> bool {
        let state = self.state(awaited.cpu);
        let left = match awaited.kind {
            Kind::Kernel => !self.kernel.members.contains(awaited.cpu, Ordering::Acquire),
            // The CPU clears the slot before its departure from the domain. Acquire pairs with the
            // Release of `publish` and of the departure.
            Kind::Space => state.published.active.load(Ordering::Acquire).addr() != awaited.domain,
        };
        left || self.is_satisfied(awaited.cpu, awaited.kind, &awaited.request)
    }
}
