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
use crate::{Asid, Fault, Generation, Lazy, RootLoad, Shootdown, SwitchFlushed, Tlb, WakersDue};

/// How many turns a fault gives other CPUs to do something in between: about a millisecond.
pub(crate) const WINDOW: u32 = if cfg!(any(loom, miri)) { 0 } else { 20_000 };

impl<T: Tlb> Shootdown<T> {
    /// Makes `domain` this CPU's active address space in place of the last.
    ///
    /// `switch` loads the page-table root as it is told; it is called after the CPU counts as a member of
    /// `domain` and before it ceases to be one of the last domain. It is not called where
    /// `domain` is active already. Ends laziness, before `switch` is called.
    ///
    /// Requests of other CPUs may complete in it: the answer says whether a waker may have to be
    /// called for that ([`Shootdown::wake_completed`]).
    ///
    /// # Safety
    ///
    /// - `switch` loads `domain`'s page tables, as the [`RootLoad`] says, and tells truly whether
    ///   that flushed; what it tells counts where translations have no tags.
    /// - `domain` stays alive and in place until this CPU has activated another domain or called
    ///   [`Shootdown::deactivate`].
    /// - The CPU is online, and its page-table root changes by no other way.
    /// - It is not called from a context that interrupted another call of this queue on the same
    ///   CPU: see [Interrupt handlers](crate#interrupt-handlers).
    pub unsafe fn activate(
        &self,
        pin: &CpuPin,
        domain: &Domain,
        switch: impl FnOnce(RootLoad) -> SwitchFlushed,
    ) -> WakersDue {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // Relaxed: this CPU wrote it.
        let last = published.active.load(Ordering::Relaxed);
        // First: `switch` and the handlers that nest in it use kernel addresses, and those of the
        // last space. What was removed of either while this CPU was lazy may be complete.
        let due = self.leave_lazy(pin);
        if ptr::eq(last, domain) {
            return due;
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
        // Who asked this CPU meanwhile, or found it a member before it had published anything, has
        // got no answer until here, and no interrupt tells of it.
        self.wakers_due()
    }

    /// Leaves the active address space for the kernel's own page tables.
    ///
    /// `switch` loads them, as it is told; it is not called where no domain is active. Ends
    /// laziness, before `switch` is called. The answer is as [`Shootdown::activate`]'s.
    ///
    /// # Safety
    ///
    /// `switch` leaves nothing of the active domain's page tables in use, nor, unless the
    /// [`RootLoad`] names an ASID, in the TLB. Not from a context that interrupted
    /// another call of this queue on the same CPU.
    pub unsafe fn deactivate(
        &self,
        pin: &CpuPin,
        switch: impl FnOnce(RootLoad) -> SwitchFlushed,
    ) -> WakersDue {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // First, as in `activate`.
        let due = self.leave_lazy(pin);
        let last = published.active.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `last` was active until here, so `activate`'s caller has kept it alive.
        let Some(last) = (unsafe { last.as_ref() }) else {
            return due;
        };
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
        self.wakers_due()
    }

    /// From here on no invalidation that only changes leaf entries interrupts this CPU (in the
    /// address space, or for [`Lazy::Idle`] in any domain). One store.
    ///
    /// # Safety
    ///
    /// - Until a call of [`Shootdown::leave_lazy`], [`Shootdown::activate`] or
    ///   [`Shootdown::deactivate`] returns, or calls its closure, this CPU touches no address that
    ///   `lazy` excludes. An interrupt handler that has to touch one calls `leave_lazy` first,
    ///   whatever it has interrupted.
    /// - A CPU that is lazy already may only go from [`Lazy::Space`] to [`Lazy::Idle`].
    /// - It is not called from a context that interrupted another call of this queue on the same
    ///   CPU.
    pub unsafe fn enter_lazy(&self, pin: &CpuPin, lazy: Lazy) {
        self.state(pin.cpu()).set_lazy(lazy);
    }

    /// Ends [`Shootdown::enter_lazy`]: flushes if something was invalidated meanwhile. When it
    /// returns, the CPU may touch any address, also if this call has interrupted another one or a
    /// switch. One load if the CPU was not lazy, else a full barrier and a look at two generations.
    ///
    /// A request that had passed this CPU by waits for it again from when it ceases to be lazy until
    /// it has flushed. The answer says whether a waker may have to be called for that
    /// ([`Shootdown::wake_completed`]).
    pub fn leave_lazy(&self, pin: &CpuPin) -> WakersDue {
        let state = self.state(pin.cpu());
        if self.broken(Fault::ReadGenerationFirst) {
            self.catch_up_all(pin);
            (0..WINDOW).for_each(|_| hint::spin_loop());
            state.set_busy();
            return WakersDue::No;
        }
        if !state.cease_to_be_lazy() {
            return WakersDue::No;
        }
        if self.broken(Fault::BusyBeforeCatchingUp) {
            state.set_busy();
        }
        // Pairs with the senders' barrier: see the top.
        self.barrier();
        self.catch_up_all(pin);
        // Last: a handler that nested since then, and was told to leave laziness, has caught up by
        // itself.
        state.set_busy();
        self.wakers_due()
    }

    #[inline]
    fn barrier(&self) {
        if !self.broken(Fault::SkipBarrier) {
            fence(Ordering::SeqCst);
        }
    }
}
