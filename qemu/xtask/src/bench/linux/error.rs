//! What can go wrong between Linux's boot and its results.

use std::fmt;

use crate::run::record::Failure;
use crate::run::session::Ended;

/// Why Linux could not be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinuxError {
    /// It ended, or was ended, before its last record; with the last lines of its console and what QEMU said.
    Broken { ended: Ended, console: Vec<String> },
    /// The program in the guest could not measure.
    Program(Failure),
    /// A record that can't be read, or that this program doesn't send.
    Malformed { line: String, reason: String },
    /// It came up with fewer CPUs than the machine has.
    Cpus { there: u32, online: u32 },
    /// It ended well, without results.
    Nothing,
}

impl fmt::Display for LinuxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { ended, console } => {
                f.write_str("Linux gave no results: ")?;
                match ended {
                    Ended::Exited(status) => write!(f, "QEMU ended with {status}")?,
                    Ended::Silent(limit) => write!(f, "nothing was said for {} s", limit.as_secs())?,
                    Ended::Overran(limit) => write!(f, "no end after {} s", limit.as_secs())?,
                }
                console.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Program(Failure { what, place }) => write!(f, "{place}: {what}"),
            Self::Malformed { line, reason } => write!(f, "Linux sent {line:?}: {reason}"),
            Self::Cpus { there, online } => {
                write!(f, "the machine has {there} CPUs, but Linux measured on {online}")
            }
            Self::Nothing => f.write_str("Linux ended without a result"),
        }
    }
}
