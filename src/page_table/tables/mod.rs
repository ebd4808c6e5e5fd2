//! Tables as frames: their entries, their direct map, and the regions of their mapped pages.

pub(super) mod memory;
pub(super) mod regions;
pub(super) mod table;
