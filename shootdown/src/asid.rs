//! Which address spaces a CPU keeps translations of, and how far they are clean.
//!
//! Each CPU has a few ASIDs of its own. One is the active space's; the others keep what the CPU
//! cached of spaces that it left. The CPU is no member of those, gets no interrupt for them, and
//! nobody waits for it: it compares generations when it returns. What it kept is not used
//! meanwhile, not even by speculative walks, which go by the current ASID.
//!
//! A space without an ASID takes the one that was left longest ago, and the load of its root
//! flushes that one alone. A generation that numbers ASIDs and rolls over, as for the sixteen
//! bits of other architectures, would flush everything each time that the few are used up.
//!
//! Domains are known by numbers that are never used again: a slot that outlives its domain
//! matches no other, and follows no pointer.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::domain::{Domain, Kind};
use crate::domain_id::NOBODY;
use crate::log::LOG_LEN;
use crate::{Fault, Generation, Scope, Shootdown, Tables, Tlb};

/// How many ASIDs a CPU can have beside [`Asid::KERNEL`].
pub(crate) const ASID_SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// A tag of translations: on x86 a process-context identifier. Each CPU gives out its own, so the
/// same number means different address spaces on different CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(u16);

impl Asid {
    /// That of a CPU on which no address space is active, and of one that does not tag yet.
    pub const KERNEL: Asid = Asid(0);

    /// The ASID of that number; `None` where no CPU gives it out.
    #[must_use]
    pub const fn new(number: u16) -> Option<Asid> {
        if number as usize <= ASID_SLOTS { Some(Asid(number)) } else { None }
    }

    /// The number: at most [`TlbFeatures::asids`](crate::TlbFeatures::asids).
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    const fn of_slot(slot: usize) -> Asid {
        Asid(slot as u16 + 1)
    }
}

/// How a page-table root is to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootLoad {
    /// Translations have no tags.
    Untagged,
    /// With that ASID, whose translations are as the tables say and stay (CR3 with bit 63 set).
    Keep(Asid),
    /// With that ASID, and as one with the load all of its translations, and of its entries in
    /// paging-structure caches, go (CR3 with bit 63 clear). A flush after the load would leave
    /// a moment in which walks use entries that lead through freed tables.
    Flush(Asid),
}

/// One ASID of a CPU.
struct Slot {
    /// Whose translations it has.
    domain: AtomicU64,
    /// What has been flushed of them: valid while the domain is not active here.
    clean: AtomicU64,
    /// The CPU's number of switches when it last left the domain.
    left: AtomicU64,
}

/// A CPU's ASIDs. Only the owner uses them, outside interrupt handlers, and so all accesses are
/// Relaxed.
pub(crate) struct Asids {
    slots: [Slot; ASID_SLOTS],
    /// The slot of the active domain; out of range where there is none.
    current: AtomicUsize,
    switches: AtomicU64,
}

const NO_SLOT: usize = usize::MAX;

impl Asids {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Asids {
        Asids {
            slots: [const {
                Slot { domain: AtomicU64::new(NOBODY), clean: AtomicU64::new(0), left: AtomicU64::new(0) }
            }; ASID_SLOTS],
            current: AtomicUsize::new(NO_SLOT),
            switches: AtomicU64::new(0),
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Asids {
        Asids {
            slots: core::array::from_fn(|_| Slot {
                domain: AtomicU64::new(NOBODY),
                clean: AtomicU64::new(0),
                left: AtomicU64::new(0),
            }),
            current: AtomicUsize::new(NO_SLOT),
            switches: AtomicU64::new(0),
        }
    }

    /// All translations are gone, or may be anything: no domain is known any more.
    pub(crate) fn forget(&self) {
        self.slots.iter().for_each(|slot| slot.domain.store(NOBODY, Ordering::Relaxed));
        self.current.store(NO_SLOT, Ordering::Relaxed);
    }

    /// The active domain is being left, with all up to `clean` flushed.
    pub(crate) fn leave(&self, clean: Generation) {
        if let Some(slot) = self.slots.get(self.current.load(Ordering::Relaxed)) {
            let switches = self.switches.load(Ordering::Relaxed) + 1;
            self.switches.store(switches, Ordering::Relaxed);
            slot.clean.store(clean.0, Ordering::Relaxed);
            slot.left.store(switches, Ordering::Relaxed);
        }
        self.current.store(NO_SLOT, Ordering::Relaxed);
    }

    /// Makes the domain numbered `id` the active one, in one of the first `count` slots. Says which,
    /// and what of its translations there has been flushed; `None` where the slot was another's.
    fn enter(&self, id: u64, count: usize) -> (usize, Option<Generation>) {
        let mut oldest = (0, u64::MAX);
        for (index, slot) in self.slots.iter().enumerate().take(count) {
            let domain = slot.domain.load(Ordering::Relaxed);
            if domain == id {
                self.current.store(index, Ordering::Relaxed);
                return (index, Some(Generation(slot.clean.load(Ordering::Relaxed))));
            }
            let left = if domain == NOBODY { 0 } else { slot.left.load(Ordering::Relaxed) };
            if left < oldest.1 {
                oldest = (index, left);
            }
        }
        let (index, _) = oldest;
        self.slots[index].domain.store(id, Ordering::Relaxed);
        self.current.store(index, Ordering::Relaxed);
        (index, None)
    }
}

impl<T: Tlb> Shootdown<T> {
    /// Are `domain`'s translations used under ASIDs other than the current one? The kernel's are. Its
    /// pages are global, so that a flush of one reaches them all; but each ASID has its own way to
    /// freed tables in the paging-structure caches, and its own of what is not global.
    pub(crate) fn is_of_other_asids(&self, domain: &Domain) -> bool {
        domain.kind == Kind::Kernel && self.tlb.features().asids() != 0 && !self.broken(Fault::MissOtherAsids)
    }

