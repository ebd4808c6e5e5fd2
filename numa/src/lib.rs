//! From firmware tables to nodes to frames.
//!
//! - [`FirmwareTables`]: MADT, SRAT, SLIT, HMAT and CEDT as byte slices, parsed in place.
//! - [`Topology`]: nodes, CPUs, memory ranges, distances; one node if firmware describes none, or
//!   describes them wrongly.
//! - [`MemoryMap`] and [`BootAllocator`]: usable RAM less reserved regions, and the allocator used
//!   before the frame allocator. [`EarlyMemory`] is a place for the map and the topology.
//! - [`frames::Frames`]: the frame allocator.
//!
//! The crate stands alone and uses no heap.
#![no_std]

#[cfg(test)]
extern crate std;

/// Keeps the README's code compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cutter;
pub mod frames;
mod list;
mod memory;
pub mod tables;
mod topology;

/// The crate of the `AcpiHandler` that [`find_tables`] takes; [`DirectMap`] is one.
#[cfg(feature = "acpi")]
pub use acpi;
pub use memory::{
    AddressBits, BeyondAddressBits, BootAllocError, BootAllocator, Early, EarlyGuard, EarlyMemory,
    FRAME_SIZE, LOW_MEMORY, MapFull, MemoryMap, MemoryRange, Piece, Pieces, ReservedRegion, TableLevels,
};
pub use tables::{Diagnostic, FirmwareTables};
#[cfg(feature = "acpi")]
pub use tables::{DirectMap, FindTablesError, find_tables};
pub use topology::{
    ApicId, CacheAssociativity, CacheWritePolicy, CpuEntry, Distance, MegabytesPerSecond, MemoryKind,
    MemorySideCache, NodeRange, Picoseconds, Topology,
};
pub use topomem_percpu::{
    CpuId, CpuPin, CpuSet, MAX_CPUS, MAX_NODES, NodeId, Order, PhysAddr, PhysFrame, PinGuard, Platform, Saved,
};

/// The names that the wiring of a kernel needs, for `use topomem_numa::prelude::*`.
///
/// A name that the kernel has itself goes before a name of the prelude.
///
/// ```
/// use topomem_numa::prelude::*;
///
/// let mut map = MemoryMap::new();
/// map.add_usable(MemoryRange::from_bounds(0x10_0000, 0x400_0000))?;
/// # Ok::<(), topomem_numa::MapFull>(())
/// ```
pub mod prelude {
    pub use crate::frames::{FrameRequest, Frames, FramesConfig};
    pub use crate::{
        ApicId, BootAllocator, CpuId, CpuPin, CpuSet, EarlyMemory, FirmwareTables, MemoryMap, MemoryRange,
        NodeId, Order, PhysAddr, PhysFrame, PinGuard, Platform, Saved, TableLevels, Topology,
    };
    #[cfg(feature = "acpi")]
    pub use crate::{DirectMap, find_tables};
}
