//! Memory, from the firmware's words to topomem's service.

pub mod firmware;
pub mod map;
pub mod report;
