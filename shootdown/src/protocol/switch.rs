//! A CPU activates, leaves and is lazy in address spaces.
//!
//! The counterpart of issue.rs. A CPU joining a domain (or leaving laziness in a domain) stores its
//! new state, executes a full barrier, and reads the generation. A sender adds to the generation,
//! executes a full barrier, and reads the members. In every interleaving, at least one of them sees
//! the other's store: the CPU flushes by itself, or is interrupted.

use core::ptr;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use crate::domain::Domain;
use crate::{Asid, Generation, Lazy, RootLoad, Shootdown, SwitchFlushed, Tlb, WakersDue};

impl<T: Tlb> Shootdown<T> {
    /// Makes `domain` this CPU's active address space in place of the last.
    ///
    /// `switch` loads the page-table root as told by its argument. The call of `switch` comes after
    /// the CPU becomes a member of `domain` and before the CPU leaves the last domain. If `domain`
    /// is active already, `switch` is not called. The function ends laziness before calling
    /// `switch`.
    ///
    /// Returns whether a waker may have to be called ([`Shootdown::wake_completed`]): requests of
    /// remote CPUs may complete in the call.
    ///
    /// # Safety
    ///
    /// - `switch` loads `domain`'s page tables as told by the [`RootLoad`], and returns truly
    ///   whether the load flushed. The answer matters only if translations have no tags.
    /// - `domain` stays alive and in place until this CPU has activated another domain or called
    ///   [`Shootdown::deactivate`].
    /// - The CPU is online, and its page-table root changes in no other way.
    /// - The function is not called from a context that interrupted another call of this queue on
    ///   the same CPU: see [Interrupt handlers](crate#interrupt-handlers).
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Domain, Shootdown, SwitchFlushed, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// static SPACE: Domain = Domain::new();
    ///
    /// let pin = QUEUE.tlb().pin();
    /// # static STATE: topomem_shootdown::CpuState = topomem_shootdown::CpuState::new();
    /// QUEUE.place(pin.cpu(), &STATE)?;
    /// QUEUE.cpu_online(&pin)?;
    /// let load_root = |_| SwitchFlushed::Yes; // write CR3
    /// // SAFETY: `SPACE` lives for ever, and the machine has no page tables.
    /// unsafe { QUEUE.activate(&pin, &SPACE, load_root) };
    /// assert!(!SPACE.is_idle());
    /// // SAFETY: as above.
    /// unsafe { QUEUE.deactivate(&pin, load_root) };
    /// assert!(SPACE.is_idle());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn activate(
        &self,
        pin: &CpuPin,
        domain: &Domain,
        switch: impl FnOnce(RootLoad) -> SwitchFlushed,
    ) -> WakersDue {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // Relaxed: this CPU wrote the word.
        let last = published.active.load(Ordering::Relaxed);
        // First of all: `switch`, and handlers nested in it, use kernel addresses and addresses of
        // the last space. Removals skipped by this CPU while lazy may be complete.
        let due = self.leave_lazy(pin);
        if ptr::eq(last, domain) {
            return due;
        }
        // Nested handlers leave both domains alone until the switch is done. Relaxed: only this
        // CPU's handlers follow the pointer.
        published.active.store(ptr::null_mut(), Ordering::Relaxed);
        if self.tlb.features().asids() != 0 {
            // Relaxed: this CPU wrote the word, and handlers leave it alone from here on.
            self.asids(pin).leave(Generation(published.space.load(Ordering::Relaxed)));
        }
        self.fault.forget_published(|| published.space.store(Generation::NONE.0, Ordering::Relaxed));
        // Release pairs with the waiters' Acquire in `is_done_by`: a waiter seeing the member sees
        // no published generation.
        domain.members.insert(pin.cpu(), Ordering::AcqRel);
        // Pairs with the senders' barrier: see the module's documentation.
        self.fault.join_barrier();
        let seen = domain.log.newest();
        let load = self.root_load(pin, domain, seen);
        // With tags, everything removed up to `seen` is gone before the load or with it. Frames of
        // later removals are not freed before this CPU publishes: a flush at the end is early
        // enough.
        if switch(load) == SwitchFlushed::No && load == RootLoad::Untagged {
            state.counters.full_flushes.add(1);
            self.tlb.flush_non_global();
        }
        // Release pairs with the waiters' Acquire in `satisfies`: the flush happened before. Older
        // handlers cannot interfere, since `active` is null. `active` may be Relaxed: remote CPUs
        // only compare it.
        published.space.store(seen.0, Ordering::Release);
        published.active.store(ptr::from_ref(domain).cast_mut(), Ordering::Relaxed);
        // SAFETY: `last` was active until here, so `activate`'s caller has kept it alive.
        if let Some(last) = unsafe { last.as_ref() } {
            // Release pairs with the Acquire in `is_idle` and `is_done_by`: our last use of the
            // page tables happened before.
            last.members.remove(pin.cpu(), Ordering::Release);
        }
        // A handler nested in the switch may have taken a request for `domain` with it.
        self.catch_up(state, domain);
        // Requests issued meanwhile, or waiting for a member without a published generation, have
        // got no answer until here, and no interrupt will follow.
        self.wakers_due()
    }

    /// Leaves the active address space for the kernel's own page tables.
    ///
    /// `switch` loads the tables as told by its argument, and is not called if no domain is active.
    /// The function ends laziness before calling `switch`. The result is as for
    /// [`Shootdown::activate`].
    ///
    /// # Safety
    ///
    /// - `switch` leaves nothing of the active domain's page tables in use, nor, unless the
    ///   [`RootLoad`] names an ASID, in the TLB.
    /// - The function is not called from a context that interrupted another call of this queue on
    ///   the same CPU.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::{CpuState, SwitchFlushed};
    ///
    /// # static BOOT_CPU: CpuState = CpuState::new();
    /// # QUEUE.place(pin.cpu(), &BOOT_CPU).unwrap();
    /// # QUEUE.cpu_online(&pin).unwrap();
    /// // SAFETY: the domain lives for ever; the closures would load page tables.
    /// unsafe {
    ///     QUEUE.activate(&pin, &SPACE, |_| SwitchFlushed::Yes);
    ///     QUEUE.deactivate(&pin, |_| SwitchFlushed::Yes);
    /// }
    /// assert!(SPACE.is_idle());
    /// ```
    pub unsafe fn deactivate(
        &self,
        pin: &CpuPin,
        switch: impl FnOnce(RootLoad) -> SwitchFlushed,
    ) -> WakersDue {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // First of all, as in `activate`.
        let due = self.leave_lazy(pin);
        let last = published.active.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `last` was active until here, so `activate`'s caller has kept it alive.
        let Some(last) = (unsafe { last.as_ref() }) else {
            return due;
        };
        let load = if self.tlb.features().asids() == 0 {
            RootLoad::Untagged
        } else {
            // Relaxed, as in `activate`.
            self.asids(pin).leave(Generation(published.space.load(Ordering::Relaxed)));
            // The root has the kernel's half alone, whose freed tables are flushed from all ASIDs.
            RootLoad::Keep(Asid::KERNEL)
        };
        if switch(load) == SwitchFlushed::No && load == RootLoad::Untagged {
            state.counters.full_flushes.add(1);
            self.tlb.flush_non_global();
        }
        published.space.store(Generation::NONE.0, Ordering::Relaxed);
        // Release pairs with the Acquire in `is_idle` and `is_done_by`: our last use of the page
        // tables happened before.
        last.members.remove(pin.cpu(), Ordering::Release);
        self.wakers_due()
    }

    /// Makes this CPU lazy: invalidations of leaf entries no longer interrupt the CPU, in the
    /// address space or, with [`Lazy::Idle`], in any domain. Cost: a store.
    ///
    /// # Safety
    ///
    /// - Until a call of [`Shootdown::leave_lazy`], [`Shootdown::activate`] or
    ///   [`Shootdown::deactivate`] returns, or calls its closure, this CPU touches no address
    ///   excluded by `lazy`. An interrupt handler about to touch such an address calls `leave_lazy`
    ///   first, whatever it has interrupted.
    /// - A lazy CPU may only go from [`Lazy::Space`] to [`Lazy::Idle`].
    /// - The function is not called from a context that interrupted another call of this queue on
    ///   the same CPU.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Lazy, Shootdown, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    ///
    /// let pin = QUEUE.tlb().pin();
    /// # static STATE: topomem_shootdown::CpuState = topomem_shootdown::CpuState::new();
    /// QUEUE.place(pin.cpu(), &STATE)?;
    /// QUEUE.cpu_online(&pin)?;
    /// // SAFETY: the CPU halts, and touches no address with changing mappings.
    /// unsafe { QUEUE.enter_lazy(&pin, Lazy::Idle) };
    /// // ... halt until the next interrupt ...
    /// QUEUE.leave_lazy(&pin);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn enter_lazy(&self, pin: &CpuPin, lazy: Lazy) {
        self.state(pin.cpu()).set_lazy(lazy);
    }

    /// Ends [`Shootdown::enter_lazy`], and flushes if something was invalidated meanwhile.
    /// Afterwards the CPU may touch any address, even if the call has interrupted another such call
    /// or a switch.
    ///
    /// Returns whether a waker may have to be called ([`Shootdown::wake_completed`]): a request
    /// that skipped this CPU waits for the CPU again, from the end of laziness until the flush.
    ///
    /// Cost: a load if the CPU was not lazy, else a full barrier and a look at two generations.
    pub fn leave_lazy(&self, pin: &CpuPin) -> WakersDue {
        if !self.fault.cease_to_be_lazy(self, pin) {
            return WakersDue::No;
        }
        // Pairs with the senders' barrier: see the module's documentation.
        self.fault.join_barrier();
        self.catch_up_all(pin);
        // Last of all: a handler nested before, told to leave laziness, has caught up by itself.
        self.state(pin.cpu()).set_busy();
        self.wakers_due()
    }
}
