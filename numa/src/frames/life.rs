//! CPUs coming and going, and draining.

use topomem_percpu::{CpuId, CpuPin, Platform};

use super::magazine::Magazine;
use super::{Frames, OnlineError};

impl<P: Platform> Frames<P> {
    /// Gives the pinned CPU its magazine. Until then it allocates on the shared path.
    ///
    /// # Errors
    /// [`OnlineError`].
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let machine = self.machine().ok_or(OnlineError::NotReady)?;
        let magazine = machine.magazine(pin.cpu()).ok_or(OnlineError::UnknownCpu(pin.cpu()))?;
        self.rack.install(magazine, machine.checked);
        Ok(())
    }

    /// Returns everything that the pinned CPU's magazine holds, and takes the magazine away; the
    /// CPU goes on on the shared path, and may come online again.
    ///
    /// Handlers that run meanwhile take the shared path, so nothing is left in the magazine. Called
    /// by a handler that interrupted a use of the magazine, it leaves the magazine where it is,
    /// asks it to drain, and returns [`Drained::Later`].
    pub fn cpu_offline(&self, pin: &CpuPin) -> Drained {
        let (Some(machine), Some(magazine)) = (self.machine(), self.rack.get(pin.cpu())) else {
            return Drained::Everything;
        };
        let Some(entered) = magazine.enter() else {
            magazine.request_drain();
            return Drained::Later;
        };
        self.empty(machine, &entered);
        self.rack.remove(pin.cpu());
        // Never open again, but by `cpu_online`.
        entered.close();
        Drained::Everything
    }

    /// Returns everything that the pinned CPU's magazine holds.
    ///
    /// Bound: 148 words of up to 64 frames, and 9 blocks.
    pub fn drain(&self, pin: &CpuPin) -> Drained {
        let (Some(machine), Some(magazine)) = (self.machine(), self.rack.get(pin.cpu())) else {
            return Drained::Everything;
        };
        match magazine.enter() {
            Some(entered) => {
                self.empty(machine, &entered);
                Drained::Everything
            }
            None => {
                magazine.request_drain();
                Drained::Later
            }
        }
    }

    /// Every 64th call, halves the pinned CPU's magazine where it took few frames from it since the
    /// last one that looked, and sends home what has no room then; and whole words that it holds where it
    /// took no run of these. For each round of a service task
    /// or idle loop: magazines grow by themselves.
    pub fn trim(&self, pin: &CpuPin) {
        if let (Some(machine), Some(magazine)) = (self.machine(), self.rack.get(pin.cpu()))
            && let Some(entered) = magazine.enter()
        {
            entered.trim(
                |entry| self.flush(machine, &entered, entry),
                |place| self.flush_words(machine, &entered, place),
            );
        }
    }

    /// Asks `cpu` to drain: at its next use, of any order, that is no quick hit, or its next
    /// [`Frames::service`].
    pub fn request_drain(&self, cpu: CpuId) {
        if let Some(magazine) = self.rack.get(cpu) {
            magazine.request_drain();
        }
    }

    /// Asks every CPU to drain.
    pub(super) fn drain_all(&self) {
        self.rack.iter().for_each(Magazine::request_drain);
    }

    /// Does what other CPUs asked of this one: two loads when there is nothing. For service
    /// tasks, idle loops and interrupt handlers.
    pub fn service(&self, pin: &CpuPin) {
        if self.rack.get(pin.cpu()).is_some_and(|magazine| magazine.wants_attention()) {
            self.drain(pin);
        }
    }
}

/// What [`Frames::drain`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The magazine is empty.
    Everything,
    /// The caller is nested in a context that uses the magazine, which drains at its next use
    /// that is no quick hit.
    Later,
}
