//! The sender's side: append, full barrier, read the members, interrupt those who don't know.

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuPin, CpuSet};

use crate::domain::Domain;
use crate::{Batch, Generation, Invalidation, Request, Scope, Shootdown, Tables, Ticket, Tlb};

impl<T: Tlb> Shootdown<T> {
    /// Makes every CPU that may hold translations named by `invalidation` drop them. The caller
    /// has changed `domain`'s page tables already.
    ///
    /// The calling CPU has dropped its own when this returns; the others have when the ticket
    /// completes. Costs one atomic add to the domain, a full barrier, a swap for each target
    /// and at most one [`Tlb::send_ipi`]; never waits. Safe in interrupt handlers.
    pub fn invalidate<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        invalidation: Invalidation,
    ) -> Ticket<'s, T> {
        // Global translations are in the TLBs of CPUs that left the domain, too.
        let domain = if invalidation.scope == Scope::Everything { &self.kernel } else { domain };
        let generation = domain.log.append(invalidation.scope);
        self.announce(pin, domain, generation, invalidation.tables)
    }

    /// The same for all changes that `batch` has collected: one round of interrupts, one wait.
    /// An empty batch gives a ticket for all that was issued to the domain before.
    pub fn invalidate_batch<'s>(&'s self, pin: &CpuPin, domain: &'s Domain, batch: &Batch) -> Ticket<'s, T> {
        let domain = if batch.whole() == Some(Scope::Everything) { &self.kernel } else { domain };
        let generation = domain.log.append_batch(batch);
        self.announce(pin, domain, generation, batch.tables())
    }

    fn announce<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        generation: Generation,
        tables: Tables,
    ) -> Ticket<'s, T> {
        let issued = self.tlb.now();
        let own = self.state(pin.cpu());
        // Pairs with the barrier of a CPU that joins or ceases to be lazy (switch.rs): either
        // that CPU reads our generation after its barrier, or we see it below as a busy member.
        fence(Ordering::SeqCst);
        // Acquire pairs with a leaving CPU's Release: not seeing it means that it has left.
        let mut targets = domain.members.load(Ordering::Acquire);
        let mut send = CpuSet::EMPTY;
        let (mut pending, mut lazy) = (0, 0);
        if targets.contains(pin.cpu()) && self.catches_up_with(pin, domain) {
            targets.remove(pin.cpu());
        }
        for cpu in targets.iter() {
            if cpu == pin.cpu() {
                // Interrupted in the middle of a switch, whose end looks at the generation.
                continue;
            }
            let state = self.state(cpu);
            if tables == Tables::Kept && state.is_lazy(domain.kind) {
                lazy += 1;
                targets.remove(cpu);
            } else if state.mailbox.pending.swap(true, Ordering::AcqRel) {
                // The interrupt on its way finds our generation: see `Mailbox::pending`.
                pending += 1;
            } else {
                send.insert(cpu);
            }
        }
        own.counters.requests.add(1);
        own.counters.elided_pending.add(pending);
        own.counters.elided_lazy.add(lazy);
        if !send.is_empty() {
            own.counters.ipis_sent.add(send.len() as u64);
            own.counters.ipi_sends.add(1);
            self.tlb.send_ipi(&send);
        }
        // Our own flush overlaps with the interrupts' travel.
        self.catch_up_all(pin);
        let tables = if tables == Tables::Freed { generation } else { Generation::NONE };
        Ticket::new(self, domain, Request { generation, tables }, targets, issued)
    }
}
