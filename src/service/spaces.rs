//! The list of user spaces, and the end of abandoned spaces.

use core::ptr;

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order};

use super::MemoryService;
use super::memory::frame_memory;
use crate::Machine;
use crate::address_space::{Collected, SpaceCore};
use crate::budget::Budget;

/// A list through the spaces' own links.
pub(super) struct Spaces<P: Machine> {
    first: Option<&'static SpaceCore<P>>,
}

impl<P: Machine> Spaces<P> {
    #[cfg(not(loom))]
    pub(super) const NONE: Spaces<P> = Spaces { first: None };

    pub(super) fn add(&mut self, core: &'static SpaceCore<P>) {
        let next = self.first.map_or(ptr::null(), ptr::from_ref).cast_mut();
        // Relaxed: links are read and written only under the list's lock.
        core.next.store(next, Ordering::Relaxed);
        self.first = Some(core);
    }

    fn after(core: &SpaceCore<P>) -> Option<&'static SpaceCore<P>> {
        // SAFETY: a listed space lives; its link was made from a `&'static` in `add`.
        unsafe { core.next.load(Ordering::Relaxed).as_ref() }
    }

    fn iter(&self) -> impl Iterator<Item = &'static SpaceCore<P>> {
        core::iter::successors(self.first, |core| Spaces::after(core))
    }

    /// Takes out the first space accepted by `wanted`.
    fn take(&mut self, wanted: impl Fn(&SpaceCore<P>) -> bool) -> Option<&'static SpaceCore<P>> {
        let mut before: Option<&'static SpaceCore<P>> = None;
        let found = self.iter().find(|core| {
            let found = wanted(core);
            if !found {
                before = Some(core);
            }
            found
        })?;
        match before {
            Some(before) => before.next.store(found.next.load(Ordering::Relaxed), Ordering::Relaxed),
            None => self.first = Spaces::after(found),
        }
        Some(found)
    }
}

/// A visit to a listed space, which stays in the list until the visit is dropped.
struct Visit<P: Machine> {
    core: &'static SpaceCore<P>,
}

impl<P: Machine> Visit<P> {
    /// Returns a visit to a space in the list. The caller holds the list's lock.
    fn of(core: &'static SpaceCore<P>) -> Visit<P> {
        core.visitors.fetch_add(1, Ordering::Relaxed);
        Visit { core }
    }
}

impl<P: Machine> Drop for Visit<P> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `free_abandoned_if`: this use of the space happened before.
        self.core.visitors.fetch_sub(1, Ordering::Release);
    }
}

/// The reason for the end of a pass through the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All spaces have been visited.
    All,
    /// The caller had enough.
    Enough,
    /// The list was in use.
    InUse,
}

impl End {
    fn collected(self) -> Collected {
        Collected { freed: 0, waiting: self == End::InUse, more: self == End::Enough }
    }
}

impl<P: Machine> MemoryService<P> {
    /// Calls `look` with each user space, without the list's lock, until `look` has enough.
    ///
    /// Also for contexts in the middle of an interrupted use of the list on the same CPU: if the
    /// list is in use, the rest is skipped.
    fn visit(&self, mut look: impl FnMut(&SpaceCore<P>) -> Enough) -> End {
        let mut last: Option<Visit<P>> = None;
        loop {
            let Some(spaces) = self.spaces.try_lock() else { return End::InUse };
            let next = match &last {
                None => spaces.first,
                Some(visit) => Spaces::after(visit.core),
            };
            let visit = next.map(Visit::of);
            drop(spaces);
            let Some(visit) = visit else { return End::All };
            if look(visit.core) == Enough::Yes {
                return End::Enough;
            }
            last = Some(visit);
        }
    }

    /// Calls `work` with the kernel's space, and then with each user space, as far as `budget`
    /// allows. Returns the work done, and whether something still waits.
    pub(super) fn for_each_space(
        &self,
        budget: &mut Budget,
        mut work: impl FnMut(&SpaceCore<P>, &mut Budget) -> Collected,
    ) -> Collected {
        let mut collected = Collected::NOTHING;
        if let Some(kernel) = self.kernel_core() {
            collected = work(kernel, budget);
        }
        let end = self.visit(|core| {
            budget.spend(1);
            collected = collected.and(work(core, budget));
            if budget.is_spent() { Enough::Yes } else { Enough::No }
        });
        collected.and(end.collected())
    }

    /// Dismantles abandoned spaces without users, as far as `budget` allows.
    pub(super) fn reap(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let mut collected = Collected::NOTHING;
        let end = self.visit(|core| {
            budget.spend(1);
            // Acquire pairs with the Release in `AddressSpace`'s drop: every use of the handle
            // happened before.
            if core.abandoned.load(Ordering::Acquire) {
                self.task_wakers.await_leaving(&core.domain().cpus());
                collected = collected.and(core.take_apart(pin, budget));
            }
            if budget.is_spent() { Enough::Yes } else { Enough::No }
        });
        collected.freed += self.free_abandoned_spaces(pin);
        collected.and(end.collected())
    }

    /// Frees the bookkeeping and the roots of spaces abandoned, empty, and active on no CPU.
    /// Returns the number of frames freed.
    fn free_abandoned_spaces(&self, pin: &CpuPin) -> u64 {
        let mut freed = 0;
        while let Some(frames) = self.free_abandoned_if(pin, |_| true) {
            freed += frames;
        }
        freed
    }

    /// Frees the space `core`, abandoned just now, or leaves it to the service task if it cannot be
    /// freed yet.
    pub(crate) fn free_abandoned_space(&self, pin: &CpuPin, core: *const SpaceCore<P>) {
        if self.free_abandoned_if(pin, |listed| ptr::eq(listed, core)).is_none() {
            self.note_work_anywhere();
        }
    }

    /// Frees the bookkeeping and the root of the first space accepted by `wanted` and abandoned,
    /// empty, and active on no CPU. Returns the number of frames freed.
    fn free_abandoned_if(&self, pin: &CpuPin, wanted: impl Fn(&SpaceCore<P>) -> bool) -> Option<u64> {
        let gone = |core: &SpaceCore<P>| {
            wanted(core)
                && core.abandoned.load(Ordering::Acquire)
                && core.dismantled.load(Ordering::Acquire)
                && core.visitors.load(Ordering::Acquire) == 0
                && core.domain().is_idle()
                && core.retired.try_lock().is_some_and(|list| list.is_empty())
        };
        let core = self.spaces.try_lock().and_then(|mut spaces| spaces.take(gone))?;
        let (frames, root) = (&self.frames, core.table.root());
        // SAFETY: the space is out of the list and not visited, its handle is gone, and no CPU has
        // it active; its tables and frames have been freed.
        unsafe {
            let freed = SpaceCore::give_back(core, frames, pin);
            frame_memory::release_own(frames, pin, root, Order::FRAME);
            Some(freed + 1)
        }
    }
}

/// Whether a pass through the list has had enough.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Enough {
    Yes,
    No,
}
