//! Numbers of domains, used only once: a number kept by a CPU after the domain is dropped matches
//! no later domain. An address could match.

use core::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed as CounterRelaxed};

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// The number of no domain.
pub(crate) const NO_DOMAIN: u64 = 0;

/// The number of the next domain in need of a number. Not an atomic of loom's: the protocol needs
/// no property beyond growth.
static NEXT: Counter = Counter::new(1);

/// A domain's number, assigned when a CPU with ASIDs first activates the domain.
pub(crate) struct DomainId(AtomicU64);

impl DomainId {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> DomainId {
        DomainId(AtomicU64::new(NO_DOMAIN))
    }

    #[cfg(loom)]
    pub(crate) fn new() -> DomainId {
        DomainId(AtomicU64::new(NO_DOMAIN))
    }

    /// Returns the number, and assigns it at the first call.
    pub(crate) fn get(&self) -> u64 {
        // Relaxed, here and below: the number publishes no further memory.
        let id = self.0.load(Ordering::Relaxed);
        if id != NO_DOMAIN {
            return id;
        }
        let fresh = NEXT.fetch_add(1, CounterRelaxed);
        match self.0.compare_exchange(NO_DOMAIN, fresh, Ordering::Relaxed, Ordering::Relaxed) {
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
        assert_ne!(one.get(), NO_DOMAIN);
    }
}
