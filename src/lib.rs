//! topomem: an async, per-CPU, NUMA-aware memory service for SMP kernels.
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod address_space;
mod heap;
mod machine;
pub mod page_table;
mod retire;
mod service;
#[cfg(feature = "sim")]
pub mod sim;
mod spin_lock;

pub use topomem_numa as numa;
pub use topomem_numa::frames;
pub use topomem_percpu as percpu;
pub use topomem_shootdown as shootdown;

pub use address_space::{
    AddressSpace, Batch, MapError, ProtectError, Translation, UnmapError, Unmapped, Unmapping,
};
pub use heap::{FrameSource, KernelHeap};
pub use machine::Machine;
pub use page_table::{Access, Cache, Privilege, Protection, WriteExecute, X64};
pub use service::{
    Boot, BootError, CpuStats, Discovered, KernelLayout, MemoryService, OfflineError, OnlineError,
    ServiceTask, Tended, WithFrames, WithHeap,
};
pub use topomem_numa::frames::{FrameRequest, Frames, FramesConfig, PerFrameTable, Policy};
pub use topomem_numa::{ApicId, BootAllocator, FirmwareTables, MemoryMap, MemoryRange, Topology};
pub use topomem_percpu::{CpuId, CpuPin, CpuSet, NodeId, Order, PinGuard, Platform};
pub use topomem_shootdown::{
    Domain, Lazy, PageRange, PageSize, SwitchFlushed, Ticks, Tlb, VirtAddr, WakersDue,
};
