//! Growth of a memory map beyond the ranges that it has room for in place.

use core::mem::MaybeUninit;

use topomem_percpu::{NodeId, PhysAddr, Platform};

use super::{BootAllocator, FRAME_SIZE, LOW_MEMORY, MemoryMap, MemoryRange, ReservedRegion, align_up};
use crate::Topology;
use crate::cutter::Cutter;

/// Further entries that a map gets room for: for boot allocations and the reservations of the kernel itself.
const SLACK: usize = 24;

/// Bytes of an entry of each kind.
const ENTRY: usize = size_of::<MemoryRange>() + size_of::<ReservedRegion>();

/// The value of a place that is not in use yet.
const NOWHERE: MemoryRange = MemoryRange { start: PhysAddr::ZERO, end: PhysAddr::ZERO };
const NO_REGION: ReservedRegion = ReservedRegion { range: NOWHERE, name: "" };

impl MemoryMap {
    /// Makes room for all that firmware reports: for as many ranges as `usable` and `occupied` have, and 24 more of each
    /// kind. The lists lie in memory that is in `usable` and not in `occupied`, and is reserved as "memory map". Does
    /// nothing if there is room for so many. Adds none of the ranges.
    ///
    /// `occupied` has what is not free in the usable ranges: the kernel's image, its modules, its page tables, ranges that
    /// firmware keeps. `platform` shows where the memory is mapped. Returns whether there is room: if not, the map is
    /// unchanged.
    ///
    /// Cost: 48 bytes for each range; time up to the product of the numbers of ranges.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::ptr::NonNull;
    /// use topomem_numa::{MemoryMap, MemoryRange};
    /// # use topomem_numa::{CpuId, PhysAddr, Platform};
    /// # struct Kernel;
    /// # unsafe impl Platform for Kernel {
    /// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
    /// #     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> { NonNull::dangling() }
    /// # }
    ///
    /// let firmware = || [MemoryRange::from_bounds(0x10_0000, 0x4000_0000)].into_iter().flatten();
    /// let image = || MemoryRange::from_bounds(0x20_0000, 0x30_0000).into_iter();
    /// let mut map = MemoryMap::new();
    /// assert!(map.make_room(&Kernel, firmware(), image()));
    /// firmware().try_for_each(|range| map.add_usable(range))?;
    /// image().try_for_each(|range| map.reserve(range, "kernel image"))?;
    /// # Ok::<(), topomem_numa::MapFull>(())
    /// ```
    #[must_use]
    pub fn make_room<P: Platform>(
        &mut self,
        platform: &P,
        mut usable: impl Iterator<Item = MemoryRange> + Clone,
        occupied: impl Iterator<Item = MemoryRange> + Clone,
    ) -> bool {
        let [more, regions] = [usable.clone().count(), occupied.clone().count()].map(|count| count + SLACK);
        if self.usable.room() >= more && self.reserved.room() >= regions {
            return true;
        }
        let entries = more.max(regions) + self.usable.len().max(self.reserved.len());
        let bytes = (entries * ENTRY) as u64;
        let found = {
            let occupied = occupied.chain(self.reserved().map(|region| region.range));
            usable.find_map(|range| free_in(range, bytes, &occupied))
        };
        let Some(place) = found else { return false };
        self.move_lists(platform, place.start, entries);
        // There is room, as was just made.
        self.reserve(place, "memory map").is_ok()
    }

    /// Moves the lists to `memory`, with room for as many entries of each kind as it holds, unless there is more room
    /// already. 48 bytes for an entry of each kind. For kernels that have memory of their own, such as a static.
    ///
    /// ```
    /// use core::mem::MaybeUninit;
    /// use topomem_numa::{MapFull, MemoryMap, MemoryRange};
    ///
    /// static mut LISTS: [MaybeUninit<u64>; 1000] = [MaybeUninit::uninit(); 1000];
    ///
    /// let mut map = MemoryMap::new();
    /// let tables = || (0..100).map(|table| MemoryRange::from_bounds(table << 13, (table << 13) + 0x1000));
    /// let full = tables().try_for_each(|table| map.reserve(table, "page tables"));
    /// assert!(matches!(full, Err(MapFull::Reserved { .. })));
    /// // SAFETY: nothing else uses the static.
    /// map.extend(unsafe { &mut *(&raw mut LISTS) });
    /// tables().try_for_each(|table| map.reserve(table, "page tables"))?;
    /// assert_eq!(map.reserved().count(), 1 + 100);
    /// # Ok::<(), MapFull>(())
    /// ```
    pub fn extend(&mut self, memory: &'static mut [MaybeUninit<u64>]) {
        let entries = size_of_val::<[_]>(memory) / ENTRY;
        let mut memory = Cutter::new(memory);
        self.usable.grow_to(memory.table(entries, NOWHERE));
        self.reserved.grow_to(memory.table(entries, NO_REGION));
    }

    /// Makes room for `regions` boot allocations, in free memory of the map, if there is such memory.
    pub(crate) fn make_room_for_boot<P: Platform>(&mut self, platform: &P, regions: usize) {
        if self.reserved.room() >= regions {
            return;
        }
        // Twice as many, so that what boot takes does not lead here again.
        let entries = self.usable.len().max(self.reserved.len() + 2 * regions);
        // Nothing is known of the nodes as yet.
        let topology = Topology::new();
        let taken =
            BootAllocator::new(self, &topology).alloc((entries * ENTRY) as u64, FRAME_SIZE, NodeId::ZERO);
        if let Ok(start) = taken {
            self.move_lists(platform, start, entries);
        }
    }

