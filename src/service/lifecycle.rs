//! CPUs come and go.

use core::fmt;

use topomem_percpu::{CpuPin, Unavailable};

use super::{MemoryService, stage};
use crate::Machine;

/// Why a CPU did not come online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlineError {
    /// Boot is not complete.
    NotBooted,
    /// The frame allocator refused it.
    Frames(topomem_numa::frames::OnlineError),
    /// No memory for its area.
    OutOfMemory,
    /// The shootdown queue refused it.
    Shootdown(topomem_shootdown::OnlineError),
}

impl fmt::Display for OnlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnlineError::NotBooted => f.write_str("boot is not complete"),
            OnlineError::Frames(error) => error.fmt(f),
            OnlineError::OutOfMemory => f.write_str("no memory for the CPU's area"),
            OnlineError::Shootdown(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OnlineError {}

/// Why a CPU did not go offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfflineError {
    /// The heap refused it: the CPU never was online, or is inside the heap.
    Heap(Unavailable),
    /// The shootdown queue refused it.
    Shootdown(topomem_shootdown::OfflineError),
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OfflineError::Heap(why) => write!(f, "the CPU's part of the heap is unavailable: {why:?}"),
            OfflineError::Shootdown(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OfflineError {}

impl<P: Machine> MemoryService<P> {
    /// Brings the pinned CPU, not the boot CPU, online: its magazines, its objects, the kernel's
    /// page tables, a full flush; only then do others count on its answers.
    ///
    /// # Safety
    ///
    /// The CPU runs on page tables that map what the kernel's do, it can be interrupted or
    /// polls, and nobody else brings it up.
    ///
    /// # Errors
    ///
    /// [`OnlineError`]; the CPU is as before.
    pub unsafe fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let kernel = self.kernel_core().filter(|_| self.reached(stage::READY));
        let kernel = kernel.ok_or(OnlineError::NotBooted)?;
        self.shootdown.check_online(pin).map_err(OnlineError::Shootdown)?;
        self.frames.cpu_online(pin).map_err(OnlineError::Frames)?;
        if let Some(heap) = self.heap()
            && heap.heap().cpu_online(pin).is_err()
        {
            self.frames.cpu_offline(pin);
            return Err(OnlineError::OutOfMemory);
        }
        self.platform.load_root(kernel.table.root());
        // Whether wakers are due is asked again when the CPU looks for something to do.
        self.shootdown.cpu_online(pin).map(drop).map_err(OnlineError::Shootdown)
    }

    /// Takes the pinned CPU offline: its cached objects and frames go back, and nobody waits for
    /// it any more.
    ///
    /// # Safety
    ///
    /// Until it comes online again, the CPU touches no address that the service maps. Nor does its
    /// page walker ahead of it, which nobody tells of freed tables any more: the CPU is halted, or
    /// has loaded a root that does not lead to the service's window.
    ///
    /// # Errors
    ///
    /// [`OfflineError`]; the CPU is as before.
    pub unsafe fn cpu_offline(&self, pin: &CpuPin) -> Result<(), OfflineError> {
        // What can refuse comes before what changes something.
        self.shootdown.check_offline(pin).map_err(OfflineError::Shootdown)?;
        if let Some(heap) = self.heap() {
            heap.heap().cpu_offline(pin).map_err(OfflineError::Heap)?;
        }
        self.frames.cpu_offline(pin);
        // SAFETY: the caller's promise.
        unsafe { self.shootdown.cpu_offline(pin) }.map_err(OfflineError::Shootdown)?;
        // This CPU's task may have been woken, and runs no more: another does its work.
        self.task_wakers.note_any();
        Ok(())
    }
}
