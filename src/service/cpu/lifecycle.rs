//! CPUs come online and go offline.

use core::fmt;

use topomem_percpu::{CpuPin, Unavailable};

use crate::Machine;
use crate::service::{MemoryService, stage};

/// The reason why a CPU did not come online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnlineError {
    /// Boot is not complete.
    NotBooted,
    /// The frame allocator refused the CPU.
    Frames(topomem_numa::frames::OnlineError),
    /// No memory for the CPU's area.
    OutOfMemory,
    /// The shootdown queue refused the CPU.
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

impl core::error::Error for OnlineError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            OnlineError::Frames(error) => Some(error),
            OnlineError::Shootdown(error) => Some(error),
            _ => None,
        }
    }
}

/// The reason why a CPU did not go offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OfflineError {
    /// The heap refused: the CPU never was online, or is inside the heap.
    Heap(Unavailable),
    /// The shootdown queue refused the CPU.
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

impl core::error::Error for OfflineError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            OfflineError::Shootdown(error) => Some(error),
            _ => None,
        }
    }
}

impl<P: Machine> MemoryService<P> {
    /// Brings the pinned CPU, not the boot CPU, online: its magazines, its objects, the kernel's
    /// page tables, a full flush. Only then do remote CPUs rely on the CPU's answers.
    ///
    /// # Safety
    ///
    /// The CPU runs on page tables with the kernel's mappings. It can be interrupted or polls, and
    /// no other context brings it up.
    ///
    /// # Errors
    ///
    /// The CPU is as before on an error:
    ///
    /// - [`OnlineError::NotBooted`] if boot is not complete.
    /// - [`OnlineError::Frames`] or [`OnlineError::Shootdown`] if the CPU is online already.
    /// - [`OnlineError::OutOfMemory`] if no memory for the CPU's area is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::OnlineError;
    ///
    /// // SAFETY: the CPU has the kernel's mappings. It is online already, so nothing happens.
    /// let again = unsafe { service.cpu_online(pin) };
    /// assert!(matches!(again, Err(OnlineError::Frames(_) | OnlineError::Shootdown(_))));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let kernel = self.kernel_core().filter(|_| self.reached(stage::READY));
        let kernel = kernel.ok_or(OnlineError::NotBooted)?;
        self.shootdown.check_online(pin).map_err(OnlineError::Shootdown)?;
        self.frames.cpu_online(pin).map_err(OnlineError::Frames)?;
        let placed = self.place_cpu(pin).and_then(|()| match self.heap() {
            Some(heap) => heap.heap().cpu_online(pin).map_err(|_| OnlineError::OutOfMemory),
            None => Ok(()),
        });
        if let Err(error) = placed {
            self.frames.cpu_offline(pin);
            return Err(error);
        }
        self.platform.load_root(kernel.table.root());
        // The CPU asks again for due wakers when it looks for work.
        self.shootdown.cpu_online(pin).map(drop).map_err(OnlineError::Shootdown)
    }

    /// Takes the pinned CPU offline: its cached objects and frames return to the allocators, and no
    /// context waits for the CPU any more.
    ///
    /// # Safety
    ///
    /// Until the CPU comes online again, it touches no address mapped by the service, and its page
    /// walker does not run ahead to one, since the CPU is not told of freed tables any more. The
    /// CPU is halted, or has loaded a root without the service's window.
    ///
    /// # Errors
    ///
    /// The CPU is as before on an error:
    ///
    /// - [`OfflineError::Heap`] if the CPU never was online in the heap, or is inside the heap.
    /// - [`OfflineError::Shootdown`] if the CPU is offline, or an address space is active on it.
    pub unsafe fn cpu_offline(&self, pin: &CpuPin) -> Result<(), OfflineError> {
        // Refusals come before changes.
        self.shootdown.check_offline(pin).map_err(OfflineError::Shootdown)?;
        if let Some(heap) = self.heap() {
            heap.heap().cpu_offline(pin).map_err(OfflineError::Heap)?;
        }
        self.frames.cpu_offline(pin);
        // SAFETY: the caller's promise.
        unsafe { self.shootdown.cpu_offline(pin) }.map_err(OfflineError::Shootdown)?;
        // The CPU's task may have been woken, and runs no more: another task does the work.
        self.task_wakers.note_any();
        Ok(())
    }
}
