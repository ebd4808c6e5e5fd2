//! The service on one CPU: its state, how it comes online and goes offline, and its counters.

pub(super) mod area;
pub(super) mod lifecycle;
pub(super) mod stats;
