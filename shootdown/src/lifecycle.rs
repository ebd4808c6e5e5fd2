//! CPUs come and go.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};

use crate::{Fault, Generation, Shootdown, Tlb, WakersDue};

/// Why a CPU cannot go online.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnlineError {
    /// It is online already.
    AlreadyOnline,
}

/// Why a CPU cannot go offline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfflineError {
    /// It isn't online.
    NotOnline,
    /// An address space is active on it: deactivate first.
    SpaceActive,
}

impl fmt::Display for OnlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the CPU is online already")
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
    /// The pinned CPU takes part from here on: flushes everything, and counts as a user of the
    /// kernel's mappings from before that. Called by each CPU, the booting one included, before
    /// it touches a kernel address whose mapping may change, and once it can be interrupted by
    /// [`Tlb::send_ipi`] or polls. The CPU is not lazy.
    ///
    /// Requests of other CPUs may complete in it: the answer says whether a waker may have to be
    /// called for that ([`Shootdown::wake_completed`]).
    ///
    /// # Errors
    ///
    /// [`OnlineError`], with nothing changed.
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<WakersDue, OnlineError> {
        self.check_online(pin)?;
        let state = self.state(pin.cpu());
        self.asids(pin).forget();
        // It may have been lazy while it was offline. What it missed, it flushes below.
        state.set_busy();
        // The CPU joins the kernel's domain as `activate` joins another. From here on handlers that
        // nest in us serve it (`catch_up_all`), and may publish before we do.
        self.kernel.members.insert(pin.cpu(), Ordering::AcqRel);
        // Pairs with the senders' barrier, as in switch.rs.
        fence(Ordering::SeqCst);
        // What was sent to this CPU as it went offline, and got lost, would else suppress every
        // further interrupt. AcqRel: as in the handler.
        state.mailbox.pending.swap(false, Ordering::AcqRel);
        let newest = self.kernel.log.newest();
        state.counters.full_flushes.add(1);
        if !self.broken(Fault::OnlineWithoutFlush) {
            self.tlb.flush_all();
        }
        // Release: only now is the CPU's word worth something, with the flush before it. A maximum:
        // see above.
        state.published.kernel.fetch_max(newest.0, Ordering::Release);
        self.catch_up(state, &self.kernel);
        // Who asked us before the flush had its interrupt suppressed, or served too early.
        Ok(self.wakers_due())
    }

    /// Would [`Shootdown::cpu_online`] refuse the pinned CPU?
    ///
    /// # Errors
    ///
    /// Why it would.
    pub fn check_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        // Relaxed: only this CPU writes its membership.
        let is_member = self.kernel.members.contains(pin.cpu(), Ordering::Relaxed);
        if is_member { Err(OnlineError::AlreadyOnline) } else { Ok(()) }
    }

    /// Would [`Shootdown::cpu_offline`] refuse the pinned CPU?
    ///
    /// # Errors
    ///
    /// Why it would.
    pub fn check_offline(&self, pin: &CpuPin) -> Result<(), OfflineError> {
        // Relaxed: this CPU wrote both.
        if !self.kernel.members.contains(pin.cpu(), Ordering::Relaxed) {
            return Err(OfflineError::NotOnline);
        }
        if !self.state(pin.cpu()).published.active.load(Ordering::Relaxed).is_null() {
            return Err(OfflineError::SpaceActive);
        }
        Ok(())
    }

    /// The pinned CPU takes no further part: every request that waits for it counts as done by
    /// it. The answer says whether a waker may have to be called for that
    /// ([`Shootdown::wake_completed`]): interrupts that were on their way to this CPU may be lost.
    ///
    /// # Errors
    ///
    /// [`OfflineError`], with nothing changed.
    ///
    /// # Safety
    ///
    /// - From when this returns until [`Shootdown::cpu_online`], the CPU touches no address whose
    ///   mapping may change, nor does its page walker run ahead to one: it is halted, or on page
    ///   tables of its own. No handler that touches such an address interrupts this call.
    /// - It is not called from a context that interrupted another call of this queue on the same
    ///   CPU.
    pub unsafe fn cpu_offline(&self, pin: &CpuPin) -> Result<WakersDue, OfflineError> {
        self.check_offline(pin)?;
        let state = self.state(pin.cpu());
        // Until we have left, this CPU's code and its handlers use the kernel's translations.
        let _ = self.leave_lazy(pin);
        // Release pairs with the waiters' Acquire: our last use of a mapping happened before.
        self.kernel.members.remove(pin.cpu(), Ordering::Release);
        // After the CPU has left, or a handler that nests would publish again (`catch_up_all`); and
        // before it returns: the Release with which it joins pairs with the waiters' Acquire, so who
        // sees it return sees that it has published nothing.
        state.published.kernel.store(Generation::NONE.0, Ordering::Relaxed);
        Ok(self.wakers_due())
    }
}
