//! A CPU takes up, leaves and neglects address spaces.
//!
//! The counterpart of issue.rs. A CPU that joins a domain (or ceases to be lazy in it) stores
//! that it does, a full barrier, and reads the generation; a sender bumps the generation, a full
//! barrier, and reads who is there. Whatever the interleaving, one sees the other: the CPU
//! flushes by itself, or is interrupted.

use core::ptr;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::sync::hint;

use crate::domain::Domain;
use crate::{Asid, Fault, Generation, Lazy, RootLoad, Shootdown, SwitchFlushed, Tlb};

/// How many turns a fault gives other CPUs to do something in between: about a millisecond.
pub(crate) const WINDOW: u32 = if cfg!(any(loom, miri)) { 0 } else { 20_000 };

impl<T: Tlb> Shootdown<T> {
    /// Makes `domain` this CPU's active address space in place of the last.
    ///
    /// `switch` loads the page-table root as it is told; it is called after the CPU counts as a member of
    /// `domain` and before it ceases to be one of the last domain. It is not called where
    /// `domain` is active already. Ends laziness.
    ///
    /// # Safety
    ///
    /// - `switch` loads `domain`'s page tables, as the [`RootLoad`] says, and tells truly whether
    ///   that flushed; what it tells counts where translations have no tags.
    /// - `domain` stays alive and in place until this CPU has activated another domain or called
    ///   [`Shootdown::deactivate`].
    /// - The CPU is online, and its page-table root changes by no other way.
    /// - It is not called from a context that interrupted another call of this queue on the same
    ///   CPU (handlers that may do so call [`Shootdown::on_ipi`], [`Shootdown::poll`] and
    ///   [`Shootdown::invalidate`] only).
    pub unsafe fn activate(
        &self,
        pin: &CpuPin,
        domain: &Domain,
        switch: impl FnOnce(RootLoad) -> SwitchFlushed,
    ) {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // Relaxed: this CPU wrote it.
        let last = published.active.load(Ordering::Relaxed);
        if ptr::eq(last, domain) {
            self.leave_lazy(pin);
            return;
        }
        // Nested handlers leave both domains alone until the switch is done.
        published.active.store(ptr::null_mut(), Ordering::Relaxed);
        if self.tlb.features().asids() != 0 {
            // Relaxed: this CPU wrote it, and handlers leave it alone from here on.
            self.asids(pin).leave(Generation(published.space.load(Ordering::Relaxed)));
        }
        if !self.broken(Fault::KeepSeen) {
            published.space.store(Generation::NONE.0, Ordering::Relaxed);
        }
        let was_lazy = state.set_busy();
        // Release pairs with the waiters' Acquire: who sees the member sees that it has
        // published nothing.
        domain.members.insert(pin.cpu(), Ordering::AcqRel);
        // Pairs with the senders' barrier: see the top.
        self.barrier();
        let seen = domain.log.newest();
        let load = self.root_load(pin, domain, seen);
        // With tags, what was removed up to `seen` is gone before the load or with it, and what is
        // removed later is not freed before we publish: a flush at the end is early enough.
        if switch(load) == SwitchFlushed::No && load == RootLoad::Untagged {
            state.counters.full_flushes.add(1);
            self.tlb.flush_non_global();
        }
        // Release: the flush happened before. Older handlers cannot interfere: `active` is null.
        published.space.store(seen.0, Ordering::Release);
        published.active.store(ptr::from_ref(domain).cast_mut(), Ordering::Relaxed);
        // SAFETY: `last` was active until here, so `activate`'s caller has kept it alive.
        if let Some(last) = unsafe { last.as_ref() } {
            // Release: our last use of its page tables happened before.
            last.members.remove(pin.cpu(), Ordering::Release);
        }
        // A handler that nested in the switch may have taken a request for `domain` with it.
        self.catch_up(state, domain);
        if was_lazy {
            self.catch_up(state, &self.kernel);
        }
    }

    /// Leaves the active address space for the kernel's own page tables.
    ///
    /// `switch` loads them, as it is told; it is not called where no domain is active.
    ///
    /// # Safety
    ///
    /// `switch` leaves nothing of the active domain's page tables in use, nor, unless the
    /// [`RootLoad`] names an ASID, in the TLB. Not from a context that interrupted
    /// another call of this queue on the same CPU.
    pub unsafe fn deactivate(&self, pin: &CpuPin, switch: impl FnOnce(RootLoad) -> SwitchFlushed) {
        let state = self.state(pin.cpu());
        let published = &state.published;
        let last = published.active.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `last` was active until here, so `activate`'s caller has kept it alive.
        if let Some(last) = unsafe { last.as_ref() } {
            let load = if self.tlb.features().asids() == 0 {
                RootLoad::Untagged
            } else {
                // Relaxed: as in `activate`.
                self.asids(pin).leave(Generation(published.space.load(Ordering::Relaxed)));
                // It has the kernel's half alone, whose freed tables are flushed from all ASIDs.
                RootLoad::Keep(Asid::KERNEL)
            };
            if switch(load) == SwitchFlushed::No && load == RootLoad::Untagged {
                state.counters.full_flushes.add(1);
                self.tlb.flush_non_global();
            }
            published.space.store(Generation::NONE.0, Ordering::Relaxed);
            // Release: our last use of its page tables happened before.
            last.members.remove(pin.cpu(), Ordering::Release);
        }
    }

    /// From here on no invalidation that only changes leaf entries interrupts this CPU (in the
    /// address space, or for [`Lazy::Idle`] in any domain). One store.
    ///
    /// # Safety
    ///
    /// Until [`Shootdown::leave_lazy`], or [`Shootdown::activate`], this CPU touches no address
    /// that `lazy` excludes: an interrupt handler that must calls `leave_lazy` first. A CPU that
    /// is lazy already may only go from [`Lazy::Space`] to [`Lazy::Idle`].
    pub unsafe fn enter_lazy(&self, pin: &CpuPin, lazy: Lazy) {
        self.state(pin.cpu()).set_lazy(lazy);
    }

    /// Ends [`Shootdown::enter_lazy`]: flushes where something was invalidated meanwhile. One
    /// load where the CPU wasn't lazy, else a full barrier and a look at two generations.
    pub fn leave_lazy(&self, pin: &CpuPin) {
        if self.broken(Fault::ReadGenerationFirst) {
            self.catch_up_all(pin);
            (0..WINDOW).for_each(|_| hint::spin_loop());
            self.state(pin.cpu()).set_busy();
            return;
        }
        if self.state(pin.cpu()).set_busy() {
            // Pairs with the senders' barrier: see the top.
            self.barrier();
            self.catch_up_all(pin);
        }
    }

    #[inline]
    fn barrier(&self) {
        if !self.broken(Fault::SkipBarrier) {
            fence(Ordering::SeqCst);
        }
    }
}
