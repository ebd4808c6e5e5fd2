//! The memory map: usable RAM and named reserved regions.

use core::fmt;

use topomem_percpu::PhysAddr;

use super::{AddressBits, BeyondAddressBits, MemoryRange, Pieces};
use crate::Topology;
use crate::list::List;

/// The number of disjoint ranges of usable RAM that a map has room for without memory of the kernel's.
const USABLE: usize = 64;
/// The number of disjoint or differently named reserved regions that a map has room for without memory of the kernel's.
const RESERVED: usize = 64;

/// The first 1 MiB, shared by real-mode firmware, its data and the start-up code of application
/// processors: reserved in every map.
pub const LOW_MEMORY: ReservedRegion = ReservedRegion {
    range: MemoryRange { start: PhysAddr::ZERO, end: PhysAddr::new(0x10_0000) },
    name: "low 1 MiB",
};

/// A reserved range, and its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedRegion {
    /// The frames of the range.
    pub range: MemoryRange,
    /// The holder: `"kernel image"`, `"ACPI"`, `"module"`.
    pub name: &'static str,
}

/// There is no room for one more range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapFull {
    /// No room for this usable range; the map has room for `capacity` disjoint ones.
    Usable {
        /// The range that was left out.
        range: MemoryRange,
        /// The room.
        capacity: usize,
    },
    /// No room for this reserved region; the map has room for `capacity`.
    Reserved {
        /// The region that was left out.
        region: ReservedRegion,
        /// The room.
        capacity: usize,
    },
}

impl fmt::Display for MapFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapFull::Usable { range, capacity } => {
                write!(f, "usable range {range} does not fit: there is room for {capacity} disjoint ranges")
            }
            MapFull::Reserved { region, capacity } => {
                write!(
                    f,
                    "{} at {} does not fit: there is room for {capacity} regions",
                    region.name, region.range
                )
            }
        }
    }
}

impl core::error::Error for MapFull {}

/// Usable RAM, as reported by firmware, less the reserved regions.
///
/// Entries may be unsorted and overlap. There is room for 64 of each kind, and for any number in memory of the map's own
/// ([`MemoryMap::make_room`]). Touching usable ranges
/// are merged, and then rounded inwards to 4 KiB frames. Reserved regions are rounded outwards; if
/// both claim a frame, the reservation wins. The first 1 MiB is always reserved. Addresses beyond
/// the CPU's width ([`MemoryMap::limit_addresses`]) are left out.
///
/// No heap, and about 3 KiB, all zero at first: usable before there is any allocator.
///
/// ```
/// use topomem_numa::{MemoryMap, MemoryRange, Topology};
///
/// let mut map = MemoryMap::new();
/// map.add_usable(MemoryRange::from_bounds(0, 0x80_0000).unwrap())?;
/// map.reserve(MemoryRange::from_bounds(0x20_0000, 0x2f_f123).unwrap(), "kernel image")?;
///
/// let topology = Topology::new();
/// let free: Vec<_> = map.pieces(&topology).map(|piece| piece.range).collect();
/// assert_eq!(free[0], MemoryRange::from_bounds(0x10_0000, 0x20_0000).unwrap());
/// assert_eq!(free[1], MemoryRange::from_bounds(0x30_0000, 0x80_0000).unwrap());
/// # Ok::<(), topomem_numa::MapFull>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryMap {
    /// Sorted, disjoint, not touching. To the byte: two ranges may meet inside a frame.
    pub(super) usable: List<MemoryRange, USABLE>,
    /// Sorted by start, on frame boundaries; may overlap if the names differ.
    pub(super) reserved: List<ReservedRegion, RESERVED>,
    /// The limit set by [`MemoryMap::limit_addresses`]. `None` for the most that there can be, so that a new map is all
    /// zero and lies in `.bss`.
    address_bits: Option<AddressBits>,
    beyond: Option<BeyondAddressBits>,
}

impl MemoryMap {
    /// Creates a map without usable memory.
    #[must_use]
    pub const fn new() -> MemoryMap {
        MemoryMap { usable: List::new(), reserved: List::new(), address_bits: None, beyond: None }
    }

