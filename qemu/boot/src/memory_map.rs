//! From the firmware's memory map to topomem's.

use topomem::numa::MapFull;
use topomem::{MemoryMap, MemoryRange, PhysAddr, Platform};

use crate::layout::Levels;
use crate::{MemoryKind, MemoryMapEntry, Placed, StartUpPage};

/// Where CPUs may be started: above what real-mode firmware keeps, below its extended data.
const START_UP: core::ops::Range<u64> = 0x8000..0x9_0000;

/// Returns where memory ends that the kernel can use, given how many bits a physical address of the
/// CPU has (MAXPHYADDR): no page-table entry may hold more, and the direct map reaches only so far.
#[must_use]
pub const fn limit(levels: Levels, physical_bits: u8) -> PhysAddr {
    let everything = MemoryRange::EVERYTHING.end.as_u64();
    let named = if physical_bits < 52 { 1 << physical_bits } else { everything };
    let reached = levels.direct_map_reach();
    let end = if named < reached { named } else { reached };
    PhysAddr::new(if end < everything { end } else { everything })
}

/// Adds the usable ranges of `entries` to `map`, as far as they lie below `limit`, and reserves what
/// the firmware keeps and what is `placed`. Returns how many usable bytes it left out.
///
/// # Errors
///
/// [`MapFull`], if there is no memory for so many entries that `platform` shows.
pub fn fill<P: Platform>(
    map: &mut MemoryMap,
    platform: &P,
    entries: &[MemoryMapEntry],
    limit: PhysAddr,
    placed: impl Iterator<Item = Placed> + Clone,
) -> Result<u64, MapFull> {
    let of = |is: fn(MemoryKind) -> bool| {
        entries.iter().filter(move |entry| is(entry.kind())).filter_map(MemoryMapEntry::range)
    };
    let below = |range: MemoryRange| MemoryRange::new(range.start, range.end.min(limit));
    let (usable, firmware) = (of(|kind| kind == MemoryKind::Usable), of(|kind| kind != MemoryKind::Usable));
    let occupied = firmware.clone().chain(placed.clone().map(|placed| placed.range));
    // Without room, the first range that finds none says so.
    let _ = map.make_room(platform, usable.clone().filter_map(below), occupied);
    let mut left_out = 0;
    for range in usable {
        let usable = below(range);
        left_out += range.bytes() - usable.map_or(0, |usable| usable.bytes());
        if let Some(usable) = usable {
            map.add_usable(usable)?;
        }
    }
    for range in firmware {
        map.reserve(range, "firmware")?;
    }
    for placed in placed {
        map.reserve(placed.range, placed.name)?;
    }
    Ok(left_out)
}

/// Finds a page of usable memory below 1 MiB, for the code that CPUs start with, that holds nothing the
/// loader `placed`.
#[must_use]
pub fn start_up_page(
    entries: &[MemoryMapEntry],
    placed: impl Iterator<Item = Placed> + Clone,
) -> Option<StartUpPage> {
    START_UP.step_by(4096).find_map(|start| {
        let page = MemoryRange::from_length(start, 4096)?;
        let mut usable = entries.iter().filter(|entry| entry.kind() == MemoryKind::Usable);
        let is_usable =
            usable.any(|entry| entry.range().and_then(|range| range.intersection(&page)) == Some(page));
        let is_taken = placed.clone().any(|placed| placed.range.intersection(&page).is_some());
        if is_usable && !is_taken { StartUpPage::at(page.start) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use core::ptr::NonNull;

    use topomem::{CpuId, Topology};

    use super::*;

    /// A machine whose memory is not looked at: its maps are small.
    struct Small;

    // SAFETY: there is one CPU.
    unsafe impl Platform for Small {
        fn current_cpu(&self) -> CpuId {
            CpuId::BOOT
        }

        fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
            panic!("{addr:?} is not needed")
        }
    }

    const MIB: u64 = 1 << 20;

    fn bounds(start: u64, end: u64) -> MemoryRange {
        MemoryRange::from_bounds(start, end).unwrap()
    }

    fn usable(start: u64, end: u64) -> MemoryMapEntry {
        MemoryMapEntry::new(start, end - start, MemoryKind::Usable)
    }

    #[test]
    fn what_the_loader_placed_is_not_free_and_has_its_name() {
        let mut map = Box::new(MemoryMap::new());
        let placed = [("module", 20 * MIB, 20 * MIB + 5), ("start info", 2 * MIB, 2 * MIB + 56)];
        let placed = placed.map(|(name, start, end)| Placed { range: bounds(start, end), name });
        let entries = [usable(0, 64 * MIB)];
        assert_eq!(fill(&mut map, &Small, &entries, PhysAddr::new(1 << 40), placed.into_iter()), Ok(0));
        let names: Vec<_> = map.reserved().map(|region| region.name).collect();
        assert_eq!(names, ["low 1 MiB", "start info", "module"]);
        let topology = Box::new(Topology::new());
        assert!(map.pieces(&topology).all(|piece| !piece.range.contains(PhysAddr::new(20 * MIB))));
        assert_eq!(map.pieces(&topology).map(|piece| piece.range.frames()).sum::<u64>(), 63 * 256 - 2);
    }

    #[test]
    fn memory_out_of_reach_is_left_out_and_counted() {
        let mut map = Box::new(MemoryMap::new());
        let limit = limit(Levels::Four, 40);
        assert_eq!(limit.as_u64(), 1 << 40);
        let entries = [
            usable(MIB, 64 * MIB),
            usable((1 << 40) - MIB, (1 << 40) + MIB),
            usable(1 << 41, (1 << 41) + MIB),
        ];
        assert_eq!(fill(&mut map, &Small, &entries, limit, core::iter::empty()), Ok(2 * MIB));
        assert_eq!(map.usable(), [bounds(MIB, 64 * MIB), bounds((1 << 40) - MIB, 1 << 40)]);
    }

    #[test]
    fn cpus_start_where_the_loader_put_nothing() {
        let entries = [usable(0, 0x9_fc00)];
        let page = |start, end| {
            let placed = [Placed { range: bounds(start, end), name: "start info memory map" }];
            start_up_page(&entries, placed.into_iter()).map(|page| page.addr().as_u64())
        };
        assert_eq!(page(0x20_0000, 0x20_1000), Some(0x8000));
        assert_eq!(page(0x7000, 0x8001), Some(0x9000));
        assert_eq!(page(0, 0x9_0000), None);
        assert_eq!(start_up_page(&[], core::iter::empty()), None);
    }

    #[test]
    fn the_limit_is_the_lesser_of_addresses_and_direct_map() {
        assert_eq!(limit(Levels::Four, 52).as_u64(), 1 << 46);
        assert_eq!(limit(Levels::Five, 46).as_u64(), 1 << 46);
        assert_eq!(limit(Levels::Five, 52), MemoryRange::EVERYTHING.end);
    }
}
