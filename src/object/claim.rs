//! Writable nowhere while executable anywhere: the compatible permissions of an object's mappings.
//!
//! Each record mapping an object *claims* its pages' permissions to the object's own frames.
//! Writable shared mappings claim writes; executable mappings, private ones included, claim
//! fetches. (A private mapping writes to copies.) A record with one claim is refused while a record
//! with the other claim is in use, in whichever space. A change of access therefore changes the
//! record of the pages.
//!
//! A record without pages is dead, but CPUs may still use translations of its former pages. A new
//! claim waits for these before its pages permit anything.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::core::{MemoryObject, ObjectCore};
use super::mappings::{MappingNode, Mappings};
use crate::Machine;
use crate::address_space::{SpaceCore, Unmapping, range_of_pages};
use crate::page_table::{Access, Changed, RecordNumber, WriteExecute};
use crate::region::Sharing;

/// The incompatible permissions of pages to an object's own frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Neither, [`Access::WRITE_BIT`], [`Access::EXECUTE_BIT`], or both: the region has the
    /// capability.
    bits: u8,
}

/// The error for a mapping making an object's frames writable and executable at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict;

impl Claim {
    pub(crate) const NOTHING: Claim = Claim { bits: 0 };

    /// Returns the claim of pages permitting `access`.
    #[inline]
    pub(crate) fn of(access: Access, sharing: Sharing) -> Claim {
        let writes = match sharing {
            Sharing::Shared => access.bits() & Access::WRITE_BIT,
            Sharing::Private => 0,
        };
        Claim { bits: writes | access.bits() & Access::EXECUTE_BIT }
    }

    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    pub(crate) fn of_bits(bits: u8) -> Claim {
        Claim { bits }
    }

    const fn writes(self) -> bool {
        self.bits & Access::WRITE_BIT != 0
    }

    const fn executes(self) -> bool {
        self.bits & Access::EXECUTE_BIT != 0
    }

    /// Returns whether the claim is refused while the claim `other` is in use. A claim of both,
    /// made with the capability, is never refused.
    fn meets(self, other: Claim) -> bool {
        match (self.writes(), self.executes()) {
            (true, false) => other.executes(),
            (false, true) => other.writes(),
            _ => false,
        }
    }
}

/// The numbers of records with each claim, dead records included. An unopposed claim then costs no
/// look at the records.
#[derive(Debug)]
pub(super) struct Claims {
    writers: u64,
    executors: u64,
}

impl Claims {
    pub(super) const NONE: Claims = Claims { writers: 0, executors: 0 };

    pub(super) fn add(&mut self, claim: Claim) {
        self.writers += u64::from(claim.writes());
        self.executors += u64::from(claim.executes());
    }

    pub(super) fn subtract(&mut self, claim: Claim) {
        self.writers -= u64::from(claim.writes());
        self.executors -= u64::from(claim.executes());
    }

    /// Returns whether a record with a claim incompatible with `claim` may exist.
    fn oppose(&self, claim: Claim) -> bool {
        claim.writes() && self.executors > 0 || claim.executes() && self.writers > 0
    }
}

impl<P: Machine> Mappings<P> {
    /// Returns the records incompatible with `claim`, dead records included.
    pub(super) fn opposed(&self, claim: Claim) -> impl Iterator<Item = &MappingNode<P>> {
        let mut next = if self.claims.oppose(claim) { self.first } else { core::ptr::null_mut() };
        core::iter::from_fn(move || {
            // SAFETY: nodes in the list stay in place, and the list is locked.
            let node = unsafe { next.as_ref() }?;
            next = node.next();
            Some(node)
        })
        .filter(move |node| claim.meets(node.claim()))
    }
}

impl<P: Machine> ObjectCore<P> {
    pub(super) fn permits_write_execute(&self) -> bool {
        // Relaxed: a permission, never taken back.
        self.write_execute.load(Ordering::Relaxed)
    }

    /// Returns whether the record `number` of `space` is the only one in use incompatible with
    /// `claim`.
    pub(crate) fn is_opposed_only_by(
        &self,
        claim: Claim,
        space: &SpaceCore<P>,
        number: RecordNumber,
    ) -> bool {
        let list = self.mappings.lock(self.service.platform());
        list.opposed(claim).all(|node| node.is_of(space, number) || !node.is_alive())
    }

    /// Waits until no CPU can use former pages of records incompatible with `claim`, which has been
    /// counted. The caller is in no walk, and holds no lock.
    pub(crate) fn wait_for_opposed(&self, pin: &CpuPin, claim: Claim) {
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
            // The remover of the last page is in a walk until the change is recorded.
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
    /// Permits mappings writing to the object's pages while other mappings may execute them: for a
    /// program generating code through two mappings, for example.
    ///
    /// Without the permission, an object's frames writable anywhere are executable nowhere:
    /// [`mmap_object`](crate::AddressSpace::mmap_object) and
    /// [`mprotect`](crate::AddressSpace::mprotect) refuse violations. The permission stays as long
    /// as the object.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    /// use topomem::WriteExecute;
    ///
    /// // SAFETY: the just-in-time compiler writes only code it has checked.
    /// let capability = unsafe { WriteExecute::new() };
    /// let code = MemoryObject::anonymous(service, pin, 4096)?;
    /// code.permit_write_execute(&capability);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn permit_write_execute(&self, _: &WriteExecute) {
        // Relaxed, as at its load.
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
