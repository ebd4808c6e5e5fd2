//! What the CPUs of a run with an unresponsive CPU share.

use core::sync::atomic::{AtomicU32, Ordering};

use topomem::CpuId;
use topomem::shootdown::Generation;

/// The service's report of a CPU that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The CPU.
    pub cpu: CpuId,
    /// What it has not acknowledged.
    pub generation: Generation,
    /// How long it had been waited for.
    pub milliseconds: u64,
}

/// How far the run is: each stage is entered by one CPU, and awaited by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Stage {
    /// The boot CPU has mapped a page.
    Mapped = 1,
    /// The last CPU has its translation, and answers no interrupt.
    Unresponsive,
    /// The last CPU has used the page for the last time, and answers again.
    Responsive,
}

/// The stage, and how often the boot CPU has looked whether it still has to wait.
#[derive(Debug, Default)]
pub(crate) struct UnresponsiveCpu {
    stage: AtomicU32,
    looks: AtomicU32,
}

impl UnresponsiveCpu {
    /// Enters `stage`.
    pub(crate) fn enter(&self, stage: Stage) {
        // Release pairs with the Acquire in `has`: what was done before is seen.
        self.stage.store(stage as u32, Ordering::Release);
    }

    /// Has `stage` been entered?
    pub(crate) fn has(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) >= stage as u32
    }

    /// The boot CPU has looked, and has to wait still.
    pub(crate) fn look(&self) {
        // Relaxed: a count orders nothing.
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has.
    pub(crate) fn looks(&self) -> u32 {
        self.looks.load(Ordering::Relaxed)
    }
}
