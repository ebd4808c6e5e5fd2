//! Memory, from the firmware's words to topomem's service.

pub(crate) mod bring_up;
#[cfg(feature = "hardening")]
pub(crate) mod callers;
#[cfg(feature = "fault-injection")]
pub(crate) mod distort;
pub(crate) mod firmware;
pub(crate) mod platform;
pub(crate) mod service;
