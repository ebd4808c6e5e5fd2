//! The memory kept by a CPU: magazines of objects, freed runs of pages; CPUs coming online and going offline.

pub(in crate::heap) mod area;
pub(in crate::heap) mod cache;
mod class_cache;
mod hotplug;
pub(in crate::heap) mod run_cache;
