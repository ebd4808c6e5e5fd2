//! What shares one set of page tables.

use core::fmt;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{AtomicCpuSet, CpuSet};

use crate::Generation;
use crate::domain_id::DomainId;
use crate::log::Log;

/// Whose translations a domain's are: decides who uses them and how they are all flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One address space's: not global, used by the CPUs that have it active.
    Space,
    /// The kernel's: global, used by every CPU that is online.
    Kernel,
}

/// One address space, as the shootdown queue knows it: a generation, a log of the last
/// invalidations, and the CPUs that may hold its translations.
///
/// About 1.3 KiB, no heap. A CPU is a member from [`Shootdown::activate`] until it has activated
/// another domain or none.
///
/// # Lifetime
///
/// The queue keeps the address of a domain only in the private slots of the CPUs that have it
/// active, and only they follow it. [`Domain::is_idle`] is true when none has; who then prevents
/// further activations (by owning the domain, say) may drop it.
///
/// A CPU that tags translations may keep some of a domain that it left, even of one that is gone.
/// It knows domains by numbers that are never used again.
///
/// [`Shootdown::activate`]: crate::Shootdown::activate
pub struct Domain {
    pub(crate) log: Log,
    pub(crate) members: CachePadded<AtomicCpuSet>,
    pub(crate) kind: Kind,
    pub(crate) id: DomainId,
    /// All generations up to this one were removed from all TLBs by broadcasts; 0 if there was none.
    pub(crate) removed: AtomicU64,
}

impl Domain {
    /// The domain of a new address space, active nowhere.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Domain {
        Domain::of(Kind::Space)
    }

    /// The domain of a new address space, active nowhere (loom has no `const` constructors).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Domain {
        Domain::of(Kind::Space)
    }

    #[cfg(not(loom))]
    pub(crate) const fn of(kind: Kind) -> Domain {
        Domain {
            log: Log::new(),
            members: CachePadded::new(AtomicCpuSet::new()),
            kind,
            id: DomainId::new(),
            removed: AtomicU64::new(0),
        }
    }

    #[cfg(loom)]
    pub(crate) fn of(kind: Kind) -> Domain {
        Domain {
            log: Log::new(),
            members: CachePadded::new(AtomicCpuSet::new()),
            kind,
            id: DomainId::new(),
            removed: AtomicU64::new(0),
        }
    }

    /// The newest generation issued so far.
    pub fn generation(&self) -> Generation {
        self.log.newest()
    }

    /// The CPUs that may use translations of this domain: a moment's view.
    pub fn cpus(&self) -> CpuSet {
        self.members.load(Ordering::Relaxed)
    }

    /// Has every CPU left it? Then no CPU follows a pointer to it any more, nor walks its page
    /// tables, and it may be dropped by whoever can prevent further activations.
    pub fn is_idle(&self) -> bool {
        // Acquire pairs with the Release with which a CPU leaves: its last use of the domain
        // happened before.
        self.members.load(Ordering::Acquire).is_empty()
    }
}

impl Default for Domain {
    fn default() -> Domain {
        Domain::new()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("kind", &self.kind)
            .field("generation", &self.generation())
            .field("cpus", &self.cpus())
            .finish_non_exhaustive()
    }
}
