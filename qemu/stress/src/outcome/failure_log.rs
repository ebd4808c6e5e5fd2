//! The failures of a run.

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::Failure;

/// How many failures a run keeps: the first ones tell most.
pub const KEPT: usize = 16;

/// The failures of a run, as any CPU adds to them.
#[derive(Debug, Default)]
pub struct FailureLog(Mutex<ArrayVec<Failure, KEPT>>);

impl FailureLog {
    /// Adds `failure`, unless there are [`KEPT`] already.
    pub fn add(&self, failure: Failure) {
        // The log is full: the run is over anyway.
        let _ = self.0.lock().try_push(failure);
    }

    /// Nothing has gone wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// What has gone wrong so far, in the order in which it was seen.
    pub fn failures(&self) -> ArrayVec<Failure, KEPT> {
        self.0.lock().clone()
    }
}
