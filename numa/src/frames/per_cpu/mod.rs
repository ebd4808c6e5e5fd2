//! Frames between the calling CPU's magazine and the regions: hits, refills, frames kept, flushes; hot-plug.

mod checked;
pub(super) mod cpu_hotplug;
mod flush;
mod keep;
mod refill;
mod runs;
mod withhold;
