//! Invalidations broadcast by the hardware to all CPUs, without interrupts.
//!
//! A broadcast reaches every TLB: those of members, of CPUs about to join, of lazy CPUs, and
//! translations kept under ASIDs not current. After the initiating CPU has waited for the
//! broadcast, no TLB needs a further flush, and the ticket waits for no CPU.
//!
//! A broadcast still claims a generation, although no CPU is told of the generation or has to
//! publish it. A member learns of the generation with its next interrupt, or on its return to the
//! space, and flushes the pages once more (or everything after an overrun of the log). Without a
//! generation, each change would have to look for broadcasts before the claim of its generation,
//! even on machines without broadcasts.

use core::num::NonZeroU16;

use topomem_percpu::CpuId;
use topomem_percpu::sync::atomic::Ordering;

use crate::domain::log::LOG_LEN;
use crate::domain::{Domain, Kind};
use crate::{Generation, PageRange, PageSize, Scope, Shootdown, Tables, Tlb, VirtAddr};

impl<T: Tlb> Shootdown<T> {
    /// Removes on all CPUs the translations removed by all generations up to `newest`, if the
    /// removal costs other address spaces little. Returns false if interrupts have to do the work.
    /// A full barrier stands between the change of the page tables and the call.
    ///
    /// The broadcast includes changes recorded by remote CPUs and not yet announced: the rule of
    /// completion covers them.
    ///
    /// Cost: one instruction for every `limit` pages, and the wait for the hardware.
    // Not inlined, so machines without broadcasts save no registers for the call.
    #[inline(never)]
    pub(crate) fn broadcast(
        &self,
        own: CpuId,
        domain: &Domain,
        newest: Generation,
        limit: NonZeroU16,
    ) -> bool {
        // After interrupting a switch of its own CPU, this context has to wait for the switch to
        // publish. Relaxed: only this CPU writes its own membership.
        if !self.state(own).uses(domain) && domain.members.contains(own, Ordering::Relaxed) {
            return false;
        }
        let from = self.removed_by_all(domain, newest);
        let missing = || (from.0 + 1..=newest.0).map(Generation);
        let pages = if newest.0.saturating_sub(from.0) > LOG_LEN {
            None
        } else {
            missing().try_fold(0, |pages, generation| match domain.log.read(generation)? {
                (Scope::Pages(range), Tables::Kept) => Some(pages + range.pages()),
                _ => None,
            })
        };
        let singly = pages.is_some_and(|pages| pages <= self.threshold())
            && missing().all(|generation| self.broadcast_generation(domain, generation, limit));
        if !singly {
            if domain.kind == Kind::Space {
                // ASIDs differ from CPU to CPU, so no broadcast names a whole space. For freed
                // tables, pages name too little. Broadcasts begun already are harmless.
                return false;
            }
            self.tlb.broadcast_all();
        }
        // The caller is pinned: the broadcasts to wait for were begun on this CPU.
        self.fault.broadcast_sync(|| self.tlb.broadcast_sync());
        // Release pairs with the Acquire loads of `removed` in `removed_by_all` and
        // `pending_until`: a reader of the generation comes after the removal.
        domain.removed.fetch_max(newest.0, Ordering::Release);
        self.state(own).counters.broadcasts.add(1);
        true
    }

    /// Returns a generation up to which all TLBs are clean, either by broadcasts or because every
    /// member has flushed.
    fn removed_by_all(&self, domain: &Domain, newest: Generation) -> Generation {
        let removed = Generation(domain.removed.load(Ordering::Acquire));
        if removed.0 + 1 >= newest.0 {
            // The usual case: every earlier change was broadcast.
            return removed;
        }
        // Acquire pairs with a leaving CPU's Release in switch.rs. A CPU joining later flushes by
        // itself.
        let members = domain.members.load(Ordering::Acquire);
        // Acquire pairs with the Release of the handler's `publish`.
        let seen = members.iter().map(|cpu| self.state(cpu).seen(domain.kind).load(Ordering::Acquire));
        removed.max(seen.min().map_or(newest, Generation))
    }

    /// Broadcasts the pages of `generation`. Returns false if the log has lost the generation
    /// meanwhile.
    fn broadcast_generation(&self, domain: &Domain, generation: Generation, limit: NonZeroU16) -> bool {
        let Some((Scope::Pages(range), _)) = domain.log.read(generation) else { return false };
        let (size, pages) = (range.size(), range.pages());
        // INVLPGB steps by 4 KiB or 2 MiB.
        let limit = if size == PageSize::Size1GiB { 1 } else { u64::from(limit.get()) };
        let mut done = 0;
        while done < pages {
            let count = limit.min(pages - done);
            let start = VirtAddr::new_truncate(range.start().as_u64() + done * size.bytes());
            self.tlb.broadcast_pages(PageRange::from_parts(start, count, size));
            done += count;
        }
        true
    }
}
