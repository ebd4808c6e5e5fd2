//! Recording a change in its domain's log while its page-table entries are still locked.
//!
//! # The rule of completion
//!
//! When a ticket completes, no CPU can use any translation of its pages, nor of the frames that it
//! frees at any address that they were ever mapped at, that a change made before it removed or
//! narrowed. It does not matter which CPU made that change, nor whether it has been announced.
//!
//! Two things keep the rule:
//!
//! - **Generations are ordered as the changes are.** A change claims its generation before another
//!   CPU can change the same entries: [`Shootdown::record`] is called with the page-table claim held.
//!   So a later change of the same page, or of the page that a frame was moved to, has a newer
//!   generation, and a CPU that has published the newer generation has flushed for the older one.
//! - **A change that finds nothing to change waits for what is pending.** It has no generation of its
//!   own, so it takes a ticket for the newest recorded change of its pages:
//!   [`Shootdown::pending_in`].
//!
//! A recorded change that nobody has announced yet delays no other ticket: each ticket interrupts the
//! CPUs that it waits for by itself.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::sync::hint;

use crate::domain::Domain;
use crate::handler::Appended;
use crate::switch::WINDOW;
use crate::ticket::NOBODY;
use crate::{Fault, Generation, Invalidation, PageRange, Request, Scope, Shootdown, Tables, Ticket, Tlb};

/// A change of page tables that is recorded in its domain's log, and that no CPU has been told of.
///
/// [`Shootdown::announce`] tells them.
#[must_use = "other CPUs are told of the change when it is announced"]
#[derive(Debug)]
pub struct ChangeRecord<'d> {
    domain: &'d Domain,
    invalidation: Invalidation,
    generation: Generation,
}

impl<T: Tlb> Shootdown<T> {
    /// Records `invalidation` in `domain`'s log: claims its generation. The caller has changed the
    /// page tables and still holds the lock that keeps other CPUs from changing the same entries.
    ///
    /// Costs one atomic add to the domain and the filling of a log entry. Tells no CPU, waits for
    /// nothing.
    // Always: as `issue`.
    #[inline(always)]
    pub fn record<'d>(&'d self, domain: &'d Domain, invalidation: Invalidation) -> ChangeRecord<'d> {
        // Global translations are in the TLBs of CPUs that left the domain, too.
        let domain = if invalidation.scope == Scope::Everything { &self.kernel } else { domain };
        let generation = if self.broken(Fault::RecordUnlocked) {
            Generation::NONE
        } else {
            self.append(domain, invalidation.scope, invalidation.tables)
        };
        ChangeRecord { domain, invalidation, generation }
    }

    /// Appends one change to `domain`'s log.
    #[inline(always)]
    pub(crate) fn append(&self, domain: &Domain, scope: Scope, tables: Tables) -> Generation {
        // Before the claim, by which other CPUs learn of the change.
        self.tlb.publish_tables();
        if self.broken(Fault::LeaveUnwritten) {
            return domain.log.claim();
        }
        domain.log.append(scope, tables)
    }

    /// Makes every CPU that may hold translations named by the recorded change drop them.
    ///
    /// The calling CPU has dropped its own when this returns; the others have when the ticket
    /// completes. Costs a full barrier, a swap for each target and at most one [`Tlb::send_ipi`];
    /// waits for no CPU (for the hardware alone, where that broadcasts). Safe in interrupt handlers.
    // Always: most callers append one range of pages, and a CPU that is alone calls nothing.
    #[inline(always)]
    pub fn announce<'s>(&'s self, pin: &CpuPin, record: ChangeRecord<'s>) -> Ticket<'s, T> {
        let ChangeRecord { domain, invalidation, mut generation } = record;
        let Invalidation { scope, tables } = invalidation;
        if self.broken(Fault::RecordUnlocked) {
            (0..WINDOW).for_each(|_| hint::spin_loop());
            generation = domain.log.append(scope, tables);
        }
        let freed = if tables == Tables::Freed { generation } else { Generation::NONE };
        self.issue(pin, domain, Request { generation, tables: freed }, 1, Appended::One(scope))
    }

    /// Returns a ticket for every change of a page of `range` that has been recorded in `domain`.
    ///
    /// It is what a change takes that finds nothing to change, and what a caller takes who must know
    /// that an earlier change of the pages is complete, by whichever CPU it was made. The calling CPU
    /// has dropped its own old translations when this returns.
    ///
    /// Costs a full barrier and two loads for each member of the domain if nothing is pending; else
    /// also a look at up to 32 log entries, and the interrupts to members that have not answered.
    /// A change of more than 32 generations ago whose pages the log has lost counts as one of
    /// `range`. Changes recorded as [`Scope::Everything`] are in the kernel's domain.
    pub fn pending_in<'s>(&'s self, pin: &CpuPin, domain: &'s Domain, range: PageRange) -> Ticket<'s, T> {
        self.pending_until(pin, domain, |newest| domain.log.newest_of(range, newest))
    }

    /// Returns a ticket for every change that has been recorded in `domain`.
    ///
    /// As [`Shootdown::pending_in`], without the look at the log.
    pub fn pending<'s>(&'s self, pin: &CpuPin, domain: &'s Domain) -> Ticket<'s, T> {
        self.pending_until(pin, domain, Some)
    }

    /// Returns a ticket for all generations up to the one that `wanted` chooses, given the newest.
    pub(crate) fn pending_until<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        wanted: impl FnOnce(Generation) -> Option<Generation>,
    ) -> Ticket<'s, T> {
        // Pairs with the barrier of a CPU that joins or ceases to be lazy (switch.rs), as in `issue`:
        // the change was recorded before this call, so either that CPU reads its generation after its
        // barrier, or it is seen below as a member.
        fence(Ordering::SeqCst);
        let newest = domain.log.newest();
        let request = |generation| Request { generation, tables: Generation::NONE };
        let ticket = |generation, done_below| {
            Ticket::new(self, domain, request(generation), done_below, self.tlb.now())
        };
        // Acquire pairs with the Release in `broadcast`: the hardware had removed them before.
        let removed = Generation(domain.removed.load(Ordering::Acquire));
        if newest <= removed || self.broken(Fault::OwnChangeOnly) {
            return ticket(newest, NOBODY);
        }
        let own = self.state(pin.cpu());
        if own.uses(domain) {
            self.catch_up(own, domain);
        }
        // Acquire as in `Ticket::outstanding`.
        let wait_for = domain
            .members
            .find_from(0, Ordering::Acquire, |cpu| !self.is_satisfied(cpu, domain.kind, &request(newest)));
        if wait_for.is_none() {
            return ticket(newest, NOBODY);
        }
        match wanted(newest) {
            Some(generation) if generation > removed => {
                let mut ticket = ticket(generation, 0);
                if ticket.outstanding().is_some() {
                    self.interrupt_late(pin.cpu(), domain, &request(generation));
                }
                ticket
            }
            _ => ticket(newest, NOBODY),
        }
    }
}
