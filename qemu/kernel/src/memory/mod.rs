//! Memory, from the firmware's words to topomem's service.

pub mod bring_up;
pub mod firmware;
pub mod map;
pub mod platform;
pub mod service;
