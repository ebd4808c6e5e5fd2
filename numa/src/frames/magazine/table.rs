//! The magazine of each CPU.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use topomem_percpu::{CpuId, CpuPin, MAX_CPUS, NodeId};

use super::entry::Entry;
use super::gate::is_open;
use super::{Checked, Magazine};
use crate::frames::types::Zeroing;

// The placeholder for the magazine of a CPU without a magazine: the placeholder's gate is never open.
#[cfg(not(loom))]
static NONE: Magazine = Magazine::new(CpuId::BOOT, NodeId::ZERO, 0);

// loom's atomics live in one run of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref NONE: Magazine = Magazine::new(CpuId::BOOT, NodeId::ZERO, 0);
}

/// The magazines of the online CPUs.
#[derive(Debug)]
pub(crate) struct MagazineTable {
    /// By CPU; never null: a hit needs no check.
    magazines: [AtomicPtr<Magazine>; MAX_CPUS],
    /// No CPU from this number on has had a magazine. Relaxed: raised before the magazine is installed: a context
    /// seeing the magazine by other means sees the reach, too.
    reach: AtomicUsize,
}

impl MagazineTable {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> MagazineTable {
        MagazineTable {
            magazines: [const { AtomicPtr::new(ptr::from_ref(&NONE).cast_mut()) }; MAX_CPUS],
            reach: AtomicUsize::new(0),
        }
    }

    /// Creates a table without magazines (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(crate) fn new() -> MagazineTable {
        let none = || AtomicPtr::new(ptr::from_ref::<Magazine>(&NONE).cast_mut());
        MagazineTable { magazines: core::array::from_fn(|_| none()), reach: AtomicUsize::new(0) }
    }

    /// Returns the magazine of `cpu`, or a placeholder with a gate that is never open.
    #[inline]
    pub(in crate::frames) fn slot(&self, cpu: CpuId) -> &'static Magazine {
        // Acquire pairs with the Release in `set`: a context seeing the magazine sees the magazine's
        // contents.
        let magazine = self.magazines[cpu.index()].load(Ordering::Acquire);
        // SAFETY: only `'static` magazines are ever stored; only shared references exist.
        unsafe { &*magazine }
    }

    fn set(&self, cpu: CpuId, magazine: &'static Magazine) {
        self.magazines[cpu.index()].store(ptr::from_ref(magazine).cast_mut(), Ordering::Release);
    }

    /// Passes the current entry of the CPU's magazine to `act`. The entry has no frames nor a word
    /// if the CPU has no magazine, or is using the magazine.
    #[inline]
    pub(crate) fn with_current<R>(&self, pin: &CpuPin, act: impl FnOnce(&Entry, &Magazine) -> R) -> R {
        self.slot(pin.cpu()).with_current(act)
    }

    /// Passes the CPU's magazine to `act`. Returns `None` if the CPU has no magazine or is using
    /// the magazine, or if the magazine may not be used quickly.
    #[inline(always)]
    pub(crate) fn with_open<R>(&self, pin: &CpuPin, act: impl FnOnce(&Magazine) -> R) -> Option<R> {
        self.with_current(pin, |entry, magazine| is_open(entry).then(|| act(magazine)))
    }

    /// Passes the CPU's magazine and the last used near entry to `act`, in paranoid mode. Returns
    /// `None` in another mode, or if the CPU has no magazine, is using the magazine, or is to drain the magazine.
    #[inline(always)]
    pub(crate) fn with_checked<R>(
        &self,
        pin: &CpuPin,
        act: impl FnOnce(&Entry, &Magazine) -> R,
    ) -> Option<R> {
        self.slot(pin.cpu()).with_checked(act)
    }

    /// Returns the magazine of `cpu`, if any.
    pub(crate) fn get(&self, cpu: CpuId) -> Option<&'static Magazine> {
        let magazine = self.slot(cpu);
        (!ptr::eq(magazine, none())).then_some(magazine)
    }

    pub(crate) fn install(&self, magazine: &'static Magazine, checked: Checked, zeroing: Zeroing) {
        if self.get(magazine.cpu).is_none() {
            self.reach.fetch_max(magazine.cpu.index() + 1, Ordering::Relaxed);
            magazine.open(checked, zeroing);
            self.set(magazine.cpu, magazine);
        }
    }

    /// Removes the magazine of `cpu`; the caller runs on `cpu`.
    pub(crate) fn remove(&self, cpu: CpuId) {
        self.set(cpu, none());
    }

    /// Returns the magazines of all CPUs with a magazine. Costs a load for each CPU number up to the greatest with a
    /// magazine so far.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static Magazine> {
        (0..self.reach.load(Ordering::Relaxed)).filter_map(CpuId::new).filter_map(|cpu| self.get(cpu))
    }
}

fn none() -> &'static Magazine {
    &NONE
}
