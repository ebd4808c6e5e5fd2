//! Diagnosis: statistics, validation, the places of the bookkeeping, and faults to inject.

pub(super) mod bookkeeping;
mod collect;
#[cfg(feature = "fault-injection")]
pub(super) mod fault;
pub(super) mod validate;
mod validate_pools;
