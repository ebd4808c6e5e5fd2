//! What is counted.

use std::ops::{AddAssign, Sub};

/// Events of one CPU, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Frames allocated and frames freed.
    pub(super) operations: u64,
    /// Locks taken.
    pub(super) locks: u64,
    /// Locks that were another's when they were first tried.
    pub(super) contended: u64,
    /// Compare-and-swaps that failed, those on lock words included.
    pub(super) retries: u64,
    /// Atomic read-modify-writes.
    pub(super) modifications: u64,
    /// Accesses that had to wait for another CPU's cache.
    pub(super) transfers: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.operations += other.operations;
        self.locks += other.locks;
        self.contended += other.contended;
        self.retries += other.retries;
        self.modifications += other.modifications;
        self.transfers += other.transfers;
    }
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, earlier: Counts) -> Counts {
        Counts {
            operations: self.operations - earlier.operations,
            locks: self.locks - earlier.locks,
            contended: self.contended - earlier.contended,
            retries: self.retries - earlier.retries,
            modifications: self.modifications - earlier.modifications,
            transfers: self.transfers - earlier.transfers,
        }
    }
}
