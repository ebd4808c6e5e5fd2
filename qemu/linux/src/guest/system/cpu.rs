//! CPUs, and staying on one.

use std::fmt;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::guest::error::GuestError;

/// A CPU as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuNumber(usize);

impl CpuNumber {
    /// The CPU that the machine booted on.
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) const fn new(number: usize) -> Self {
        Self(number)
    }
}

impl fmt::Display for CpuNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The CPUs that the calling thread may run on: before it is pinned, all that are online.
pub(crate) fn allowed() -> Result<Vec<CpuNumber>, GuestError> {
    let set = sched_getaffinity(None).map_err(GuestError::Cpus)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(CpuNumber).collect())
}

/// Keeps the calling thread on `cpu` from now on.
pub(crate) fn pin(cpu: CpuNumber) -> Result<(), GuestError> {
    let mut set = CpuSet::new();
    set.set(cpu.0);
    sched_setaffinity(None, &set).map_err(|error| GuestError::Pin { cpu, error })
}
