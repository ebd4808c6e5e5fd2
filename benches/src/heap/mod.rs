//! The heap beside its peers: times, instructions, and memory held.
//!
//! Each sample is taken in a process of its own, so that every allocator is fresh, and none is disturbed by
//! what another one mapped, cached or left to a thread of its own.

mod across;
pub mod arena;
mod cases;
mod churn;
mod counted;
mod held;
mod locked;
pub(crate) mod pages;
mod pairs;
#[cfg(topomem_peers)]
mod peers;
mod subject;
mod suite;
mod topomem;
mod work;

pub use suite::{run, run_counted, run_held, run_sample};
