//! Numbers for domains, never used again: what a CPU remembers of a domain that is gone must match
//! no other, as an address would.

use core::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed as CounterRelaxed};

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// No domain has this number.
pub(crate) const NOBODY: u64 = 0;

/// The number of the next domain that needs one. Not one of loom's: all that matters is that it
/// grows.
static NEXT: Counter = Counter::new(1);

/// A domain's number, given out when a CPU with ASIDs first takes it up.
pub(crate) struct DomainId(AtomicU64);

impl DomainId {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> DomainId {
        DomainId(AtomicU64::new(NOBODY))
    }

    #[cfg(loom)]
    pub(crate) fn new() -> DomainId {
        DomainId(AtomicU64::new(NOBODY))
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        // Relaxed here and below: the number says nothing about other memory.
        let id = self.0.load(Ordering::Relaxed);
        if id != NOBODY {
            return id;
        }
        let fresh = NEXT.fetch_add(1, CounterRelaxed);
        match self.0.compare_exchange(NOBODY, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(other) => other,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once() {
        let (one, other) = (DomainId::new(), DomainId::new());
        assert_eq!(one.get(), one.get());
        assert_ne!(one.get(), other.get());
        assert_ne!(one.get(), NOBODY);
    }
}
