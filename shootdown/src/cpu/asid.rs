//! Address-space identifiers: the spaces whose translations a CPU keeps, and how far each is clean.
//!
//! Each CPU has a few ASIDs of its own. The active space has an ASID; the remaining ASIDs keep the
//! translations of spaces left earlier. A CPU is no member of a left space, gets no interrupt for
//! it, and no waiter waits for it: on its return to the space, the CPU compares generations. Kept
//! translations are unused in between, even by speculative walks, which use the current ASID only.
//!
//! A space without an ASID takes the least recently left ASID, and the load of the root flushes
//! that ASID alone. ASIDs numbered by a generation with rollover, as with the 16-bit ASIDs of other
//! architectures, would flush everything each time the few ASIDs are used up.
//!
//! Domains are identified by numbers used only once. A slot left over from a dropped domain
//! therefore matches no later domain, and follows no pointer.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::domain::id::NO_DOMAIN;
use crate::domain::log::LOG_LEN;
use crate::domain::{Domain, Kind};
use crate::{Generation, Scope, Shootdown, Tables, Tlb};

/// Greatest number of ASIDs of a CPU, [`Asid::KERNEL`] not counted.
pub(crate) const ASID_SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// A tag of translations; on x86 a process-context identifier.
///
/// Each CPU hands out its own ASIDs: the same number means different address spaces on different
/// CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(u16);

impl Asid {
    /// The ASID of a CPU without an active address space, and of a CPU without tags.
    pub const KERNEL: Asid = Asid(0);

    /// Returns the ASID with the given number, or `None` if no CPU hands out the number.
    ///
    /// ```
    /// use topomem_shootdown::Asid;
    ///
    /// assert_eq!(Asid::new(0), Some(Asid::KERNEL));
    /// assert_eq!(Asid::new(4095), None);
    /// ```
    #[must_use]
    pub const fn new(number: u16) -> Option<Asid> {
        if number as usize <= ASID_SLOTS { Some(Asid(number)) } else { None }
    }

    /// Returns the number: at most [`TlbFeatures::asids`](crate::TlbFeatures::asids).
    ///
    /// ```
    /// use topomem_shootdown::Asid;
    ///
    /// assert_eq!(Asid::KERNEL.get(), 0);
    /// ```
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    const fn of_slot(slot: usize) -> Asid {
        Asid(slot as u16 + 1)
    }
}

/// How the platform loads a page-table root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootLoad {
    /// Load the root; translations have no tags.
    Untagged,
    /// Load the root with this ASID and keep its translations, which agree with the tables (CR3
    /// with bit 63 set).
    Keep(Asid),
    /// Load the root with this ASID, and remove all of its translations and paging-structure cache
    /// entries in the same step (CR3 with bit 63 clear).
    ///
    /// A flush after the load would come too late: until then walks could use entries leading
    /// through freed tables.
    Flush(Asid),
}

/// One ASID of a CPU.
struct AsidSlot {
    /// The number of the domain with translations under this ASID.
    domain: AtomicU64,
    /// The generation up to which the translations have been flushed. Valid while the domain is not
    /// active on the CPU.
    clean: AtomicU64,
    /// The CPU's count of switches when the CPU last left the domain.
    left: AtomicU64,
}

/// A CPU's ASIDs. Only the owning CPU uses them, outside interrupt handlers. All accesses are
/// therefore Relaxed.
pub(crate) struct Asids {
    slots: [AsidSlot; ASID_SLOTS],
    /// The slot of the active domain; out of range if no domain is active.
    current: AtomicUsize,
    switches: AtomicU64,
}

const NO_SLOT: usize = usize::MAX;

