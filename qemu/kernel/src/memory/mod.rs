//! Memory, from the firmware's words to topomem's service.

pub mod bring_up;
#[cfg(feature = "hardening")]
pub mod callers;
#[cfg(feature = "fault-injection")]
pub mod distort;
pub mod firmware;
pub mod platform;
pub mod service;
