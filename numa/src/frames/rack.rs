//! Which CPU has which magazine.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, Ordering};
use topomem_percpu::{CpuId, MAX_CPUS};

use super::magazine::Magazine;

/// The magazines of the CPUs that are online.
#[derive(Debug)]
pub(crate) struct Rack {
    magazines: [AtomicPtr<Magazine>; MAX_CPUS],
}

impl Rack {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Rack {
        Rack { magazines: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS] }
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(crate) fn new() -> Rack {
        Rack { magazines: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// The magazine of `cpu`, while it has one.
    #[inline]
    pub(crate) fn get(&self, cpu: CpuId) -> Option<&'static Magazine> {
        // Acquire pairs with the Release in `install`: who sees it sees its contents.
        let magazine = self.magazines[cpu.index()].load(Ordering::Acquire);
        // SAFETY: not null, so from a `&'static` in `install`; only shared references exist.
        unsafe { magazine.as_ref() }
    }

    pub(crate) fn install(&self, magazine: &'static Magazine) {
        let slot = &self.magazines[magazine.cpu.index()];
        slot.store(ptr::from_ref(magazine).cast_mut(), Ordering::Release);
    }

    pub(crate) fn remove(&self, cpu: CpuId) {
        self.magazines[cpu.index()].store(ptr::null_mut(), Ordering::Release);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static Magazine> {
        (0..MAX_CPUS).filter_map(CpuId::new).filter_map(|cpu| self.get(cpu))
    }
}
