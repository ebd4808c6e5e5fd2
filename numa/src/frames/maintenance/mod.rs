//! Work beside allocations and frees: reclaim under pressure, and retirement of bad frames.

pub(super) mod pressure;
pub(super) mod retire;