    /// Leaves out RAM beyond the CPU's address width, known already or added later: the CPU has
    /// `bits` bits of physical address (CPUID leaf `0x8000_0008` on x86).
    /// [`MemoryMap::beyond_address_bits`] returns the memory left out.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::{AddressBits, MemoryMap, MemoryRange};
    /// let mut map = MemoryMap::new();
    /// map.limit_addresses(AddressBits::new(32).unwrap());
    /// map.add_usable(MemoryRange::from_bounds(0, 0x1_4000_0000).unwrap())?;
    /// assert_eq!(map.usable()[0].end.as_u64(), 1 << 32);
    /// assert!(map.beyond_address_bits().is_some());
    /// # Ok::<(), topomem_numa::MapFull>(())
    /// ```
    pub fn limit_addresses(&mut self, bits: AddressBits) {
        self.address_bits = Some(bits);
        while let Some(&last) = self.usable.last().filter(|last| last.end > bits.end()) {
            self.usable.remove(self.usable.len() - 1);
            // There is room: it had some before.
            let _ = self.cut(last).map(|kept| self.usable.push(kept));
        }
    }

    /// Returns the memory left out because the CPU cannot address it.
    #[must_use]
    pub fn beyond_address_bits(&self) -> Option<BeyondAddressBits> {
        self.beyond
    }

    /// Returns the addressable part of a range, and records the rest.
    fn cut(&mut self, range: MemoryRange) -> Option<MemoryRange> {
        let bits = self.address_bits.unwrap_or_default();
        if let Some(beyond) = MemoryRange::new(range.start.max(bits.end()), range.end) {
            let known = self.beyond.map_or(beyond, |known| known.range);
            let range = MemoryRange { start: known.start.min(beyond.start), end: known.end.max(beyond.end) };
            self.beyond = Some(BeyondAddressBits { range, bits });
        }
        MemoryRange::new(range.start, range.end.min(bits.end()))
    }

    /// Adds RAM; `None`, as [`MemoryRange::from_bounds`] returns for an empty range, adds nothing. A partly usable
    /// frame counts once the rest of it has been added.
    ///
    /// # Errors
    ///
    /// Returns [`MapFull::Usable`] if the map has no room for the range; the map is unchanged.
    /// [`MemoryMap::make_room`] makes room.
    pub fn add_usable(&mut self, range: impl Into<Option<MemoryRange>>) -> Result<(), MapFull> {
        let Some(range) = range.into() else { return Ok(()) };
        let Some(mut merged) = self.cut(range) else { return Ok(()) };
        let first = self.usable.partition_point(|known| known.end < merged.start);
        let last = self.usable.partition_point(|known| known.start <= merged.end);
        if first < last {
            merged.start = merged.start.min(self.usable[first].start);
            merged.end = merged.end.max(self.usable[last - 1].end);
            self.usable.remove_range(first + 1..last);
            self.usable[first] = merged;
            return Ok(());
        }
        let capacity = self.usable.len();
        self.usable.insert(first, merged).map_err(|_| MapFull::Usable { range, capacity })
    }

    /// Reserves `range`, rounded outwards to whole frames, for `name`; `None` reserves nothing. Overlaps are
    /// tolerated; touching regions of one name are merged.
    ///
    /// # Errors
    ///
    /// Returns [`MapFull::Reserved`] if the map has no room for the region; the map is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::{MemoryMap, MemoryRange};
    /// let mut map = MemoryMap::new();
    /// map.reserve(MemoryRange::from_bounds(0x20_0000, 0x30_0000).unwrap(), "kernel image")?;
    /// assert_eq!(map.reserved().count(), 2); // The first 1 MiB, too.
    /// # Ok::<(), topomem_numa::MapFull>(())
    /// ```
    pub fn reserve(
        &mut self,
        range: impl Into<Option<MemoryRange>>,
        name: &'static str,
    ) -> Result<(), MapFull> {
        let Some(mut range) = range.into().and_then(|range| range.touched_frames()) else { return Ok(()) };
        // A growing region may reach the next region of its name: absorb until none touches.
        while let Some(index) = self.reserved.iter().position(|known| {
            known.name == name && known.range.start <= range.end && range.start <= known.range.end
        }) {
            let known = self.reserved[index].range;
            self.reserved.remove(index);
            range.start = range.start.min(known.start);
            range.end = range.end.max(known.end);
        }
        let region = ReservedRegion { range, name };
        let index = self.reserved.partition_point(|known| known.range.start <= range.start);
        let capacity = self.reserved.len();
        self.reserved.insert(index, region).map_err(|_| MapFull::Reserved { region, capacity })
    }

