//! The sender's side: record, full barrier, read the members, interrupt the members not up to date.

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuId, CpuPin, CpuSet};

use super::handler::Appended;
use super::ticket::ALL_DONE;
use crate::cpu::CpuState;
use crate::domain::Domain;
use crate::{Generation, Invalidation, Request, Shootdown, Tables, Ticket, Tlb};

impl<T: Tlb> Shootdown<T> {
    /// Records a change and announces it: every CPU with possible translations named by
    /// `invalidation` drops them. The caller has changed `domain`'s page tables already.
    ///
    /// If remote CPUs change the same page tables, the caller must call the function with the
    /// changed entries still locked, or call [`Shootdown::record`] with them locked and
    /// [`Shootdown::announce`] later: see the rule of completion there.
    ///
    /// The calling CPU has dropped its own translations when the function returns. The remote CPUs
    /// have when the ticket completes. Safe in interrupt handlers. The function waits for no CPU,
    /// only for the hardware if the hardware broadcasts.
    ///
    /// Cost: an atomic add to the domain, a full barrier, a swap for each target, and at most one
    /// [`Tlb::send_ipi`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, Invalidation, PageSize, Shootdown, Tlb, VirtAddr};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// let pin = QUEUE.tlb().pin();
    /// // ... unmap the page at 2 MiB ...
    /// let page = Invalidation::page(VirtAddr::new(0x20_0000)?, PageSize::Size4KiB);
    /// QUEUE.invalidate(&pin, &SPACE, page).wait(&pin);
    /// // ... and free its frame ...
    /// # Ok::<(), topomem_shootdown::NonCanonical>(())
    /// ```
    // Always inlined, like `issue`.
    #[inline(always)]
    pub fn invalidate<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        invalidation: Invalidation,
    ) -> Ticket<'s, T> {
        self.announce(pin, self.record(domain, invalidation))
    }

    /// Announces all changes up to `request`'s generation to the remaining members of `domain`.
    /// This CPU has recorded the last `generations` of them as `appended`.
    // Always inlined: most callers append a single range of pages, and a lone CPU calls nothing.
    #[inline(always)]
    pub(crate) fn issue<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        request: Request,
        generations: u64,
        appended: Appended<'_>,
    ) -> Ticket<'s, T> {
        let generation = request.generation;
        let freed = request.tables != Generation::NONE;
        let tables = if freed { self.fault.freed() } else { Tables::Kept };
        self.fault.begin_issue(self, pin, domain);
        let issued = self.tlb.now();
        let cpu = pin.cpu();
        let own = self.state(cpu);
        // Pairs with the barrier of a CPU joining or leaving laziness (switch.rs): either the CPU
        // reads our generation after its barrier, or we see the CPU below as a busy member.
        fence(Ordering::SeqCst);
        // Acquire pairs with a leaving CPU's Release: a CPU not seen below has left.
        let done_below = match self.first_busy(cpu, own, domain, tables) {
            None => ALL_DONE,
            Some(first) => self.notify(cpu, domain, tables, generation, first),
        };
        own.counters.requests.add(1);
        let own_is_done = if own.uses(domain) {
            // The own flush overlaps with the interrupts' travel.
            match tables {
                Tables::Kept => self.catch_up_appended(own, domain, generation, generations, appended),
                // Pages may name too little.
                Tables::Freed => self.catch_up(own, domain),
            }
            true
        } else {
            // If a member by now, the CPU is in the middle of an interrupted switch, whose end
            // looks at the generation.
            !domain.members.contains(cpu, Ordering::Acquire)
        };
        let tables = if tables == Tables::Freed { request.tables } else { Generation::NONE };
        let done_below = if own_is_done { done_below } else { 0 };
        Ticket::new(self, domain, Request { generation, tables }, done_below, issued)
    }

    /// Returns the first other member that is not lazy. Counts the lazy members below that CPU.
    // A pass of its own, so a change beside idle CPUs costs little more than on a lone CPU.
    #[inline(always)]
    fn first_busy(&self, own: CpuId, state: &CpuState, domain: &Domain, tables: Tables) -> Option<CpuId> {
        // Acquire, as in `issue`.
        domain.members.find_from(0, Ordering::Acquire, |cpu| {
            if cpu == own {
                return false;
            }
            let is_lazy = tables == Tables::Kept && self.state(cpu).is_lazy(domain.kind);
            if is_lazy {
                state.counters.elided_lazy.add(1);
            }
            !is_lazy
        })
    }

    /// Broadcasts the generations up to `generation` by hardware, or interrupts `first` and the members above
    /// `first`. Returns the number below which all CPUs are done: [`ALL_DONE`] if no CPU is left to wait for.
    #[inline]
    fn notify(
        &self,
        own: CpuId,
        domain: &Domain,
        tables: Tables,
        generation: Generation,
        first: CpuId,
    ) -> usize {
        if let Some(limit) = self.tlb.features().broadcast_pages()
            && self.broadcast(own, domain, generation, limit)
        {
            return ALL_DONE;
        }
        self.interrupt(own, domain, tables, first)
    }

    /// Interrupts `first`, which was found busy, and each other member above `first` neither lazy nor already
    /// sent an interrupt. Members below `first` are lazy, or have left. Returns what [`Shootdown::notify`] does.
    // Not inlined, so a lone CPU saves no registers for the call.
    #[inline(never)]
    fn interrupt(&self, own: CpuId, domain: &Domain, tables: Tables, first: CpuId) -> usize {
        // Acquire as in `issue`.
        let more = domain.members.find_from(first.index() + 1, Ordering::Acquire, |cpu| cpu != own);
        if more.is_some() {
            return self.interrupt_all(own, domain, tables, first);
        }
        let counters = &self.state(own).counters;
        self.fault.ask(first);
        if self.state(first).mailbox.pending.swap(true, Ordering::AcqRel) {
            // The interrupt on its way finds our generation: see `Mailbox::pending`.
            counters.elided_pending.add(1);
        } else {
            counters.ipis_sent.add(1);
            counters.ipi_sends.add(1);
            self.tlb.send_ipi_to(first);
        }
        first.index()
    }

    /// Interrupts several CPUs, as [`Shootdown::interrupt`] does.
    #[inline(never)]
    fn interrupt_all(&self, own: CpuId, domain: &Domain, tables: Tables, first: CpuId) -> usize {
        let mut send = CpuSet::new();
        let (mut targets, mut pending, mut lazy) = (0, 0, 0);
        let kind = domain.kind;
        // Acquire, as in `issue`.
        domain.members.find_from(first.index(), Ordering::Acquire, |cpu| {
            // The issuer flushes below; or the issuer has interrupted a switch, whose end looks at
            // the generation.
            if cpu == own {
                return false;
            }
            let state = self.state(cpu);
            self.fault.ask(cpu);
            if tables == Tables::Kept && state.is_lazy(kind) {
                lazy += 1;
                return false;
            }
            targets += 1;
            if state.mailbox.pending.swap(true, Ordering::AcqRel) {
                // The handler of the interrupt on its way finds our generation: see
                // `Mailbox::pending`.
                pending += 1;
            } else {
                send.insert(cpu);
            }
            false
        });
        let counters = &self.state(own).counters;
        counters.elided_pending.add(pending);
        counters.elided_lazy.add(lazy);
        if targets > pending {
            counters.ipis_sent.add(targets - pending);
            counters.ipi_sends.add(1);
            self.tlb.send_ipi(&send);
        }
        if targets > 0 { first.index() } else { ALL_DONE }
    }

    /// Interrupts each other member behind `request` without an interrupt on its way. The CPU with
    /// the recorded change may announce late, or keep the change in an open batch.
    #[cold]
    pub(crate) fn interrupt_late(&self, own: CpuId, domain: &Domain, request: &Request) {
        let mut send = CpuSet::new();
        let mut pending = 0;
        // Acquire, as in `issue`.
        domain.members.find_from(0, Ordering::Acquire, |cpu| {
            if cpu != own && !self.is_satisfied(cpu, domain.kind, request) {
                if self.state(cpu).mailbox.pending.swap(true, Ordering::AcqRel) {
                    pending += 1;
                } else {
                    send.insert(cpu);
                }
            }
            false
        });
        let counters = &self.state(own).counters;
        counters.elided_pending.add(pending);
        if !send.is_empty() {
            counters.ipis_sent.add(send.len() as u64);
            counters.ipi_sends.add(1);
            self.tlb.send_ipi(&send);
        }
    }
}
