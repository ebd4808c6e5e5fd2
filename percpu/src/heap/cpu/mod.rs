//! What a CPU keeps for itself: magazines of objects, freed runs of pages; and its coming and going.

pub(in crate::heap) mod area;
pub(in crate::heap) mod cache;
mod class_cache;
mod hotplug;
pub(in crate::heap) mod run_cache;
