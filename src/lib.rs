//! topomem: an async, per-CPU, NUMA-aware memory service for SMP kernels.
//!
//! A kernel supplies a zero-sized type implementing [`Platform`], [`Tlb`] and [`Machine`]: the
//! current CPU, the direct map, flushes and interrupts, and the loading of page tables. In return
//! the kernel gets NUMA topology from firmware's tables, a frame allocator and a slab heap with
//! per-CPU magazines, page tables locked by 2 MiB, address spaces, and a lock-free TLB shootdown.
//! Every change of a page table returns a ticket ([`Unmapping`]). The ticket can be awaited,
//! blocked on or left to the service task, and owns the frames until no CPU can reach them.
//!
//! ```
//! use topomem::sim::Sim;
//! use topomem::{CpuId, FrameRequest, PageRange, PageSize, Protection, VirtAddr};
//!
//! let sim = Sim::builder().cpus(2).memory(64 << 20).build()?; // in place of a kernel's machine
//! let service = sim.boot_service()?;
//! sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
//!     let space = service.create_space(pin)?;
//!     let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
//!     space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
//!     space.unmap(pin, page)?.wait(pin); // the frame is free, and no CPU can reach it
//!     Ok(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Wiring
//!
//! The README shows the whole wiring, and is compiled with the documentation's tests. Its names come
//! from the [`prelude`].
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

/// Keeps the code of the README and of the guide compiling.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/src/getting-started.md")]
    struct GettingStarted;
}

pub mod address_space;
mod budget;
mod fault;
mod heap;
mod machine;
pub mod object;
pub mod page_table;
pub mod ranges;
pub mod region;
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
    AddressSpace, Batch, Callback, Closing, CreateError, MapError, PromoteError, ProtectError, RemapError,
    ShareError, SpaceKind, TableDump, Translation, UnmapError, Unmapped, Unmapping, WritableCode,
};
#[cfg(feature = "x86_64")]
pub use address_space::{FlagsError, Refusal, SpaceMapper};
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use heap::{KernelHeap, ServicePages};
pub use machine::Machine;
pub use page_table::{
    Access, Cache, Leaf, LockCounters, PagingFeatures, Privilege, Protection, WriteExecute, X64,
};
pub use ranges::{
    Flushed, KernelRange, KernelRanges, RangeCorruption, RangeError, RangeRequest, RangesConfig, RangesError,
    RangesStats,
};
pub use region::{
    AssignError, CollapseError, CopyRangeError, FaultError, ForkError, HugePages, MadviseError, MapRequest,
    MappedObject, Maps, MmapError, MoveError, MovedPages, MprotectError, MremapError, MunmapError, NodePages,
    NumaMaps, ObjectPart, PageFault, RegionRange, Relocation, Resolved, Smaps, Usage,
};
pub use service::{
    Allocation, Boot, BootError, CpuStats, Discovered, KernelLayout, MemInfo, MemoryService, NumaStat,
    OfflineError, OnlineError, PendingWork, ServiceTask, WithFrames, WithHeap,
};
pub use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, FreeError, InitError, Obstacle, PerFrameTable, Policy,
};
pub use topomem_numa::{
    AddressBits, ApicId, BootAllocator, FirmwareTables, MemoryMap, MemoryRange, Topology,
};
pub use topomem_percpu::{
    CpuId, CpuPin, CpuSet, InvalidFree, NodeId, NotFrameAligned, Order, PhysAddr, PhysFrame, PinGuard,
    Platform,
};
pub use topomem_shootdown::{
    Asid, Domain, Lazy, PageRange, PageSize, RootLoad, Shootdown, SwitchFlushed, Ticks, Tlb, TlbFeatures,
    VirtAddr, WakersDue,
};

/// The names that the wiring of a kernel needs, for `use topomem::prelude::*`.
///
/// A name that the kernel has itself goes before a name of the prelude.
///
/// ```
/// use topomem::prelude::*;
///
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// assert_eq!(page.bytes(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub mod prelude {
    pub use topomem_numa::prelude::*;
    pub use topomem_shootdown::prelude::*;

    pub use crate::{
        AddressSpace, KernelHeap, KernelLayout, Machine, MemoryService, PagingFeatures, PerFrameTable,
        Protection, Unmapping, WakersDue, X64,
    };
}
