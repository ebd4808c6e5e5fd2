//! What every CPU of an SMP kernel needs for itself: dense CPU ids and sets, the proof of
//! being pinned to a CPU, CPU-local cells, and (above them) magazines, depots and a slab heap.
//!
//! The crate stands alone: a kernel that wants only the heap, or only CPU-local cells, needs
//! nothing else of topomem.
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
extern crate self as topomem_percpu;
#[cfg(test)]
extern crate std;

mod cpu;
mod cpu_set;
mod depot;
mod heap;
mod local;
mod magazine;
mod node;
mod order;
mod page_source;
mod platform;
mod slab;
pub mod sync;
mod try_lock;

pub use cpu::{CpuId, MAX_CPUS};
pub use cpu_set::{AtomicCpuSet, CpuSet};
pub use heap::{AllocError, ClassStats, Corruption, CpuHeapStats, Heap, InvalidFree, LargeStats};
pub use local::{CpuLocal, Slot, Unavailable};
pub use node::{MAX_NODES, NodeId};
pub use order::Order;
pub use page_source::{OutOfMemory, PageSource};
pub use platform::{CpuPin, PinGuard, Platform};
pub use slab::{CLASS_COUNT, MAX_CLASS_SIZE, SizeClass};
