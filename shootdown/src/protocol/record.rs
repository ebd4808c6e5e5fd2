//! Recording a change in its domain's log while its page-table entries are still locked.
//!
//! # The rule of completion
//!
//! When a ticket completes, no CPU can use a translation removed or narrowed by an earlier change,
//! if the translation belongs to the ticket's pages, or leads to a frame freed by the ticket at any
//! address ever mapped to the frame. The rule covers changes made by any CPU, announced or not.
//!
//! Two mechanisms keep the rule:
//!
//! - **Generations are ordered as the changes are.** A change claims its generation before another
//!   CPU can change the same entries: [`Shootdown::record`] is called with the page-table claim
//!   held. A later change of the same page, or of the page a frame was moved to, therefore has a
//!   newer generation, and a CPU with the newer generation published has flushed for the older
//!   generation.
//! - **A change without anything to change waits for pending changes.** Without a generation of its
//!   own, the change takes a ticket for the newest recorded change of its pages:
//!   [`Shootdown::pending_in`].
//!
//! A recorded and not yet announced change delays no other ticket: each ticket interrupts the CPUs
//! it waits for by itself.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};

use super::handler::Appended;
use super::ticket::ALL_DONE;
use crate::domain::Domain;
use crate::{Generation, Invalidation, PageRange, Request, Scope, Shootdown, Tables, Ticket, Tlb};

/// A change of page tables, recorded in its domain's log and not yet announced to any CPU.
///
/// [`Shootdown::announce`] announces the change.
#[must_use = "other CPUs are told of the change when it is announced"]
#[derive(Debug)]
pub struct ChangeRecord<'d> {
    domain: &'d Domain,
    invalidation: Invalidation,
    generation: Generation,
}

impl<T: Tlb> Shootdown<T> {
    /// Records `invalidation` in `domain`'s log by claiming a generation. The caller has changed
    /// the page tables and still holds the lock protecting the changed entries from changes by
    /// remote CPUs.
    ///
    /// The function tells no CPU and never waits. Cost: an atomic add to the domain, and the
    /// filling of a log entry.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, Invalidation, PageSize, Shootdown, Tlb, VirtAddr};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// let page = Invalidation::page(VirtAddr::new(0x20_0000)?, PageSize::Size4KiB);
    /// // ... lock the entry and clear it ...
    /// let record = QUEUE.record(&SPACE, page);
    /// // ... unlock the entry ...
    /// let pin = QUEUE.tlb().pin();
    /// QUEUE.announce(&pin, record).wait(&pin);
    /// # Ok::<(), topomem_shootdown::NonCanonical>(())
    /// ```
    // Always inlined, like `issue`.
    #[inline(always)]
    pub fn record<'d>(&'d self, domain: &'d Domain, invalidation: Invalidation) -> ChangeRecord<'d> {
        // TLBs of CPUs outside the domain have global translations, too.
        let domain = if invalidation.scope == Scope::Everything { &self.kernel } else { domain };
        let generation =
            self.fault.claim_locked(|| self.append(domain, invalidation.scope, invalidation.tables));
        ChangeRecord { domain, invalidation, generation }
    }

    /// Appends a change to `domain`'s log.
    #[inline(always)]
    pub(crate) fn append(&self, domain: &Domain, scope: Scope, tables: Tables) -> Generation {
        // Before the claim, by which remote CPUs learn of the change.
        self.tlb.publish_tables();
        self.fault.append(&domain.log, scope, tables)
    }

    /// Makes every CPU with possible translations named by the recorded change drop them.
    ///
    /// The calling CPU has dropped its own translations when the function returns. The remote CPUs
    /// have when the ticket completes. Safe in interrupt handlers. The function waits for no CPU,
    /// only for the hardware if the hardware broadcasts.
    ///
    /// Cost: a full barrier, a swap for each target, and at most one [`Tlb::send_ipi`].
    // Always inlined: most callers append a single range of pages, and a lone CPU calls nothing.
    #[inline(always)]
    pub fn announce<'s>(&'s self, pin: &CpuPin, record: ChangeRecord<'s>) -> Ticket<'s, T> {
        let ChangeRecord { domain, invalidation, generation } = record;
        let Invalidation { scope, tables } = invalidation;
        let generation = self.fault.announced(generation, &domain.log, scope, tables);
        let freed = if tables == Tables::Freed { generation } else { Generation::NONE };
        self.issue(pin, domain, Request { generation, tables: freed }, 1, Appended::One(scope))
    }

