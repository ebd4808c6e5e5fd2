//! What the calling CPU does with its magazine: hits of runs, frees of blocks, drains, hot-plug.

mod checked;
pub(super) mod cpu_hotplug;
mod huge;
pub(super) mod runs;
