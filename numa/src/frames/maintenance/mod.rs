//! Work beside allocations and frees: reclaim under pressure, retirement of bad frames, the pools filled.

pub(super) mod reclaim;
pub(super) mod retire;
mod zeroed;