impl Asids {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Asids {
        Asids {
            slots: [const {
                AsidSlot {
                    domain: AtomicU64::new(NO_DOMAIN),
                    clean: AtomicU64::new(0),
                    left: AtomicU64::new(0),
                }
            }; ASID_SLOTS],
            current: AtomicUsize::new(NO_SLOT),
            switches: AtomicU64::new(0),
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Asids {
        Asids {
            slots: core::array::from_fn(|_| AsidSlot {
                domain: AtomicU64::new(NO_DOMAIN),
                clean: AtomicU64::new(0),
                left: AtomicU64::new(0),
            }),
            current: AtomicUsize::new(NO_SLOT),
            switches: AtomicU64::new(0),
        }
    }

    /// Forgets every domain: all translations are gone or unknown.
    pub(crate) fn forget(&self) {
        self.slots.iter().for_each(|slot| slot.domain.store(NO_DOMAIN, Ordering::Relaxed));
        self.current.store(NO_SLOT, Ordering::Relaxed);
    }

    /// Records the departure from the active domain, with all generations up to `clean` flushed.
    pub(crate) fn leave(&self, clean: Generation) {
        if let Some(slot) = self.slots.get(self.current.load(Ordering::Relaxed)) {
            let switches = self.switches.load(Ordering::Relaxed) + 1;
            self.switches.store(switches, Ordering::Relaxed);
            slot.clean.store(clean.0, Ordering::Relaxed);
            slot.left.store(switches, Ordering::Relaxed);
        }
        self.current.store(NO_SLOT, Ordering::Relaxed);
    }

    /// Makes the domain numbered `id` the active domain, in one of the first `count` slots. Returns
    /// the slot, and the generation up to which its translations are clean, or `None` if the slot
    /// belonged to another domain.
    fn enter(&self, id: u64, count: usize) -> (usize, Option<Generation>) {
        let mut oldest = (0, u64::MAX);
        for (index, slot) in self.slots.iter().enumerate().take(count) {
            let domain = slot.domain.load(Ordering::Relaxed);
            if domain == id {
                self.current.store(index, Ordering::Relaxed);
                return (index, Some(Generation(slot.clean.load(Ordering::Relaxed))));
            }
            let left = if domain == NO_DOMAIN { 0 } else { slot.left.load(Ordering::Relaxed) };
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
    /// Returns whether translations of `domain` are in use under ASIDs besides the current ASID.
    ///
    /// Only the kernel's are. Kernel pages are global, and a flush of a page removes it under every
    /// ASID. Each ASID has, however, its own paging-structure cache entries leading to freed
    /// tables, and its own translations of non-global pages.
    pub(crate) fn is_of_other_asids(&self, domain: &Domain) -> bool {
        self.fault.concerns_other_asids(domain.kind == Kind::Kernel && self.tlb.features().asids() != 0)
    }

    /// Returns the scope a CPU has to flush for `generation` of `domain`, or `None` if the log does
    /// not know the generation.
    #[inline]
    pub(crate) fn logged(&self, domain: &Domain, generation: Generation) -> Option<Scope> {
        match domain.log.read(generation)? {
            // A flush of the pages would keep paging-structure cache entries leading to the freed
            // tables.
            (Scope::Pages(_), Tables::Freed)
                if self.tlb.features().is_leaf_only() || self.is_of_other_asids(domain) =>
            {
                Some(Scope::Domain)
            }
            (Scope::NonGlobal, _) if self.is_of_other_asids(domain) => Some(Scope::Domain),
            (scope, _) => Some(scope),
        }
    }

    /// Returns how the pinned CPU is to load the root of `domain`.
    ///
    /// The CPU is a member of `domain` and has read generation `seen` since it joined. After the
    /// load, the CPU holds no translation removed by a generation up to `seen`.
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
                self.fault.keeps_own(|| clean >= seen || self.flush_missed(pin, domain, asid, clean, seen))
            }
            None => self.fault.keeps_others(),
        };
        if keep {
            counters.asids_kept.add(1);
            RootLoad::Keep(asid)
        } else {
            counters.asids_flushed.add(1);
            RootLoad::Flush(asid)
        }
    }

    /// Flushes the pages `asid`, not yet the current ASID, has missed in `domain`. Returns false if
    /// the caller must flush the whole ASID: the pages exceed the threshold, a generation is
    /// unknown, or tables were freed, to which paging-structure caches still lead.
    ///
    /// Bound: 32 log entries and `threshold` pages, as in the handler.
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
