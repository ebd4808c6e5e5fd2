//! The sender's side: record, full barrier, read the members, interrupt those who don't know.

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::sync::hint;
use topomem_percpu::{CpuId, CpuPin, CpuSet};

use crate::domain::{Domain, Kind};
use crate::handler::Appended;
use crate::ticket::NOBODY;
use crate::{Fault, Generation, Invalidation, Request, Shootdown, Tables, Ticket, Tlb};

impl<T: Tlb> Shootdown<T> {
    /// Records a change and announces it: makes every CPU that may hold translations named by
    /// `invalidation` drop them. The caller has changed `domain`'s page tables already.
    ///
    /// A caller whose page tables other CPUs change too calls this with the changed entries still
    /// locked, or calls [`Shootdown::record`] with them locked and [`Shootdown::announce`] later: see
    /// the rule of completion there.
    ///
    /// The calling CPU has dropped its own translations when this returns; the others have when the
    /// ticket completes. Costs one atomic add to the domain, a full barrier, a swap for each target
    /// and at most one [`Tlb::send_ipi`]; waits for no CPU (for the hardware alone, where that
    /// broadcasts). Safe in interrupt handlers.
    // Always: as `issue`.
    #[inline(always)]
    pub fn invalidate<'s>(
        &'s self,
        pin: &CpuPin,
        domain: &'s Domain,
        invalidation: Invalidation,
    ) -> Ticket<'s, T> {
        self.announce(pin, self.record(domain, invalidation))
    }

    /// Tells the other members of `domain` of all changes up to `request`'s generation, the last
    /// `generations` of which this CPU has recorded as `appended`.
    // Always: most callers append one range of pages, and a CPU that is alone calls nothing.
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
        let tables = if freed && !self.broken(Fault::SpareLazy) { Tables::Freed } else { Tables::Kept };
        if self.broken(Fault::OneAtATime) && domain.kind == Kind::Space {
            let all = Request { generation: self.kernel.generation(), tables: Generation::NONE };
            while !self.is_done(&self.kernel, all) {
                self.poll(pin);
                hint::spin_loop();
            }
        }
        let issued = self.tlb.now();
        let cpu = pin.cpu();
        let own = self.state(cpu);
        // Pairs with the barrier of a CPU that joins or ceases to be lazy (switch.rs): either
        // that CPU reads our generation after its barrier, or we see it below as a busy member.
        fence(Ordering::SeqCst);
        // Acquire pairs with a leaving CPU's Release: not seeing it means that it has left.
        let targets = if self.passes_all_by(cpu, domain, tables) {
            Targets::None
        } else {
            self.tell(cpu, domain, tables, generation)
        };
        own.counters.requests.add(1);
        let done = if own.uses(domain) {
            // Our own flush overlaps with the interrupts' travel.
            match tables {
                Tables::Kept => self.catch_up_appended(own, domain, generation, generations, appended),
                // Pages may name too little.
                Tables::Freed => self.catch_up(own, domain),
            }
            targets == Targets::None
        } else {
            // A member by now: we have interrupted a switch, whose end looks at the generation.
            targets == Targets::None && !domain.members.contains(cpu, Ordering::Acquire)
        };
        let tables = if tables == Tables::Freed { request.tables } else { Generation::NONE };
        let done_below = if done { NOBODY } else { 0 };
        Ticket::new(self, domain, Request { generation, tables }, done_below, issued)
    }

    /// Is every other member lazy, or is there none?
    // By itself, so that beside idle CPUs a change costs little more than alone.
    #[inline(always)]
    fn passes_all_by(&self, own: CpuId, domain: &Domain, tables: Tables) -> bool {
        let mut lazy = 0;
        // Acquire as in `issue`.
        let busy = domain.members.find_from(0, Ordering::Acquire, |cpu| {
            if cpu == own {
                return false;
            }
            let is_lazy = tables == Tables::Kept && self.state(cpu).is_lazy(domain.kind);
            lazy += u64::from(is_lazy);
            !is_lazy
        });
        if busy.is_none() && lazy > 0 {
            self.state(own).counters.elided_lazy.add(lazy);
        }
        busy.is_none()
    }

    /// Has the hardware carry the generations up to `generation` to the other members, or interrupts
    /// them. Says whether there is anybody to wait for.
    #[inline]
    fn tell(&self, own: CpuId, domain: &Domain, tables: Tables, generation: Generation) -> Targets {
        if let Some(limit) = self.tlb.features().broadcast_pages()
            && self.broadcast(own, domain, generation, limit)
        {
            return Targets::None;
        }
        self.interrupt(own, domain, tables)
    }

    /// Interrupts each other member that is not lazy and has no interrupt on its way. Says whether
    /// there is anybody to wait for.
    // Apart, so that a CPU that is alone saves no registers for it.
    #[inline(never)]
    fn interrupt(&self, own: CpuId, domain: &Domain, tables: Tables) -> Targets {
        let mut send = CpuSet::EMPTY;
        let (mut targets, mut pending, mut lazy) = (0, 0, 0);
        let kind = domain.kind;
        // Acquire as in `issue`.
        domain.members.find_from(0, Ordering::Acquire, |cpu| {
            // The issuer flushes below; or it was interrupted in the middle of a switch, whose
            // end looks at the generation.
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
                // The interrupt on its way finds our generation: see `Mailbox::pending`.
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
        if targets > 0 { Targets::Some } else { Targets::None }
    }

    /// Interrupts each other member that has not done what `request` asks, and has no interrupt on
    /// its way: the CPU that recorded the change may be about to, or may keep it in an open batch.
    #[cold]
    pub(crate) fn interrupt_late(&self, own: CpuId, domain: &Domain, request: &Request) {
        let mut send = CpuSet::EMPTY;
        let mut pending = 0;
        // Acquire as in `issue`.
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

/// Are there other CPUs that have to act?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Targets {
    None,
    Some,
}
