//! Waiting for CPUs: as a future (`completion`, `waiters`), on a halted CPU (`halt`), or not at all
//! (`deferred`).

pub(super) mod block;
pub(super) mod completion;
pub(super) mod deferred;
pub(super) mod halt;
pub(super) mod waiters;
