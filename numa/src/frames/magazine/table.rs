//! The magazine of each CPU.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use topomem_percpu::{CpuId, CpuPin, MAX_CPUS, NodeId};

use super::entry::Entry;
use super::{Checked, Magazine};
use crate::frames::types::Zeroing;

/// Number of CPUs with a place in the table itself: the *near* CPUs, from the first. The others are *far*. Fewer under
/// Miri, where few tests have many CPUs.
const NEAR_CPUS: usize = if cfg!(miri) { 8 } else { 64 };
const NEAR_PLACES: usize = if MAX_CPUS < NEAR_CPUS { MAX_CPUS } else { NEAR_CPUS };

// The placeholder for the magazine of a CPU without a magazine: the placeholder's gate is never open.
#[cfg(not(loom))]
static NONE: Magazine = Magazine::new(CpuId::BOOT, NodeId::ZERO, 0);

// loom's atomics live in one run of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref NONE: Magazine = Magazine::new(CpuId::BOOT, NodeId::ZERO, 0);
}

/// The place of a CPU's magazine in the table. Never null: a hit needs no check.
#[derive(Debug)]
pub(in crate::frames) struct Place(AtomicPtr<Magazine>);

impl Place {
    /// Creates the place of a CPU without a magazine.
    #[cfg(not(loom))]
    pub(in crate::frames) const fn new() -> Place {
        Place(AtomicPtr::new(ptr::from_ref(&NONE).cast_mut()))
    }

    /// Creates the place of a CPU without a magazine (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(in crate::frames) fn new() -> Place {
        Place(AtomicPtr::new(ptr::from_ref::<Magazine>(&NONE).cast_mut()))
    }

    /// Returns the magazine, or the placeholder.
    #[inline(always)]
    fn get(&self) -> &'static Magazine {
        // Acquire pairs with the Release in `set`: a context seeing the magazine sees the magazine's
        // contents.
        let magazine = self.0.load(Ordering::Acquire);
        // SAFETY: only `'static` magazines are ever stored; only shared references exist.
        unsafe {
            core::hint::assert_unchecked(!magazine.is_null());
            &*magazine
        }
    }

    fn set(&self, magazine: &'static Magazine) {
        self.0.store(ptr::from_ref(magazine).cast_mut(), Ordering::Release);
    }
}

/// The magazines of the online CPUs.
#[derive(Debug)]
pub(crate) struct MagazineTable {
    /// By CPU.
    near: [Place; NEAR_PLACES],
    /// The first of the far CPUs' places, which [`MagazineTable::extend`] gives. Relaxed: stored before `far_count`.
    far: AtomicPtr<Place>,
    /// The number of the far CPUs' places.
    far_count: AtomicUsize,
    /// No CPU from this number on has had a magazine. Relaxed: raised before the magazine is installed: a context
    /// seeing the magazine by other means sees the reach, too.
    reach: AtomicUsize,
}

macro_rules! empty {
    ($near:expr) => {
        MagazineTable {
            near: $near,
            far: AtomicPtr::new(ptr::null_mut()),
            far_count: AtomicUsize::new(0),
            reach: AtomicUsize::new(0),
        }
    };
}

impl MagazineTable {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> MagazineTable {
        empty!([const { Place::new() }; NEAR_PLACES])
    }

