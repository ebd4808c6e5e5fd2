//! The commands that run scenarios: on one machine, on many, and on simulated machines.

pub(super) mod boot;
pub(super) mod kernel;
pub(super) mod matrix;
pub(super) mod sim;
