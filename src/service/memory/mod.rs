//! The memory that the service holds itself: the holders of each frame, the frames of page tables,
//! and the search for more when memory is short.

pub(super) mod allocate;
pub(crate) mod frame_memory;
pub(super) mod meminfo;
pub(super) mod pressure;
pub(super) mod reclaim;
pub(super) mod references;
pub(crate) mod shares;
pub(super) mod wait;
