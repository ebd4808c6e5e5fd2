//! What can go wrong in the guest.

use std::fmt;

use rustix::io::Errno;

use super::system::cpu::CpuNumber;
use super::system::interrupts::InterruptsError;
use super::system::traces::TracesError;
use crate::guest::request::RequestError;

/// Why there are no results.
#[derive(Debug)]
pub(crate) enum GuestError {
    Request(RequestError),
    /// A file system could not be mounted.
    Mount {
        target: &'static str,
        error: Errno,
    },
    /// The console could not be kept free of the kernel's own messages.
    Mute(std::io::Error),
    /// The CPUs could not be counted.
    Cpus(Errno),
    /// A thread could not be put on its CPU.
    Pin {
        cpu: CpuNumber,
        error: Errno,
    },
    /// A helper could not be started.
    Helper {
        cpu: CpuNumber,
        error: std::io::Error,
    },
    /// A system call about memory or processes failed.
    Call {
        call: &'static str,
        error: Errno,
    },
    /// A child process did not end as it should.
    Child,
    Interrupts(InterruptsError),
    Traces(TracesError),
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => write!(f, "{error}"),
            Self::Mount { target, error } => write!(f, "can't mount {target}: {error}"),
            Self::Mute(error) => write!(f, "can't quieten the kernel: {error}"),
            Self::Cpus(error) => write!(f, "can't count the CPUs: {error}"),
            Self::Pin { cpu, error } => write!(f, "can't run on CPU {cpu}: {error}"),
            Self::Helper { cpu, error } => write!(f, "can't start a thread for CPU {cpu}: {error}"),
            Self::Call { call, error } => write!(f, "{call} failed: {error}"),
            Self::Child => f.write_str("a child process did not end as it should"),
            Self::Interrupts(error) => write!(f, "{error}"),
            Self::Traces(error) => write!(f, "{error}"),
        }
    }
}

impl From<RequestError> for GuestError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<InterruptsError> for GuestError {
    fn from(error: InterruptsError) -> Self {
        Self::Interrupts(error)
    }
}

impl From<TracesError> for GuestError {
    fn from(error: TracesError) -> Self {
        Self::Traces(error)
    }
}
