//! The kernel's mapping of all memory, in the largest leaves that the CPU has.

use topomem::{MemoryRange, PhysAddr};
use x86_64::structures::paging::{FrameAllocator, PageTableFlags, Size4KiB};

use crate::layout::Levels;
use crate::{Leaf, MapError, MemoryKind, MemoryMapEntry, Placed, Tables};

const FOUR_GIB: u64 = 4 << 30;

/// Kernel data: readable, writable, never executable, the same in every address space.
pub const DATA: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::WRITABLE)
    .union(PageTableFlags::GLOBAL)
    .union(PageTableFlags::NO_EXECUTE);

/// What the direct map is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many levels the tables have.
    pub levels: Levels,
    /// The largest leaf that the CPU has: [`Leaf::Huge`] or [`Leaf::Large`].
    pub largest: Leaf,
    /// Where memory ends that the kernel can use: see [`limit`](crate::memory_map::limit).
    pub limit: PhysAddr,
    /// The kernel's code and constants, in whole pages: no other way may lead to them that permits writes.
    pub read_only: Option<MemoryRange>,
}

impl Plan {
    /// Maps the memory of `entries` and what the loader `placed`, each range rounded outwards to
    /// 2 MiB. Reserved ranges are mapped below 4 GiB only: firmware tables may be there. Where some of 2 MiB
    /// is read-only, all of it is mapped in pages of 4 KiB.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    pub fn map(
        &self,
        tables: &mut Tables,
        entries: &[MemoryMapEntry],
        placed: impl Iterator<Item = Placed>,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        if let Some(range) = self.read_only {
            self.map_around(tables, range, frames)?;
        }
        for entry in entries {
            let Some(range) = entry.range() else { continue };
            if entry.kind() != MemoryKind::Reserved || range.end.as_u64() <= FOUR_GIB {
                self.map_range(tables, range, frames)?;
            }
        }
        for placed in placed {
            self.map_range(tables, placed.range, frames)?;
        }
        Ok(())
    }

    /// Maps each 2 MiB that has a part of `range`, which is read-only, in pages of 4 KiB.
    fn map_around(
        &self,
        tables: &mut Tables,
        range: MemoryRange,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        let block = Leaf::Large.bytes();
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        for addr in (start - start % block..end.next_multiple_of(block)).step_by(4096) {
            let flags =
                if (start..end).contains(&addr) { DATA.difference(PageTableFlags::WRITABLE) } else { DATA };
            let virt = self.levels.direct_map() | addr;
            tables.map(virt, PhysAddr::new(addr), Leaf::Small, flags, frames)?;
        }
        Ok(())
    }

    /// Maps `range`; pieces that are mapped already stay as they are.
    fn map_range(
        &self,
        tables: &mut Tables,
        range: MemoryRange,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        let (start, end) = (range.start.as_u64(), range.end.min(self.limit).as_u64());
        let mut addr = start - start % Leaf::Large.bytes();
        while addr < end {
            // Whole GiB of memory only: such a leaf must not span memory and devices.
            let fits =
                addr.is_multiple_of(Leaf::Huge.bytes()) && addr >= start && end - addr >= Leaf::Huge.bytes();
            let leaf = if fits { self.largest } else { Leaf::Large };
            let mapped = match self.map_leaf(tables, addr, leaf, frames) {
                // A part of it is mapped: fill in the rest in smaller leaves.
                Err(MapError::Occupied(_)) if leaf == Leaf::Huge => {
                    match self.map_leaf(tables, addr, Leaf::Large, frames) {
                        Ok(()) | Err(MapError::Occupied(_)) => Leaf::Large,
                        Err(error) => return Err(error),
                    }
                }
                Ok(()) | Err(MapError::Occupied(_)) => leaf,
                Err(error) => return Err(error),
            };
            addr += mapped.bytes();
        }
        Ok(())
    }

    fn map_leaf(
        &self,
        tables: &mut Tables,
        addr: u64,
        leaf: Leaf,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        let virt = self.levels.direct_map() | addr;
        tables.map(virt, PhysAddr::new(addr), leaf, DATA, frames)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::tables::arena::Arena;
    use crate::{Leaves, MemoryKind};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn entry(start: u64, end: u64, kind: MemoryKind) -> MemoryMapEntry {
        MemoryMapEntry::new(start, end - start, kind)
    }

    /// QEMU's map of a machine with `bytes` of memory: a hole below 4 GiB.
    fn machine(bytes: u64) -> Vec<MemoryMapEntry> {
        Vec::from([
            entry(0, 0x9_fc00, MemoryKind::Usable),
            entry(0x9_fc00, 0xa_0000, MemoryKind::Reserved),
            entry(0xf_0000, MIB, MemoryKind::Reserved),
            entry(MIB, 2 * GIB - 0x2_1000, MemoryKind::Usable),
            entry(2 * GIB - 0x2_1000, 2 * GIB, MemoryKind::AcpiTables),
            entry(0xfffc_0000, FOUR_GIB, MemoryKind::Reserved),
            entry(FOUR_GIB, bytes + 2 * GIB, MemoryKind::Usable),
        ])
    }

    fn plan(levels: Levels, largest: Leaf) -> Plan {
        Plan { levels, largest, limit: PhysAddr::new(levels.direct_map_reach() - 1), read_only: None }
    }

    /// Builds the direct map in `frames` frames, and hands tables and their leaves to `check`.
    fn build(
        plan: Plan,
        entries: &[MemoryMapEntry],
        frames: usize,
        check: impl FnOnce(&Tables, Leaves),
    ) -> Result<(), MapError> {
        let mut arena = Arena::new(frames);
        let window = arena.window();
        // SAFETY: the arena's frames are the tables' alone.
        let mut tables = unsafe { Tables::new(plan.levels, window, &mut arena) }?;
        plan.map(&mut tables, entries, core::iter::empty(), &mut arena)?;
        check(&tables, tables.leaves());
        Ok(())
    }

    #[test]
    fn a_cpu_without_huge_leaves_gets_none_however_much_memory_there_is() {
        for gib in [64, 900] {
            let mapped =
                build(plan(Levels::Four, Leaf::Large), &machine(gib * GIB), 1024, |tables, leaves| {
                    assert_eq!(leaves.huge, 0);
                    assert!(leaves.large * 2 * MIB >= gib * GIB);
                    let last = Levels::Four.direct_map() + (gib + 2) * GIB - 8;
                    let (addr, leaf) = tables.translate(last).unwrap();
                    assert_eq!((addr.as_u64(), leaf), ((gib + 2) * GIB - 8, Leaf::Large));
                });
            assert_eq!(mapped, Ok(()), "{gib} GiB");
        }
    }

    #[test]
    fn huge_leaves_are_whole_gibibytes_of_memory() {
        let whole = |tables: &Tables, leaves: Leaves| {
            assert!(leaves.huge >= 898, "{leaves:?}");
            let at = |addr| tables.translate(Levels::Four.direct_map() + addr).map(|(_, leaf)| leaf);
            assert_eq!(at(5 * GIB), Some(Leaf::Huge));
            assert_eq!(at(0), Some(Leaf::Large));
            assert_eq!(at(2 * GIB - 0x1000), Some(Leaf::Large));
            assert_eq!(at(3 * GIB), None);
        };
        assert_eq!(build(plan(Levels::Four, Leaf::Huge), &machine(900 * GIB), 64, whole), Ok(()));
    }

    #[test]
    fn the_kernels_code_is_mapped_in_small_pages_and_the_rest_as_before() {
        let read_only = MemoryRange::from_bounds(3 * MIB, 5 * MIB + 0x3000);
        for (largest, count) in [(Leaf::Large, 1024), (Leaf::Huge, 1024)] {
            let plan = Plan { read_only, ..plan(Levels::Four, largest) };
            let mapped = build(plan, &machine(64 * GIB), 1024, |tables, leaves| {
                assert_eq!(leaves.small, count, "two times 2 MiB");
                let at = |addr| tables.translate(Levels::Four.direct_map() + addr);
                for addr in [2 * MIB, 3 * MIB, 5 * MIB + 0x3000, 6 * MIB - 0x1000] {
                    assert_eq!(at(addr), Some((PhysAddr::new(addr), Leaf::Small)));
                }
                for addr in [MIB, 6 * MIB, GIB - MIB] {
                    assert_eq!(at(addr), Some((PhysAddr::new(addr), Leaf::Large)));
                }
                assert_eq!(at(5 * GIB), Some((PhysAddr::new(5 * GIB), largest)));
            });
            assert_eq!(mapped, Ok(()));
        }
    }

    #[test]
    fn ranges_that_touch_in_a_leaf_are_each_mapped() {
        let entries = [
            entry(GIB, GIB + 3 * MIB, MemoryKind::Usable),
            entry(GIB + 3 * MIB, 3 * GIB, MemoryKind::Usable),
            entry(GIB, 3 * GIB, MemoryKind::AcpiStorage),
        ];
        for largest in [Leaf::Large, Leaf::Huge] {
            let mapped = build(plan(Levels::Four, largest), &entries, 16, |tables, _| {
                for addr in (GIB..3 * GIB).step_by(2 * MIB as usize) {
                    let found =
                        tables.translate(Levels::Four.direct_map() + addr).map(|(addr, _)| addr.as_u64());
                    assert_eq!(found, Some(addr));
                }
            });
            assert_eq!(mapped, Ok(()));
        }
    }

    #[test]
    fn memory_just_below_the_end_is_mapped_with_five_levels_and_left_out_with_four() {
        let end = MemoryRange::EVERYTHING.end.as_u64();
        let entries = [entry(MIB, GIB, MemoryKind::Usable), entry(end - 4 * MIB, end, MemoryKind::Usable)];
        let five = build(plan(Levels::Five, Leaf::Large), &entries, 16, |tables, _| {
            let found = tables.translate(Levels::Five.direct_map() + end - 8).map(|(addr, _)| addr.as_u64());
            assert_eq!(found, Some(end - 8));
        });
        assert_eq!(five, Ok(()));
        let four = build(plan(Levels::Four, Leaf::Large), &entries, 16, |_, leaves| {
            assert_eq!(leaves.large, 512);
        });
        assert_eq!(four, Ok(()));
    }

    #[test]
    fn what_the_loader_placed_is_mapped_whatever_the_map_says() {
        let mut arena = Arena::new(16);
        let window = arena.window();
        let plan = plan(Levels::Four, Leaf::Large);
        // SAFETY: the arena's frames are the tables' alone.
        let mut tables = unsafe { Tables::new(plan.levels, window, &mut arena) }.unwrap();
        let range = MemoryRange::from_bounds(0xc_0000, 0xc_0038).unwrap();
        let placed = [Placed { range, name: "start info" }].into_iter();
        plan.map(&mut tables, &[], placed, &mut arena).unwrap();
        assert!(tables.translate(Levels::Four.direct_map() + 0xc_0000).is_some());
    }
}