    /// Returns a ticket for every recorded change of a page of `range` in `domain`.
    ///
    /// A change without anything to change takes the ticket, and so does a caller in need of the
    /// completion of earlier changes of the pages, made by whichever CPU. The calling CPU has
    /// dropped its own old translations when the function returns. A change more than 32
    /// generations old, whose pages the log has lost, counts as a change of `range`. Changes of
    /// [`Scope::Everything`] belong to the kernel's domain.
    ///
    /// Cost: a full barrier and two loads for each member of the domain if nothing is pending; else
    /// also a look at up to 32 log entries, and the interrupts to members without an answer.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, PageRange, PageSize, Shootdown, Tlb, VirtAddr};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// // The page is unmapped already, perhaps by a remote CPU a moment ago.
    /// let page = PageRange::page(VirtAddr::new(0x20_0000)?, PageSize::Size4KiB);
    /// let pin = QUEUE.tlb().pin();
    /// QUEUE.pending_in(&pin, &SPACE, page).wait(&pin);
    /// # Ok::<(), topomem_shootdown::NonCanonical>(())
    /// ```
    pub fn pending_in<'s>(&'s self, pin: &CpuPin, domain: &'s Domain, range: PageRange) -> Ticket<'s, T> {
        self.pending_until(pin, domain, |newest| domain.log.newest_of(range, newest))
    }

    /// Returns a ticket for every recorded change of `domain`, like [`Shootdown::pending_in`]
    /// without the look at the log.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// // The kernel has found no change to make; an earlier change may not be complete everywhere.
    /// QUEUE.pending(&pin, &SPACE).wait(&pin);
    /// ```
    pub fn pending<'s>(&'s self, pin: &CpuPin, domain: &'s Domain) -> Ticket<'s, T> {
        self.pending_until(pin, domain, Some)
    }

    /// Returns a ticket for all generations up to the generation chosen by `wanted`, given the
    /// newest.
    pub(crate) fn pending_until<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        wanted: impl FnOnce(Generation) -> Option<Generation>,
    ) -> Ticket<'s, T> {
        // Pairs with the barrier of a CPU joining or leaving laziness (switch.rs), as in `issue`.
        // The change was recorded before the call: either the CPU reads the generation after its
        // barrier, or the CPU is seen below as a member.
        fence(Ordering::SeqCst);
        let newest = domain.log.newest();
        let request = |generation| Request { generation, tables: Generation::NONE };
        let ticket = |generation, done_below| {
            Ticket::new(self, domain, request(generation), done_below, self.tlb.now())
        };
        // Acquire pairs with the Release in `broadcast`: the removal by hardware happened before.
        let removed = Generation(domain.removed.load(Ordering::Acquire));
        if self.fault.nothing_is_pending(newest <= removed) {
            return ticket(newest, ALL_DONE);
        }
        let own = self.state(pin.cpu());
        if own.uses(domain) {
            self.catch_up(own, domain);
        }
        // Acquire, as in `Ticket::outstanding`.
        let wait_for = domain
            .members
            .find_from(0, Ordering::Acquire, |cpu| !self.is_satisfied(cpu, domain.kind, &request(newest)));
        if wait_for.is_none() {
            return ticket(newest, ALL_DONE);
        }
        match wanted(newest) {
            Some(generation) if generation > removed => {
                let mut ticket = ticket(generation, 0);
                if ticket.outstanding().is_some() {
                    self.interrupt_late(pin.cpu(), domain, &request(generation));
                }
                ticket
            }
            _ => ticket(newest, ALL_DONE),
        }
    }
}
