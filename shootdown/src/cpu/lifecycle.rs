//! CPUs come online and go offline.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};

use crate::{Generation, Shootdown, Tlb, WakersDue};

/// The reason why a CPU cannot come online.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OnlineError {
    /// The CPU is online already.
    AlreadyOnline,
    /// The CPU has no state: see [`Shootdown::place`].
    NotPlaced,
}

/// The reason why a CPU cannot go offline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OfflineError {
    /// The CPU isn't online.
    NotOnline,
    /// An address space is active on the CPU: deactivate the space first.
    SpaceActive,
}

impl fmt::Display for OnlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnlineError::AlreadyOnline => "the CPU is online already",
            OnlineError::NotPlaced => "the CPU has no state in the shootdown queue",
        })
    }
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OfflineError::NotOnline => "the CPU is not online",
            OfflineError::SpaceActive => "an address space is active on the CPU",
        })
    }
}

impl core::error::Error for OnlineError {}
impl core::error::Error for OfflineError {}

impl<T: Tlb> Shootdown<T> {
    /// Brings the pinned CPU online: flushes everything, and makes the CPU a user of the kernel's
    /// mappings before the flush. The CPU is not lazy afterwards.
    ///
    /// Each CPU, the boot CPU included, calls the function before touching a kernel address with
    /// changing mappings, and after [`Tlb::send_ipi`] can interrupt the CPU or the CPU polls.
    ///
    /// Returns whether a waker may have to be called ([`Shootdown::wake_completed`]): requests of
    /// remote CPUs may complete in the call.
    ///
    /// # Errors
    ///
    /// Returns [`OnlineError::AlreadyOnline`] if the CPU is online, and [`OnlineError::NotPlaced`] if the CPU has
    /// no state. Nothing has changed then.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{CpuState, OnlineError, Shootdown, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    ///
    /// static STATE: CpuState = CpuState::new();
    ///
    /// let pin = QUEUE.tlb().pin();
    /// assert_eq!(QUEUE.cpu_online(&pin), Err(OnlineError::NotPlaced));
    /// QUEUE.place(pin.cpu(), &STATE)?;
    /// QUEUE.cpu_online(&pin)?;
    /// assert_eq!(QUEUE.cpu_online(&pin), Err(OnlineError::AlreadyOnline));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<WakersDue, OnlineError> {
        self.check_online(pin)?;
        if !self.is_placed(pin.cpu()) {
            return Err(OnlineError::NotPlaced);
        }
        let state = self.state(pin.cpu());
        self.asids(pin).forget();
        // The CPU may have been lazy while offline. The flush below makes up for skipped
        // invalidations.
        state.set_busy();
        // The CPU joins the kernel's domain as `activate` joins a space's. From here on, handlers
        // nested in this context serve the domain (`catch_up_all`), and may publish before this
        // context does.
        self.kernel.members.insert(pin.cpu(), Ordering::AcqRel);
        // Pairs with the senders' barrier, as in switch.rs.
        fence(Ordering::SeqCst);
        // A request sent as the CPU went offline, and lost, would suppress every further interrupt.
        // AcqRel, as in the handler.
        state.mailbox.pending.swap(false, Ordering::AcqRel);
        let newest = self.kernel.log.newest();
        state.counters.full_flushes.add(1);
        self.fault.flush_online(|| self.tlb.flush_all());
        // Release pairs with the waiters' Acquire in `satisfies`: only now does the CPU's word
        // count, with the flush before it. A maximum, since nested handlers may have published: see
        // above.
        state.published.kernel.fetch_max(newest.0, Ordering::Release);
        self.catch_up(state, &self.kernel);
        // Requests issued before the flush had their interrupt suppressed, or served too early.
        Ok(self.wakers_due())
    }

    /// Checks whether [`Shootdown::cpu_online`] would succeed on the pinned CPU once the CPU has its state.
    ///
    /// # Errors
    ///
    /// Returns [`OnlineError::AlreadyOnline`] if the CPU is online.
    pub fn check_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        // Relaxed: only this CPU writes its membership.
        let is_member = self.kernel.members.contains(pin.cpu(), Ordering::Relaxed);
        if is_member { Err(OnlineError::AlreadyOnline) } else { Ok(()) }
    }

    /// Checks whether [`Shootdown::cpu_offline`] would succeed on the pinned CPU.
    ///
    /// # Errors
    ///
    /// Returns [`OfflineError::NotOnline`] if the CPU is offline, or [`OfflineError::SpaceActive`]
    /// if an address space is active on the CPU.
    pub fn check_offline(&self, pin: &CpuPin) -> Result<(), OfflineError> {
        // Relaxed: this CPU wrote both words.
        if !self.kernel.members.contains(pin.cpu(), Ordering::Relaxed) {
            return Err(OfflineError::NotOnline);
        }
        if !self.state(pin.cpu()).published.active.load(Ordering::Relaxed).is_null() {
            return Err(OfflineError::SpaceActive);
        }
        Ok(())
    }

    /// Takes the pinned CPU offline: the CPU's part of every request counts as done.
    ///
    /// Returns whether a waker may have to be called ([`Shootdown::wake_completed`]): interrupts on
    /// their way to this CPU may be lost.
    ///
    /// # Errors
    ///
    /// Returns [`OfflineError::NotOnline`] if the CPU is offline, or [`OfflineError::SpaceActive`]
    /// if an address space is active on the CPU. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// - From the return of the function until [`Shootdown::cpu_online`], the CPU touches no
    ///   address with changing mappings, and its page walker runs ahead to none: the CPU is halted,
    ///   or uses page tables of its own. No handler touching such an address interrupts the call.
    /// - The function is not called from a context that interrupted another call of this queue on
    ///   the same CPU.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{OfflineError, Shootdown, Tlb};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    ///
    /// let pin = QUEUE.tlb().pin();
    /// // SAFETY: the CPU touches no address with changing mappings.
    /// assert_eq!(unsafe { QUEUE.cpu_offline(&pin) }, Err(OfflineError::NotOnline));
    /// ```
    pub unsafe fn cpu_offline(&self, pin: &CpuPin) -> Result<WakersDue, OfflineError> {
        self.check_offline(pin)?;
        let state = self.state(pin.cpu());
        // Until the CPU has left the domain, its code and its handlers use the kernel's
        // translations.
        let _ = self.leave_lazy(pin);
        // Release pairs with the waiters' Acquire in `is_done_by`: our last use of a mapping
        // happened before.
        self.kernel.members.remove(pin.cpu(), Ordering::Release);
        // After the departure, or a nested handler would publish again (`catch_up_all`); and before
        // the return to the domain: the Release of joining pairs with the waiters' Acquire, so a
        // waiter seeing the CPU back sees no published generation.
        state.published.kernel.store(Generation::NONE.0, Ordering::Relaxed);
        Ok(self.wakers_due())
    }
}
