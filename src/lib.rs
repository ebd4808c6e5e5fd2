//! topomem: an async, per-CPU, NUMA-aware memory service for SMP kernels.
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod page_table;
#[cfg(feature = "sim")]
pub mod sim;
