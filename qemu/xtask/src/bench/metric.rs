//! What the guests of a boot count.

use crate::cli::EmulationOptions;
use crate::machines::matrix::PLAIN_EMULATION;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Instructions, exactly, on one host thread: CPUs that wait for each other count that too.
    Instructions,
    /// Microseconds, and interrupts between CPUs.
    Time,
}

impl Metric {
    /// The word by which guests are asked for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Instructions => "metric=instructions",
            Self::Time => "metric=time",
        }
    }

    /// How a machine is emulated that counts this.
    pub(crate) fn emulation(self) -> EmulationOptions {
        EmulationOptions { icount: self == Self::Instructions, ..PLAIN_EMULATION }
    }
}