    /// Creates a table without magazines (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(crate) fn new() -> MagazineTable {
        empty!(core::array::from_fn(|_| Place::new()))
    }

    /// Returns how many places a machine of `cpus` CPUs needs beyond those in the table.
    pub(in crate::frames) fn far_places(cpus: usize) -> usize {
        cpus.saturating_sub(NEAR_CPUS)
    }

    /// Gives the far CPUs their places, once.
    pub(in crate::frames) fn extend(&self, places: &'static [Place]) {
        self.far.store(places.as_ptr().cast_mut(), Ordering::Relaxed);
        // Release pairs with the Acquire in `far_place`.
        self.far_count.store(places.len(), Ordering::Release);
    }

    /// Returns the magazine of a near CPU, or a placeholder with a gate that is never open; `None` for a far CPU.
    #[inline(always)]
    pub(in crate::frames) fn near(&self, cpu: CpuId) -> Option<&'static Magazine> {
        Some(self.near.get(cpu.index())?.get())
    }

    /// Returns the magazine of a far CPU; `None` for a CPU without a magazine, and for a near CPU.
    ///
    /// Never the placeholder: a far CPU's hit writes to no line that another CPU writes to.
    #[inline(always)]
    pub(in crate::frames) fn far(&self, cpu: CpuId) -> Option<&'static Magazine> {
        installed(self.far_place(cpu)?.get())
    }

    #[inline(always)]
    fn far_place(&self, cpu: CpuId) -> Option<&'static Place> {
        let index = cpu.index().checked_sub(NEAR_CPUS)?;
        // Acquire pairs with the Release in `extend`: the places are written, and their address is known.
        if index >= self.far_count.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the address of more than `index` places, given for good.
        Some(unsafe { &*self.far.load(Ordering::Relaxed).add(index) })
    }

    /// Returns the magazine of `cpu`, or a placeholder with a gate that is never open.
    #[inline(always)]
    pub(in crate::frames) fn slot(&self, cpu: CpuId) -> &'static Magazine {
        self.near(cpu).unwrap_or_else(|| self.far_slot(cpu))
    }

    #[cold]
    #[inline(never)]
    fn far_slot(&self, cpu: CpuId) -> &'static Magazine {
        self.far_place(cpu).map_or(none(), Place::get)
    }

    fn set(&self, cpu: CpuId, magazine: &'static Magazine) {
        let place = self.near.get(cpu.index()).or_else(|| self.far_place(cpu));
        place.into_iter().for_each(|place| place.set(magazine));
    }

    /// Passes the current entry of a near CPU's magazine to `act`. The entry has no frames nor a word
    /// if the CPU has no magazine, or is using the magazine. Returns `None` for a far CPU.
    #[inline(always)]
    pub(crate) fn with_near<R>(&self, pin: &CpuPin, act: impl FnOnce(&Entry, &Magazine) -> R) -> Option<R> {
        let place = self.near.get(pin.cpu().index())?;
        Some(place.get().with_current(act))
    }

    /// Passes the current entry of a far CPU's magazine to `act`, as [`MagazineTable::with_near`] does for a near
    /// CPU's. Returns `None` for a CPU without a magazine, and for a near CPU.
    #[inline(always)]
    pub(crate) fn with_far<R>(&self, pin: &CpuPin, act: impl FnOnce(&Entry, &Magazine) -> R) -> Option<R> {
        Some(self.far(pin.cpu())?.with_current(act))
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
        installed(self.slot(cpu))
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

/// Returns the magazine unless it is the placeholder.
#[inline(always)]
fn installed(magazine: &'static Magazine) -> Option<&'static Magazine> {
    (!ptr::eq(magazine, none())).then_some(magazine)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    static OF_NEAR: Magazine = Magazine::new(CpuId::BOOT, NodeId::ZERO, 0);
    static OF_FAR: Magazine = Magazine::new(far(3), NodeId::ZERO, 0);
    static PLACES: [Place; 4] = [const { Place::new() }; 4];

    const fn far(index: usize) -> CpuId {
        match CpuId::new(NEAR_CPUS + index) {
            Some(cpu) => cpu,
            None => panic!("no such CPU"),
        }
    }

    #[test]
    fn every_cpu_has_a_place_of_its_own() {
        let table = MagazineTable::new();
        let is_placeholder = |cpu: CpuId| ptr::eq(table.slot(cpu), none()) && table.get(cpu).is_none();
        assert!(is_placeholder(CpuId::BOOT) && is_placeholder(far(3)), "before there are places");
        assert_eq!(MagazineTable::far_places(NEAR_CPUS + PLACES.len()), PLACES.len());
        table.extend(&PLACES);
        table.install(&OF_NEAR, Checked::No, Zeroing::OnRequest);
        table.install(&OF_FAR, Checked::No, Zeroing::OnRequest);
        assert!(
            ptr::eq(table.get(CpuId::BOOT).unwrap(), &OF_NEAR)
                && ptr::eq(table.get(far(3)).unwrap(), &OF_FAR)
        );
        // Neither kind is taken for the other, and no far CPU without a magazine gets the placeholder to write to.
        assert!(table.near(far(3)).is_none() && table.far(CpuId::BOOT).is_none());
        assert!(table.far(far(2)).is_none() && table.far(far(4)).is_none());
        assert!(is_placeholder(far(2)) && is_placeholder(far(4)), "within the places and beyond");
        assert!(table.iter().map(|magazine| magazine.cpu).eq([CpuId::BOOT, far(3)]));
        table.remove(far(3));
        assert!(is_placeholder(far(3)) && table.get(CpuId::BOOT).is_some());
    }
}
