//! Invalidations that the hardware carries to the other CPUs, without interrupts.
//!
//! A broadcast reaches every TLB: of members and of CPUs that join meanwhile, of lazy ones, and
//! what is kept of the domain under ASIDs that are not current. When the CPU that began it has
//! waited for it, nothing is left to be flushed anywhere, and the ticket waits for nobody.
//!
//! It has its generation all the same, which nobody is told of and nobody has to publish. A CPU
//! learns of it with the next generation that it is interrupted for, or when it returns to the
//! space: it flushes the pages once more, or all where the log has been overrun. Without one, every
//! change would have to ask for broadcasts before it claims its generation, on machines without
//! them too.

use core::num::NonZeroU16;

use topomem_percpu::CpuId;
use topomem_percpu::sync::atomic::Ordering;

use crate::domain::{Domain, Kind};
use crate::log::LOG_LEN;
use crate::{Fault, Generation, PageRange, PageSize, Scope, Shootdown, Tables, Tlb, VirtAddr};

impl<T: Tlb> Shootdown<T> {
    /// Removes on all CPUs what all generations up to `newest` have removed, if that costs other
    /// spaces little. False leaves it to interrupts. A full barrier stands between the change of
    /// the page tables and this.
    ///
    /// Changes of other CPUs that are recorded and not yet announced are removed, too: by the rule
    /// of completion the ticket speaks of them as well.
    ///
    /// Costs an instruction for every `limit` pages, and waits for the hardware.
    // Apart, so that a machine without saves no registers for it.
    #[inline(never)]
    pub(crate) fn broadcast(
        &self,
        own: CpuId,
        domain: &Domain,
        newest: Generation,
        limit: NonZeroU16,
    ) -> bool {
        // A CPU that was interrupted in a switch waits for what that publishes. Relaxed: it wrote
        // its membership.
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
                // Each CPU has its own ASIDs, so all of one space cannot be named to all of them;
                // and pages name too little where tables are freed. What has begun does no harm.
                return false;
            }
            self.tlb.broadcast_all();
        }
        if !self.broken(Fault::BroadcastUnsynced) {
            // The caller is pinned: it waits for what this CPU began.
            self.tlb.broadcast_sync();
        }
        // Release pairs with the Acquire loads below and in `pending_until`: whoever reads the
        // generation comes after the removal.
        domain.removed.fetch_max(newest.0, Ordering::Release);
        self.state(own).counters.broadcasts.add(1);
        true
    }

    /// Returns a generation up to which no TLB has anything that was removed: by broadcasts, or
    /// because every member has flushed for it.
    fn removed_by_all(&self, domain: &Domain, newest: Generation) -> Generation {
        let removed = Generation(domain.removed.load(Ordering::Acquire));
        if removed.0 + 1 >= newest.0 {
            // The usual case: every change before this one was broadcast.
            return removed;
        }
        // Acquire pairs with a leaving CPU's Release. A CPU that joins later flushes by itself.
        let members = domain.members.load(Ordering::Acquire);
        // Acquire pairs with the Release with which the handler publishes.
        let seen = members.iter().map(|cpu| self.state(cpu).seen(domain.kind).load(Ordering::Acquire));
        removed.max(seen.min().map_or(newest, Generation))
    }

    /// False where the log has lost it meanwhile.
    fn broadcast_generation(&self, domain: &Domain, generation: Generation, limit: NonZeroU16) -> bool {
        let Some((Scope::Pages(range), _)) = domain.log.read(generation) else { return false };
        let (size, pages) = (range.size(), range.pages());
        // The instruction steps by 4 KiB or 2 MiB.
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
