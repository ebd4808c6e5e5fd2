//! Writable nowhere while executable anywhere: which mappings of an object may permit what.
//!
//! Each record that maps an object *claims* what its pages permit of the object's own frames: shared mappings
//! that may be written claim writes, and mappings that may be executed, private ones included, claim fetches.
//! (A private mapping writes to copies.) A record with the one claim is refused while a record with the other
//! one is in use, in whichever space. So a change of access changes the record of such pages.
//!
//! A record that no page has any more is dead, but CPUs may still use translations of the pages that had it.
//! Whoever gets a claim waits for these before its pages permit anything.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::core::{MemoryObject, ObjectCore};
use super::mappings::{MappingNode, Mappings};
use crate::Machine;
use crate::address_space::{SpaceCore, Unmapping, range_of_pages};
use crate::page_table::{Access, Changed, RecordNumber, WriteExecute};
use crate::region::Sharing;

/// What pages permit of an object's own frames, as far as it must not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Neither, [`Access::WRITE_BIT`], [`Access::EXECUTE_BIT`], or both: the region has the capability.
    bits: u8,
}

/// A mapping that would make an object's frames writable and executable at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict;

impl Claim {
    pub const NOTHING: Claim = Claim { bits: 0 };

    /// The claim of pages that permit `access`.
    #[inline]
    pub fn of(access: Access, sharing: Sharing) -> Claim {
        let writes = match sharing {
            Sharing::Shared => access.bits() & Access::WRITE_BIT,
            Sharing::Private => 0,
        };
        Claim { bits: writes | access.bits() & Access::EXECUTE_BIT }
    }

    pub fn bits(self) -> u8 {
        self.bits
    }

    pub fn of_bits(bits: u8) -> Claim {
        Claim { bits }
    }

    const fn writes(self) -> bool {
        self.bits & Access::WRITE_BIT != 0
    }

    const fn executes(self) -> bool {
        self.bits & Access::EXECUTE_BIT != 0
    }

    /// Is the claim refused where the claim `other` is in use? Whoever may write and execute the same page has
    /// the capability to do so, and is not refused.
    fn meets(self, other: Claim) -> bool {
        match (self.writes(), self.executes()) {
            (true, false) => other.executes(),
            (false, true) => other.writes(),
            _ => false,
        }
    }
}

/// How many records have which claims, dead ones included: so that a claim that nothing opposes costs no look
/// at the records.
#[derive(Debug)]
pub(super) struct Claims {
    writers: u64,
    executors: u64,
}

impl Claims {
    pub const NONE: Claims = Claims { writers: 0, executors: 0 };

    pub fn add(&mut self, claim: Claim) {
        self.writers += u64::from(claim.writes());
        self.executors += u64::from(claim.executes());
    }

    pub fn subtract(&mut self, claim: Claim) {
        self.writers -= u64::from(claim.writes());
        self.executors -= u64::from(claim.executes());
    }

    /// Is there a record that `claim` must not meet, or may there be one?
    fn oppose(&self, claim: Claim) -> bool {
        claim.writes() && self.executors > 0 || claim.executes() && self.writers > 0
    }
}

impl<P: Machine> Mappings<P> {
    /// The records that `claim` must not meet, dead ones included.
    pub(super) fn opposed(&self, claim: Claim) -> impl Iterator<Item = &MappingNode<P>> {
        let mut next = if self.claims.oppose(claim) { self.first } else { core::ptr::null_mut() };
        core::iter::from_fn(move || {
            // SAFETY: nodes in the list stay where they are, and the list is locked.
            let node = unsafe { next.as_ref() }?;
            next = node.next();
            Some(node)
        })
        .filter(move |node| claim.meets(node.claim()))
    }
}

impl<P: Machine> ObjectCore<P> {
    pub(super) fn permits_write_execute(&self) -> bool {
        // Relaxed: a permission; it is never taken back.
        self.write_execute.load(Ordering::Relaxed)
    }

    /// Is the record `number` of `space` the only one in use that `claim` must not meet?
    pub fn is_opposed_only_by(&self, claim: Claim, space: &SpaceCore<P>, number: RecordNumber) -> bool {
        let list = self.mappings.lock(self.service.platform());
        list.opposed(claim).all(|node| node.is_of(space, number) || !node.is_alive())
    }

    /// Waits until no CPU can use pages that had a record that `claim`, which has been counted, must not meet.
    /// The caller is in no walk, and holds no lock.
    pub fn wait_for_opposed(&self, pin: &CpuPin, claim: Claim) {
        let platform = self.service.platform();
        if self.permits_write_execute() || self.mappings.lock(platform).opposed(claim).next().is_none() {
            return;
        }
        let _upkeep = self.upkeep.lock(platform);
        while let Some(mapping) = self.next_mapping() {
            let space = mapping.space;
            if !claim.meets(mapping.claim) {
                continue;
            }
            // Whoever took the last page is in a walk until the change is recorded.
            while !space.service.walks().wait_for_others(pin, || platform.relax()) {
                platform.relax();
            }
            let all = || range_of_pages(space.bounds);
            Unmapping::announce(space, pin, all, Changed::NOTHING, None).wait(pin);
        }
        self.end_visit();
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Permits mappings of the object that may write to its pages while other mappings may execute them: for a
    /// program that generates code by way of two mappings, say. Without that, an object's frames that are
    /// writable anywhere are executable nowhere: [`mmap_object`](crate::AddressSpace::mmap_object) and
    /// [`mprotect`](crate::AddressSpace::mprotect) refuse what would make them so. The permission stays as
    /// long as the object.
    pub fn permit_write_execute(&self, _: &WriteExecute) {
        // Relaxed: as where it is read.
        self.core().write_execute.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_writes_and_fetches_must_not_meet() {
        let claim = |access, sharing| Claim::of(access, sharing);
        let writes = claim(Access::WRITE, Sharing::Shared);
        let runs = claim(Access::EXECUTE, Sharing::Private);
        assert_eq!(runs, claim(Access::EXECUTE, Sharing::Shared));
        assert!(writes.meets(runs) && runs.meets(writes));
        assert!(!writes.meets(writes) && !runs.meets(runs));
        for harmless in [Access::NONE, Access::READ] {
            assert_eq!(claim(harmless, Sharing::Shared), Claim::NOTHING);
        }
        assert_eq!(claim(Access::WRITE, Sharing::Private), Claim::NOTHING);
        // SAFETY: nothing is mapped.
        let capability = unsafe { WriteExecute::new() };
        let both = claim(Access::write_execute(&capability), Sharing::Shared);
        assert!(!both.meets(writes) && !both.meets(runs) && !both.meets(both));
        assert!(writes.meets(both) && runs.meets(both));
        let mut claims = Claims::NONE;
        claims.add(both);
        assert!(claims.oppose(writes) && claims.oppose(runs) && !claims.oppose(Claim::NOTHING));
        claims.subtract(both);
        assert!(!claims.oppose(writes) && !claims.oppose(runs));
    }
}
