//! Tickets: issued invalidations to wait for.

use core::future::IntoFuture;
use core::{fmt, ptr};

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuId, MAX_CPUS};

use crate::domain::{Domain, Kind};
use crate::{Completion, Generation, Request, Shootdown, Ticks, Tlb};

/// The first CPU number of a ticket without CPUs left to wait for: above every number.
pub(crate) const ALL_DONE: usize = usize::MAX;

/// An issued invalidation. Until the ticket completes, CPUs may use the old translations, and the
/// frames behind them must not be freed.
///
/// Await the ticket, [`Ticket::wait`] for it, or [`Ticket::detach`] it and ask later. Dropping the
/// ticket stops nothing: the CPUs flush all the same.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
/// use topomem_shootdown::{Domain, Invalidation, Shootdown, Tlb};
/// # use topomem_percpu::Platform;
///
/// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
/// static SPACE: Domain = Domain::new();
///
/// let pin = QUEUE.tlb().pin();
/// let ticket = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain());
/// let request = ticket.detach();
/// // ... keep the request with the unmapped frames, and ask later ...
/// assert!(QUEUE.is_done(&SPACE, request));
/// ```
#[must_use = "until the ticket completes, other CPUs may use the old translations"]
pub struct Ticket<'s, T: Tlb> {
    pub(crate) queue: &'s Shootdown<T>,
    pub(crate) domain: &'s Domain,
    pub(crate) request: Request,
    /// CPUs numbered below this number are known to be done; [`ALL_DONE`] if no remote CPU was
    /// concerned. A CPU stays done, and a CPU joining the domain later flushes by itself.
    pub(crate) done_below: usize,
    pub(crate) issued: Ticks,
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

    /// Returns the awaited request.
    #[inline]
    pub const fn request(&self) -> Request {
        // A complete ticket awaits nothing, now or later: a CPU need not have published a
        // generation removed by a broadcast.
        if self.done_below == ALL_DONE { Request::NOTHING } else { self.request }
    }

    /// Returns the ticket's domain: the domain passed at issue, or the kernel's if the invalidation
    /// concerned everything.
    pub const fn domain(&self) -> &'s Domain {
        self.domain
    }

    /// Returns whether all CPUs have dropped the old translations. Never blocks. Cost: two or three
    /// loads for each CPU not done before.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, Invalidation, Shootdown, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// let mut ticket = QUEUE.invalidate(&QUEUE.tlb().pin(), &SPACE, Invalidation::domain());
    /// assert!(ticket.is_complete());
    /// ```
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.outstanding().is_none()
    }

    /// Returns the first CPU not yet done.
    #[inline]
    pub(crate) fn outstanding(&mut self) -> Option<CpuId> {
        if self.done_below >= MAX_CPUS {
            return None;
        }
        let (queue, kind, request) = (self.queue, self.domain.kind, self.request);
        // Acquire, as in `is_done_by`, whose second half is the closure.
        let late = self
            .domain
            .members
            .find_from(self.done_below, Ordering::Acquire, |cpu| !queue.is_satisfied(cpu, kind, &request));
        self.done_below = late.map_or(MAX_CPUS, CpuId::index);
        late
    }

    /// Gives up the wait and returns the request, whose completion [`Shootdown::is_done`] tells
    /// later.
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
    /// let request = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
    /// assert!(QUEUE.is_done(&SPACE, request));
    /// ```
    #[must_use = "the request tells when the memory may be freed"]
    pub fn detach(self) -> Request {
        self.request()
    }

    /// Merges two tickets: the result is complete when both are.
    ///
    /// # Errors
    ///
    /// Returns both tickets if they belong to different domains or queues.
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
    /// let first = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain());
    /// let second = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain());
    /// let Ok(both) = first.merge(second) else { unreachable!("the tickets are of one domain") };
    /// both.wait(&pin);
    /// ```
    #[allow(clippy::result_large_err)]
    pub fn merge(self, other: Ticket<'s, T>) -> Result<Ticket<'s, T>, (Ticket<'s, T>, Ticket<'s, T>)> {
        if !ptr::eq(self.domain, other.domain) || !ptr::eq(self.queue, other.queue) {
            return Err((self, other));
        }
        // Each CPU awaited by either ticket is asked for the newer generation. A CPU awaited by the
        // older ticket alone was lazy or had left when the newer ticket was issued, or will see
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
    /// Returns whether `request`, an invalidation of `domain`, is complete. Cost: three loads for
    /// each member of the domain.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, Invalidation, Shootdown, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// let request = QUEUE.invalidate(&QUEUE.tlb().pin(), &SPACE, Invalidation::domain()).detach();
    /// assert!(QUEUE.is_done(&SPACE, request));
    /// ```
    #[must_use]
    pub fn is_done(&self, domain: &Domain, request: Request) -> bool {
        // Acquire pairs with a leaving CPU's Release in switch.rs.
        let members = domain.members.load(Ordering::Acquire);
        members.iter().all(|cpu| self.is_done_by(domain, &request, cpu))
    }

    /// Returns whether `cpu` has done its part.
    ///
    /// The membership is read first, with an Acquire pairing with the Release of joining and
    /// leaving. A CPU that joined since has published nothing from before (`Published::space`). If
    /// the generation read afterwards belongs to the CPU's next domain, the CPU has left this
    /// domain.
    #[inline]
    pub(crate) fn is_done_by(&self, domain: &Domain, request: &Request, cpu: CpuId) -> bool {
        !domain.members.contains(cpu, Ordering::Acquire) || self.is_satisfied(cpu, domain.kind, request)
    }

    /// Returns whether `cpu`, a member of a domain of `kind`, has done its part of `request`.
    #[inline]
    pub(crate) fn is_satisfied(&self, cpu: CpuId, kind: Kind, request: &Request) -> bool {
        self.fault.answered(cpu).unwrap_or_else(|| self.state(cpu).satisfies(kind, request))
    }

    /// Returns whether `cpu`, a member of a domain of `kind`, has published `generation`. A lazy CPU need not have.
    #[inline]
    pub(crate) fn has_published(&self, cpu: CpuId, kind: Kind, generation: Generation) -> bool {
        // Acquire as in `CpuState::satisfies`.
        let published = || Generation(self.state(cpu).seen(kind).load(Ordering::Acquire)) >= generation;
        self.fault.answered(cpu).unwrap_or_else(published)
    }

    /// Returns the address used to identify `domain` without following a pointer; zero for the
    /// kernel's.
    pub(crate) fn domain_key(domain: &Domain) -> usize {
        match domain.kind {
            Kind::Kernel => 0,
            Kind::Space => ptr::from_ref(domain).addr(),
        }
    }
}
