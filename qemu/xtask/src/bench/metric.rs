//! What the guests of a boot count.

use crate::cli::{Accelerator, EmulationOptions};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Instructions, exactly, on one host thread: CPUs that wait for each other count that too.
    Instructions,
    /// Microseconds, and interrupts between CPUs.
    Time,
}

impl Metric {
    /// How a machine is emulated that counts this.
    pub(crate) fn emulation(self) -> EmulationOptions {
        EmulationOptions { gdb: false, icount: self == Self::Instructions, accel: Accelerator::Tcg }
    }
}
