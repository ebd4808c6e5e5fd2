//! The list of user spaces, and how abandoned ones go.

use core::ptr;

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, CpuSet, Order};

use super::{MemoryService, frame_memory};
use crate::Machine;
use crate::address_space::{SpaceCore, lower_half};
use crate::page_table::{Changed, Reserve};
use crate::retire::{Callbacks, Parked};

/// A list through the spaces' own links.
pub(super) struct Spaces<P: Machine> {
    first: Option<&'static SpaceCore<P>>,
}

impl<P: Machine> Spaces<P> {
    #[cfg(not(loom))]
    pub const NONE: Spaces<P> = Spaces { first: None };

    pub fn add(&mut self, core: &'static SpaceCore<P>) {
        let next = self.first.map_or(ptr::null(), ptr::from_ref).cast_mut();
        // Relaxed: links are read and written under the list's lock only.
        core.next.store(next, Ordering::Relaxed);
        self.first = Some(core);
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static SpaceCore<P>> {
        core::iter::successors(self.first, |core| {
            // SAFETY: a listed space lives; its link was made from a `&'static` in `add`.
            unsafe { core.next.load(Ordering::Relaxed).as_ref() }
        })
    }

    /// Takes out the first space that `wanted` accepts.
    fn take(&mut self, wanted: impl Fn(&SpaceCore<P>) -> bool) -> Option<&'static SpaceCore<P>> {
        let mut before: Option<&'static SpaceCore<P>> = None;
        let found = self.iter().find(|core| {
            let found = wanted(core);
            if !found {
                before = Some(core);
            }
            found
        })?;
        let next = found.next.load(Ordering::Relaxed);
        match before {
            Some(before) => before.next.store(next, Ordering::Relaxed),
            // SAFETY: as in `iter`.
            None => self.first = unsafe { next.as_ref() },
        }
        Some(found)
    }
}

impl<P: Machine> MemoryService<P> {
    /// Frees the abandoned spaces that no CPU has active; how many.
    ///
    /// Also for contexts that interrupted another use of the list on the same CPU: a list that
    /// is in use is left alone.
    pub(super) fn reap(&self, pin: &CpuPin) -> usize {
        // Acquire pairs with the Release in `AddressSpace`'s drop: every use of the handle
        // happened before.
        let gone = |core: &SpaceCore<P>| core.abandoned.load(Ordering::Acquire) && core.domain().is_idle();
        let mut reaped = 0;
        loop {
            let Some(mut spaces) = self.spaces.try_lock() else { return reaped };
            let abandoned = spaces.iter().filter(|core| core.abandoned.load(Ordering::Acquire));
            let users = abandoned.fold(CpuSet::EMPTY, |cpus, core| cpus.union(&core.domain().cpus()));
            self.task_wakers.await_leaving(&users);
            let Some(core) = spaces.take(gone) else { return reaped };
            // The lock is not held while the space is taken apart.
            drop(spaces);
            if !self.take_apart(core, pin) {
                self.spaces.lock(&self.platform).add(core);
                return reaped;
            }
            reaped += 1;
        }
    }

    /// Frees all that an abandoned, idle space has; false where a walk under way, or the
    /// memory to cut a page, stands against it: then it can be tried again.
    fn take_apart(&self, core: &'static SpaceCore<P>, pin: &CpuPin) -> bool {
        let frames = &self.frames;
        let mut reserve = Reserve::new(frames, pin);
        let mut changed = Changed::NOTHING;
        if core.table.clear(frames, &mut reserve, lower_half::<P::Format>(), &mut changed, |_| ()).is_err() {
            return false;
        }
        drop(reserve);
        core.park(Parked { request: None, retired: changed.retired, callbacks: Callbacks::NONE });
        // Nobody has the space: no TLB, no page walker, no handle. What waits is done.
        if core.collect(pin).waiting {
            return false;
        }
        let root = core.table.root();
        // SAFETY: it is out of the list, its handle is gone, no CPU has it active; its tables
        // and frames have just been freed.
        unsafe {
            SpaceCore::give_back(core, frames, pin);
            frame_memory::release(frames, pin, root, Order::FRAME);
        }
        true
    }
}
