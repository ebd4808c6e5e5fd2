//! The early allocator: serves boot before the frame allocator exists.

use core::fmt;

use topomem_percpu::{NodeId, PhysAddr, PhysFrame};

use super::{FRAME_SIZE, MapFull, MemoryMap, MemoryRange, Pieces, align_up};
use crate::Topology;

/// The name of the boot allocations in the map.
const NAME: &str = "boot allocations";
/// The name of the early frames in the map.
const EARLY_FRAMES: &str = "early frames";
/// The limit of ISA DMA: boot data avoids the scarce memory below it if there is other memory.
const DMA_END: PhysAddr = PhysAddr::new(16 << 20);
/// Devices with 32 address bits reach no higher: of a node's memory, boot data takes the part above first.
const DMA32_END: PhysAddr = PhysAddr::new(4 << 30);

/// An error of the boot allocator. The map is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootAllocError {
    /// `align` is not a power of two.
    Alignment {
        /// The requested alignment.
        align: u64,
    },
    /// The request is for zero bytes.
    Empty,
    /// No node has that much free memory in one piece below the limit.
    Exhausted {
        /// The preferred node.
        node: NodeId,
        /// The requested bytes.
        bytes: u64,
        /// The requested alignment.
        align: u64,
    },
    /// The map has no room to record the allocation.
    MapFull(MapFull),
}

impl fmt::Display for BootAllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootAllocError::Alignment { align } => write!(f, "alignment {align} is not a power of two"),
            BootAllocError::Empty => f.write_str("no bytes asked for"),
            BootAllocError::Exhausted { node, bytes, align } => {
                write!(f, "no {bytes} bytes aligned to {align} for {node} on any node")
            }
            BootAllocError::MapFull(full) => full.fmt(f),
        }
    }
}

impl core::error::Error for BootAllocError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            BootAllocError::MapFull(full) => Some(full),
            _ => None,
        }
    }
}

/// Hands out whole frames of the map, on the wanted node or the nearest that has room, and notes them in the
/// map as the region "boot allocations". [`BootAllocator::early_frame`] hands out frames that the frame allocator takes
/// over.
///
/// It is the only way to the map while it lives, so nobody sees memory as free that it gave away;
/// [`BootAllocator::finish`] ends it and gives back the map for the frame allocator. There is no
/// way to free before that. On each node it uses memory above 4 GiB before other memory, since some devices reach only
/// that, and the lowest of either first. Memory below 16 MiB is used last, the first 1 MiB never.
///
/// ```
/// use topomem_numa::{BootAllocator, MemoryMap, MemoryRange, NodeId, Topology};
///
/// let topology = Topology::new();
/// let mut map = MemoryMap::new();
/// map.add_usable(MemoryRange::from_bounds(0x10_0000, 0x400_0000).unwrap())?;
/// let mut boot = BootAllocator::new(&mut map, &topology);
/// let table = boot.alloc(100, 8, NodeId::ZERO)?;
/// assert_eq!(table.as_u64(), 0x100_0000);
/// let map = boot.finish();
/// assert!(map.pieces(&topology).all(|piece| !piece.range.contains(table)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BootAllocator<'a> {
    map: &'a mut MemoryMap,
    topology: &'a Topology,
}