    /// Returns the usable RAM before reservations, to the byte: sorted, disjoint, not touching.
    #[must_use]
    pub fn usable(&self) -> &[MemoryRange] {
        &self.usable
    }

    /// Returns the reserved regions, by start: [`LOW_MEMORY`] first; differently named regions may
    /// overlap.
    pub fn reserved(&self) -> impl Iterator<Item = &ReservedRegion> + Clone {
        core::iter::once(&LOW_MEMORY).chain(self.reserved.iter())
    }

    /// Returns the reserved regions except [`LOW_MEMORY`], by start.
    pub(super) fn reserved_by_start(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    /// Returns the free memory: usable less reserved, sorted, disjoint, split where the node
    /// changes.
    ///
    /// Cost: all together take time linear in the map's ranges, and logarithmic in the topology's
    /// for each.
    #[must_use]
    pub fn pieces<'a>(&'a self, topology: &'a Topology) -> Pieces<'a> {
        Pieces::new(self, topology)
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn range(start: u64, end: u64) -> MemoryRange {
        MemoryRange::from_bounds(start, end).unwrap()
    }

    #[test]
    fn usable_ranges_merge() {
        let mut map = MemoryMap::new();
        map.add_usable(range(0x5000, 0x6000)).unwrap();
        map.add_usable(range(0x1000, 0x2fff)).unwrap();
        map.add_usable(range(0x8001, 0x8fff)).unwrap();
        let known = [range(0x1000, 0x2fff), range(0x5000, 0x6000), range(0x8001, 0x8fff)];
        assert_eq!(map.usable(), known);
        map.add_usable(range(0x2000, 0x5800)).unwrap();
        assert_eq!(map.usable(), [range(0x1000, 0x6000), known[2]]);
    }

    #[test]
    fn names_keep_regions_apart() {
        let mut map = MemoryMap::new();
        map.reserve(range(0x20_0000, 0x20_1001), "kernel image").unwrap();
        map.reserve(range(0x20_3000, 0x20_4000), "kernel image").unwrap();
        map.reserve(range(0x20_1000, 0x20_5000), "module").unwrap();
        map.reserve(range(0x20_2000, 0x20_3000), "kernel image").unwrap();
        let regions: Vec<_> = map.reserved().map(|region| (region.name, region.range)).collect();
        assert_eq!(
            regions,
            [
                (LOW_MEMORY.name, LOW_MEMORY.range),
                ("kernel image", range(0x20_0000, 0x20_4000)),
                ("module", range(0x20_1000, 0x20_5000)),
            ]
        );
    }

    #[test]
    fn full_map_says_so_and_stays() {
        let mut map = MemoryMap::new();
        let place = |index: usize| range(index as u64 * 0x2000, index as u64 * 0x2000 + 0x1000);
        for index in 0..USABLE {
            map.add_usable(place(index)).unwrap();
        }
        for index in 0..RESERVED {
            map.reserve(place(index), "hole").unwrap();
        }
        let region = ReservedRegion { range: place(RESERVED), name: "hole" };
        let full = MapFull::Reserved { region, capacity: RESERVED };
        assert_eq!(map.reserve(region.range, "hole"), Err(full));
        let full = MapFull::Usable { range: place(USABLE), capacity: USABLE };
        assert_eq!(map.add_usable(place(USABLE)), Err(full));
        assert_eq!((map.usable().len(), map.reserved().count()), (USABLE, RESERVED + 1));
        // A range that merges needs no room.
        map.add_usable(range(0x1000, 0x2000)).unwrap();
        map.reserve(range(0x1000, 0x2000), "hole").unwrap();
    }
}