    /// What a CPU has to flush for `generation` of `domain`, as far as the log knows.
    #[inline]
    pub(crate) fn logged(&self, domain: &Domain, generation: Generation) -> Option<Scope> {
        match domain.log.read(generation)? {
            // A flush of the pages leaves ways to the tables that were freed.
            (Scope::Pages(_), Tables::Freed)
                if self.tlb.features().is_leaf_only() || self.is_of_other_asids(domain) =>
            {
                Some(Scope::Domain)
            }
            (Scope::NonGlobal, _) if self.is_of_other_asids(domain) => Some(Scope::Domain),
            (scope, _) => Some(scope),
        }
    }

    /// How the pinned CPU, a member of `domain` already, is to load its root such that it holds
    /// nothing that was removed up to generation `seen`, which was read since it became a member.
    #[inline]
    pub(crate) fn root_load(&self, pin: &CpuPin, domain: &Domain, seen: Generation) -> RootLoad {
        match self.tlb.features().asids() {
            0 => RootLoad::Untagged,
            count => self.tagged_load(pin, domain, seen, count),
        }
    }

    fn tagged_load(&self, pin: &CpuPin, domain: &Domain, seen: Generation, count: usize) -> RootLoad {
        let counters = &self.state(pin.cpu()).counters;
        let (slot, clean) = self.asids(pin).enter(domain.id.get(), count);
        let asid = Asid::of_slot(slot);
        let keep = match clean {
            Some(clean) => {
                clean >= seen
                    || self.broken(Fault::KeepStaleAsid)
                    || self.flush_missed(pin, domain, asid, clean, seen)
            }
            None => self.broken(Fault::ReuseUnflushed),
        };
        if keep {
            counters.asids_kept.add(1);
            RootLoad::Keep(asid)
        } else {
            counters.asids_flushed.add(1);
            RootLoad::Flush(asid)
        }
    }

    /// Flushes, page by page, what `asid`, not yet current, has missed of `domain`. False where the
    /// whole of it must go: more pages than the threshold, not all known, or tables were freed,
    /// which paging-structure caches still lead to.
    ///
    /// Bounded as the handler: at most 32 entries of the log, and `threshold` pages.
    fn flush_missed(
        &self,
        pin: &CpuPin,
        domain: &Domain,
        asid: Asid,
        clean: Generation,
        seen: Generation,
    ) -> bool {
        if !self.tlb.features().is_selective() || seen.0 - clean.0 > LOG_LEN {
            return false;
        }
        let mut pages = 0;
        for generation in clean.0 + 1..=seen.0 {
            let Some((Scope::Pages(range), Tables::Kept)) = domain.log.read(Generation(generation)) else {
                return false;
            };
            pages += range.pages();
            if pages > self.threshold() {
                return false;
            }
            range.iter().for_each(|page| self.tlb.flush_page_of(asid, page, range.size()));
        }
        let counters = &self.state(pin.cpu()).counters;
        counters.partial_flushes.add(1);
        counters.pages_flushed.add(pages);
        true
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_domain_finds_its_slot_again() {
        let asids = Asids::new();
        assert_eq!(asids.enter(7, 3), (0, None));
        asids.leave(Generation(5));
        assert_eq!(asids.enter(8, 3), (1, None));
        asids.leave(Generation(2));
        assert_eq!(asids.enter(7, 3), (0, Some(Generation(5))));
    }

    #[test]
    fn the_slot_left_longest_ago_goes_first() {
        let asids = Asids::new();
        for id in 1..=3 {
            asids.enter(id, 3);
            asids.leave(Generation(1));
        }
        asids.enter(1, 3);
        asids.leave(Generation(1));
        assert_eq!(asids.enter(4, 3), (1, None), "2 was left before 3 and 1");
        asids.leave(Generation(1));
        assert_eq!(asids.enter(1, 3), (0, Some(Generation(1))));
        asids.leave(Generation(1));
        assert_eq!(asids.enter(2, 3), (2, None));
    }

    #[test]
    fn nothing_is_known_after_forgetting() {
        let asids = Asids::new();
        asids.enter(1, 2);
        asids.leave(Generation(9));
        asids.forget();
        assert_eq!(asids.enter(1, 2), (0, None));
    }
}