impl<'a> BootAllocator<'a> {
    /// Creates an allocator over the free memory of `map`.
    pub fn new(map: &'a mut MemoryMap, topology: &'a Topology) -> BootAllocator<'a> {
        BootAllocator { map, topology }
    }

    /// Allocates at least `bytes` bytes, in whole frames, at a multiple of `align` (at least 4096),
    /// on `node` or else the nearest node with room. The memory is not cleared.
    ///
    /// Cost: quadratic in the ranges of map and topology; meant for tens of calls at boot.
    ///
    /// # Errors
    ///
    /// After an error the map is unchanged.
    ///
    /// - [`BootAllocError::Alignment`] if `align` is not a power of two.
    /// - [`BootAllocError::Empty`] if `bytes` is 0.
    /// - [`BootAllocError::Exhausted`] if no node has that much free memory in one piece.
    /// - [`BootAllocError::MapFull`] if the map has no room to record the allocation.
    ///
    /// ```
    /// use topomem_numa::{BootAllocError, BootAllocator, MemoryMap, NodeId, Topology};
    ///
    /// let (mut map, topology) = (MemoryMap::new(), Topology::new()); // no memory
    /// let none = BootAllocator::new(&mut map, &topology).alloc(4096, 4096, NodeId::ZERO);
    /// assert!(matches!(none, Err(BootAllocError::Exhausted { .. })));
    /// ```
    pub fn alloc(&mut self, bytes: u64, align: u64, node: NodeId) -> Result<PhysAddr, BootAllocError> {
        self.alloc_below(bytes, align, node, MemoryRange::EVERYTHING.end)
    }

    /// Allocates as [`BootAllocator::alloc`] does, with every byte below `limit`: for early page
    /// tables, or devices with few address bits.
    ///
    /// # Errors
    ///
    /// As for [`BootAllocator::alloc`], with memory below `limit` only.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::{BootAllocator, MemoryMap, MemoryRange, NodeId, Topology};
    /// # use topomem_percpu::PhysAddr;
    /// let topology = Topology::new();
    /// let mut map = MemoryMap::new();
    /// map.add_usable(MemoryRange::from_bounds(0x10_0000, 0x400_0000).unwrap())?;
    /// let mut boot = BootAllocator::new(&mut map, &topology);
    /// let limit = PhysAddr::new(0x80_0000);
    /// assert!(boot.alloc_below(4096, 4096, NodeId::ZERO, limit)? < limit);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alloc_below(
        &mut self,
        bytes: u64,
        align: u64,
        node: NodeId,
        limit: PhysAddr,
    ) -> Result<PhysAddr, BootAllocError> {
        self.take(bytes, align, node, limit, NAME)
    }

    /// Allocates an early frame: one that the frame allocator takes over as allocated, so that
    /// [`Frames::free`](crate::frames::Frames::free) with [`Order::FRAME`](crate::Order::FRAME) frees it. It is on node
    /// 0 as the topology is now, before [`Topology::discover`] as after it. The memory is not cleared.
    ///
    /// Cost: linear in the ranges of map and topology.
    ///
    /// # Errors
    ///
    /// As for [`BootAllocator::alloc`].
    ///
    /// # Examples
    ///
    /// ```
    /// use topomem_numa::{BootAllocator, MemoryMap, MemoryRange, Topology};
    ///
    /// let mut topology = Topology::new();
    /// let mut map = MemoryMap::new();
    /// map.add_usable(MemoryRange::from_bounds(0x10_0000, 0x400_0000))?;
    /// // A page table, say. The boot allocator borrows the topology for this call only.
    /// let table = BootAllocator::new(&mut map, &topology).early_frame()?;
    /// # let tables = topomem_numa::FirmwareTables::default();
    /// # let boot_cpu = topomem_numa::ApicId(0);
    /// topology.discover(&tables, boot_cpu, &mut |diagnostic| println!("{diagnostic}"));
    /// // `Frames::init(&mut BootAllocator::new(&mut map, &topology), ...)` has the frame as allocated.
    /// # let _ = table;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn early_frame(&mut self) -> Result<PhysFrame, BootAllocError> {
        let limit = MemoryRange::EVERYTHING.end;
        let start = self.take(FRAME_SIZE, FRAME_SIZE, NodeId::ZERO, limit, EARLY_FRAMES)?;
        Ok(PhysFrame::containing_address(start))
    }

    /// Returns the early frames, by address, in ranges.
    pub fn early_frames(&self) -> impl Iterator<Item = MemoryRange> {
        self.map.reserved().filter(|region| region.name == EARLY_FRAMES).map(|region| region.range)
    }

    /// Returns the memory of the frame allocator to be: the free memory, and the early frames.
    pub(crate) fn memory(&self) -> Pieces<'_> {
        Pieces::but(self.map, self.topology, EARLY_FRAMES)
    }

    /// Allocates as [`BootAllocator::alloc_below`] does, and reserves the memory for `name`.
    fn take(
        &mut self,
        bytes: u64,
        align: u64,
        node: NodeId,
        limit: PhysAddr,
        name: &'static str,
    ) -> Result<PhysAddr, BootAllocError> {
        if !align.is_power_of_two() {
            return Err(BootAllocError::Alignment { align });
        }
        if bytes == 0 {
            return Err(BootAllocError::Empty);
        }
        let frames = align_up(bytes, FRAME_SIZE);
        let fit = |floor: PhysAddr, wanted: NodeId| {
            let window = MemoryRange::new(floor, limit)?;
            self.pieces()
                .filter(|piece| piece.node == wanted)
                .filter_map(|piece| piece.range.intersection(&window))
                .find_map(|range| {
                    let start = align_up(range.start.as_u64(), align.max(FRAME_SIZE));
                    MemoryRange::from_length(start, frames).filter(|found| found.end <= range.end)
                })
        };
        let nearest = self.topology.nearest(node);
        let found = [DMA_END, PhysAddr::ZERO]
            .into_iter()
            .find_map(|floor| {
                let on_node = |&wanted| fit(DMA32_END, wanted).or_else(|| fit(floor, wanted));
                nearest.iter().find_map(on_node)
            })
            .ok_or(BootAllocError::Exhausted { node, bytes, align })?;
        self.map.reserve(found, name).map_err(BootAllocError::MapFull)?;
        Ok(found.start)
    }

    /// Returns the free memory.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'_> {
        self.map.pieces(self.topology)
    }

    /// Returns the current map.
    #[must_use]
    pub fn map(&self) -> &MemoryMap {
        self.map
    }

    /// Returns the topology used to select nodes.
    #[must_use]
    pub fn topology(&self) -> &'a Topology {
        self.topology
    }

    /// Ends boot allocation. Returns the map, with everything allocated reserved in it.
    #[must_use]
    pub fn finish(self) -> &'a MemoryMap {
        self.map
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn map() -> MemoryMap {
        let mut map = MemoryMap::new();
        map.add_usable(MemoryRange::from_bounds(0, 64 * MIB).unwrap()).unwrap();
        map
    }

    #[test]
    fn takes_low_memory_last() {
        let (topology, mut map) = (Topology::new(), map());
        let mut boot = BootAllocator::new(&mut map, &topology);
        let mut next = || boot.alloc(16 * MIB, 1, NodeId::ZERO).map(|start| start.as_u64() / MIB);
        assert_eq!([next(), next(), next()], [Ok(16), Ok(32), Ok(48)]);
        assert_eq!(next(), Err(BootAllocError::Exhausted { node: NodeId::ZERO, bytes: 16 * MIB, align: 1 }));
        assert_eq!(boot.alloc(15 * MIB, 1, NodeId::ZERO), Ok(PhysAddr::new(MIB)));
        assert_eq!(boot.pieces().count(), 0);
    }

    #[test]
    fn leaves_devices_the_memory_that_they_reach() {
        const GIB: u64 = 1 << 30;
        let (topology, mut map) = (Topology::new(), map());
        map.add_usable(MemoryRange::from_bounds(4 * GIB, 4 * GIB + 32 * MIB).unwrap()).unwrap();
        let mut boot = BootAllocator::new(&mut map, &topology);
        let below = boot.alloc_below(MIB, 1, NodeId::ZERO, PhysAddr::new(GIB));
        assert_eq!(below, Ok(PhysAddr::new(16 * MIB)));
        let mut next = || boot.alloc(20 * MIB, 1, NodeId::ZERO).map(|start| start.as_u64() / MIB);
        assert_eq!([next(), next()], [Ok(4096), Ok(17)], "the second does not fit above");
    }

    #[test]
    fn fills_what_alignment_skipped_and_stays_one_region() {
        let (topology, mut map) = (Topology::new(), map());
        let mut boot = BootAllocator::new(&mut map, &topology);
        let mut alloc = |bytes, align| boot.alloc(bytes, align, NodeId::ZERO).unwrap().as_u64();
        assert_eq!(alloc(1, 1), 16 * MIB);
        assert_eq!(alloc(2 * MIB, 2 * MIB), 18 * MIB);
        assert_eq!(alloc(2 * MIB - 4096, 64), 16 * MIB + 4096);
        let map = boot.finish();
        assert_eq!(map.reserved().count(), 2);
    }

    #[test]
    fn refuses_nonsense_and_respects_the_limit() {
        let (topology, mut map) = (Topology::new(), map());
        let mut boot = BootAllocator::new(&mut map, &topology);
        assert_eq!(boot.alloc(1, 3, NodeId::ZERO), Err(BootAllocError::Alignment { align: 3 }));
        assert_eq!(boot.alloc(1, 0, NodeId::ZERO), Err(BootAllocError::Alignment { align: 0 }));
        assert_eq!(boot.alloc(0, 8, NodeId::ZERO), Err(BootAllocError::Empty));
        assert!(boot.alloc(u64::MAX, 1 << 63, NodeId::ZERO).is_err());
        let limit = PhysAddr::new(4 * MIB);
        assert_eq!(boot.alloc_below(3 * MIB, 1, NodeId::ZERO, limit), Ok(PhysAddr::new(MIB)));
        assert!(boot.alloc_below(1, 1, NodeId::ZERO, limit).is_err());
    }
}