    /// Moves the lists to the free memory from `start` on, with room for `entries` of each kind.
    fn move_lists<P: Platform>(&mut self, platform: &P, start: PhysAddr, entries: usize) {
        let place = platform.phys_to_virt(start).cast::<MaybeUninit<u64>>();
        let words = entries * ENTRY / size_of::<u64>();
        // SAFETY: by `Platform` and the map, the memory is RAM, mapped for good; it is free, and reserved from here on.
        self.extend(unsafe { core::slice::from_raw_parts_mut(place.as_ptr(), words) });
    }
}

/// Returns the lowest `bytes` of `range` of which none is `occupied`, in whole frames.
fn free_in(
    range: MemoryRange,
    bytes: u64,
    occupied: &(impl Iterator<Item = MemoryRange> + Clone),
) -> Option<MemoryRange> {
    let mut start = range.start.max(LOW_MEMORY.range.end).as_u64();
    loop {
        let place = MemoryRange::from_length(align_up(start, FRAME_SIZE), align_up(bytes, FRAME_SIZE))?;
        if place.end > range.end {
            return None;
        }
        let touched = occupied.clone().filter_map(|occupied| occupied.touched_frames());
        match touched.filter(|occupied| occupied.intersection(&place).is_some()).map(|range| range.end).max()
        {
            Some(end) => start = end.as_u64(),
            None => return Some(place),
        }
    }
}

#[cfg(test)]
#[cfg(not(any(miri, loom)))]
mod tests {
    use core::ptr::NonNull;
    use std::boxed::Box;
    use std::vec::Vec;

    use topomem_percpu::CpuId;

    use super::*;

    const START: u64 = 16 << 20;
    const BYTES: usize = 4 << 20;

    /// Memory from 16 MiB on.
    struct Ram(Box<[u64]>);

    // SAFETY: one thread uses the memory, and addresses are distinct.
    unsafe impl Platform for Ram {
        fn current_cpu(&self) -> CpuId {
            CpuId::BOOT
        }

        fn phys_to_virt(&self, address: PhysAddr) -> NonNull<u8> {
            NonNull::from(&self.0[((address.as_u64() - START) / 8) as usize]).cast()
        }
    }

    fn page(number: u64) -> MemoryRange {
        MemoryRange::from_length(number * FRAME_SIZE, FRAME_SIZE).unwrap()
    }

    /// Every one of 2000 ranges of each kind is there, in order, and the lists lie where nothing else does.
    #[test]
    fn a_map_holds_what_firmware_reports() {
        const RANGES: u64 = 2000;
        let ram = Ram(std::vec![0; BYTES / 8].into());
        // The RAM comes last, and the lowest of it is occupied: by halves of frames, too.
        let all = MemoryRange::from_length(START, BYTES as u64).unwrap();
        let image = MemoryRange::from_length(START, (1 << 20) + 1).unwrap();
        let module = MemoryRange::from_length(START + (2 << 20) - 1, 1).unwrap();
        let above = |index: u64| page((1 << 20) + 2 * index);
        let usable = || (0..RANGES).map(above).chain([all]);
        let occupied = || (0..RANGES).rev().map(above).chain([module, image]);
        let mut map = MemoryMap::new();
        map.add_usable(page(3 << 20)).unwrap();
        assert!(map.make_room(&ram, usable(), occupied()));
        usable().for_each(|range| map.add_usable(range).unwrap());
        occupied().for_each(|range| map.reserve(range, "occupied").unwrap());
        assert!(
            map.usable()
                .iter()
                .copied()
                .eq([all].into_iter().chain((0..RANGES).map(above)).chain([page(3 << 20)]))
        );
        let own: Vec<_> = map.reserved().filter(|region| region.name == "memory map").collect();
        assert_eq!(own.len(), 1);
        assert!(all.intersection(&own[0].range) == Some(own[0].range), "{own:?}");
        assert!(occupied().all(|occupied| occupied.intersection(&own[0].range).is_none()), "{own:?}");
        assert!(own[0].range.bytes() <= (RANGES + 100) * ENTRY as u64 + FRAME_SIZE, "{own:?}");
        assert_eq!(map.reserved().filter(|region| region.name == "occupied").count() as u64, RANGES + 2);
        // Twice is no more.
        assert!(map.make_room(&ram, [].into_iter(), [].into_iter()));
        assert_eq!(map.reserved().filter(|region| region.name == "memory map").count(), 1);
    }

    /// Boot allocations on many nodes, each a region of its own, have room.
    #[test]
    fn boot_allocations_have_room() {
        let ram = Ram(std::vec![0; BYTES / 8].into());
        let mut map = MemoryMap::new();
        map.add_usable(MemoryRange::from_length(START, BYTES as u64)).unwrap();
        map.make_room_for_boot(&ram, 500);
        for index in 0..500 {
            map.reserve(page((START + BYTES as u64) / FRAME_SIZE + 2 * index), "boot allocations").unwrap();
        }
        assert_eq!(map.reserved().count(), 2 + 500);
    }

    /// Without memory for larger lists the map stays as it is.
    #[test]
    fn without_memory_there_is_no_growth() {
        let ram = Ram(Box::new([]));
        let mut map = MemoryMap::new();
        let low = |index: u64| page(2 * index);
        assert!(!map.make_room(&ram, (0..200).map(low), [].into_iter()));
        map.make_room_for_boot(&ram, 500);
        assert_eq!((map.usable().len(), map.reserved().count()), (0, 1));
    }
}
