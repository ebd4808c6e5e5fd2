//! Domains: the sharers of a set of page tables.

pub(super) mod id;
pub(super) mod log;

use core::fmt;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{AtomicCpuSet, CpuSet};

use crate::Generation;
use id::DomainId;
use log::Log;

/// The kind of a domain's translations. It decides which CPUs use the translations, and how to
/// flush all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Translations of an address space: not global, used by the CPUs with the space active.
    Space,
    /// Translations of the kernel: global, used by every CPU online.
    Kernel,
}

/// An address space, as known to the shootdown queue: a generation, a log of the last
/// invalidations, and the set of CPUs with possible translations.
///
/// A domain takes about 1.3 KiB and no heap. A CPU is a member from [`Shootdown::activate`] until
/// it has activated another domain or none.
///
/// # Lifetime
///
/// The queue keeps a domain's address only in the private slots of the CPUs with the domain active,
/// and only the owners of the slots follow it. [`Domain::is_idle`] returns true if no CPU has the
/// domain active. An owner able to prevent further activations may then drop the domain.
///
/// A CPU with tagged translations may keep translations of a left domain, even of a dropped domain.
/// It identifies domains by numbers used only once.
///
/// ```
/// use topomem_shootdown::Domain;
///
/// static SPACE: Domain = Domain::new();
/// assert!(SPACE.is_idle());
/// ```
///
/// [`Shootdown::activate`]: crate::Shootdown::activate
pub struct Domain {
    pub(crate) log: Log,
    pub(crate) members: CachePadded<AtomicCpuSet>,
    pub(crate) kind: Kind,
    pub(crate) id: DomainId,
    /// The generation up to which broadcasts have removed all translations from all TLBs; 0 if none
    /// has.
    pub(crate) removed: AtomicU64,
}

impl Domain {
    /// Returns the domain of a new address space, active on no CPU.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Domain {
        Domain::of(Kind::Space)
    }

    /// Returns the domain of a new address space, active on no CPU (loom has no `const`
    /// constructors).
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

    /// Returns the newest generation issued.
    ///
    /// ```
    /// use topomem_shootdown::Domain;
    ///
    /// let space = Domain::new();
    /// let before = space.generation();
    /// // ... each change of the space's mappings takes a generation ...
    /// assert_eq!(space.generation(), before);
    /// ```
    pub fn generation(&self) -> Generation {
        self.log.newest()
    }

    /// Returns the CPUs with possible translations of the domain, as of this moment.
    ///
    /// ```
    /// use topomem_shootdown::Domain;
    ///
    /// assert!(Domain::new().cpus().is_empty());
    /// ```
    pub fn cpus(&self) -> CpuSet {
        self.members.load(Ordering::Relaxed)
    }

    /// Returns whether every CPU has left the domain. If true, no CPU follows a pointer to the
    /// domain or walks its page tables, and an owner able to prevent further activations may drop
    /// it.
    ///
    /// ```
    /// use topomem_shootdown::Domain;
    ///
    /// assert!(Domain::new().is_idle());
    /// ```
    pub fn is_idle(&self) -> bool {
        // Acquire pairs with the Release of a leaving CPU (switch.rs): the CPU's last use of the
        // domain happened before.
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
