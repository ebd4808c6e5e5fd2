//! Tables as frames: their entries, the direct map that they are reached by, and the regions that their mapped
//! pages belong to.

pub(super) mod memory;
pub(super) mod regions;
pub(super) mod table;
