//! Diagnosis: statistics, validation, the places of the bookkeeping.

pub(super) mod bookkeeping;
mod collect;
pub(super) mod validate;
mod validate_pools;
