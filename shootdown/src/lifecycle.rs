//! CPUs come and go.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{Ordering, fence};

use crate::{Fault, Generation, Shootdown, Tlb};

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
    /// [`Tlb::send_ipi`] or polls.
    ///
    /// # Errors
    ///
    /// [`OnlineError`], with nothing changed.
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let state = self.state(pin.cpu());
        // The CPU joins the kernel's domain as `activate` joins another.
        if !self.kernel.members.insert(pin.cpu(), Ordering::AcqRel) {
            return Err(OnlineError::AlreadyOnline);
        }
        // Pairs with the senders' barrier, as in switch.rs.
        fence(Ordering::SeqCst);
        // What was sent to this CPU as it went offline, and got lost, would else suppress every
        // further interrupt. AcqRel: as in the handler.
        state.mailbox.pending.swap(false, Ordering::AcqRel);
        self.asids(pin).forget();
        let newest = self.kernel.log.newest();
        state.counters.full_flushes.add(1);
        if !self.broken(Fault::OnlineWithoutFlush) {
            self.tlb.flush_all();
        }
        // Release: only now is the CPU's word worth something, with the flush before it.
        state.published.kernel.store(newest.0, Ordering::Release);
        // A handler that nested meanwhile found nothing published and left it to us.
        self.catch_up(state, &self.kernel);
        Ok(())
    }

    /// The pinned CPU takes no further part: every request that waits for it counts as done by
    /// it.
    ///
    /// # Errors
    ///
    /// [`OfflineError`], with nothing changed.
    ///
    /// # Safety
    ///
    /// Until [`Shootdown::cpu_online`], the CPU touches no address whose mapping may change, nor
    /// does its page walker run ahead to one: it is halted, or on page tables of its own.
    pub unsafe fn cpu_offline(&self, pin: &CpuPin) -> Result<(), OfflineError> {
        let state = self.state(pin.cpu());
        // Relaxed: this CPU wrote both.
        if !self.kernel.members.contains(pin.cpu(), Ordering::Relaxed) {
            return Err(OfflineError::NotOnline);
        }
        if !state.published.active.load(Ordering::Relaxed).is_null() {
            return Err(OfflineError::SpaceActive);
        }
        state.set_busy();
        // Before the CPU leaves: who sees it return sees that it has published nothing.
        state.published.kernel.store(Generation::NONE.0, Ordering::Relaxed);
        // Release pairs with the waiters' Acquire: our last use of a mapping happened before.
        self.kernel.members.remove(pin.cpu(), Ordering::Release);
        Ok(())
    }
}
