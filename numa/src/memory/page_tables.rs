//! The page tables that a kernel booted with, which lie in RAM that the loader calls free.

#[cfg(target_arch = "x86_64")]
use core::arch::asm;

use topomem_percpu::{PhysAddr, Platform};

use super::{FRAME_SIZE, MapFull, MemoryMap, MemoryRange};

/// The name of the reserved regions.
const NAME: &str = "page tables";
/// Entries of a table.
const ENTRIES: u64 = 512;
/// An entry leads somewhere.
const PRESENT: u64 = 1 << 0;
/// Above the last level: an entry leads to a page, not to a table.
const LARGE: u64 = 1 << 7;
/// The address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How many levels of x86-64 page tables the CPU walks (CR4.LA57).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableLevels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses.
    Five,
}

impl MemoryMap {
    /// Reserves the x86-64 page tables that the CPU walks from `root` (CR3), which loaders leave in memory that
    /// their memory map calls usable, as the region "page tables". A root that leads to itself does no harm.
    ///
    /// Costs a read of each entry of each table, once for each way that leads there.
    ///
    /// # Errors
    /// [`MapFull::Reserved`]: [`MemoryMap::extend`] makes room. Some tables are reserved.
    ///
    /// # Safety
    /// `root` is the root of page tables of so many levels that nobody changes, and the platform's direct map
    /// shows all of them.
    pub unsafe fn reserve_page_tables<P: Platform>(
        &mut self,
        platform: &P,
        root: PhysAddr,
        levels: TableLevels,
    ) -> Result<(), MapFull> {
        let level = match levels {
            TableLevels::Four => 4,
            TableLevels::Five => 5,
        };
        // SAFETY: the caller's promise.
        unsafe { self.reserve_table(platform, root.as_u64() & ADDRESS, level) }
    }

    /// Reserves the page tables that the CPU walks now, as [`MemoryMap::reserve_page_tables`] does. The CPU's registers
    /// say where the root is, and how many levels there are.
    ///
    /// # Errors
    /// As of [`MemoryMap::reserve_page_tables`].
    ///
    /// # Safety
    /// The CPU is in ring 0, nobody changes its page tables, and the platform's direct map shows all of them.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn reserve_active_page_tables<P: Platform>(&mut self, platform: &P) -> Result<(), MapFull> {
        /// The bit of CR4 for five levels (Intel SDM, volume 3, section 2.5).
        const LA57: u64 = 1 << 12;
        let (root, features): (u64, u64);
        // SAFETY: in ring 0 these registers can be read, which changes nothing.
        unsafe {
            asm!("mov {}, cr3", "mov {}, cr4", out(reg) root, out(reg) features,
                options(nomem, nostack, preserves_flags));
        }
        let levels = if features & LA57 == 0 { TableLevels::Four } else { TableLevels::Five };
        // SAFETY: the caller's promise.
        unsafe { self.reserve_page_tables(platform, PhysAddr::new(root & ADDRESS), levels) }
    }

    /// # Safety
    /// As for [`MemoryMap::reserve_page_tables`], of the table of `level` at `table`.
    unsafe fn reserve_table<P: Platform>(
        &mut self,
        platform: &P,
        table: u64,
        level: u32,
    ) -> Result<(), MapFull> {
        if let Some(range) = MemoryRange::from_length(table, FRAME_SIZE) {
            self.reserve(range, NAME)?;
        }
        if level == 1 {
            return Ok(());
        }
        let entries = platform.phys_to_virt(PhysAddr::new(table)).cast::<u64>();
        for index in 0..ENTRIES {
            // SAFETY: the direct map shows the table, which has so many entries.
            let entry = unsafe { entries.add(index as usize).read() };
            if entry & PRESENT != 0 && (level > 3 || entry & LARGE == 0) {
                // SAFETY: the entry leads to a table of the next level.
                unsafe { self.reserve_table(platform, entry & ADDRESS, level - 1)? };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(any(miri, loom)))]
mod tests {
    use core::ptr::NonNull;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use topomem_percpu::CpuId;

    use super::*;

    /// Memory from 1 MiB on.
    struct Ram(Vec<u64>);

    const START: u64 = 1 << 20;

    // SAFETY: one thread uses the memory, and addresses are distinct.
    unsafe impl Platform for Ram {
        fn current_cpu(&self) -> CpuId {
            CpuId::BOOT
        }

        fn phys_to_virt(&self, address: PhysAddr) -> NonNull<u8> {
            NonNull::from(&self.0[((address.as_u64() - START) / 8) as usize]).cast()
        }
    }

    /// The frame numbered `number`.
    fn frame(number: u64) -> u64 {
        START + number * FRAME_SIZE
    }

    fn tables_of(levels: TableLevels, root: u64, entries: &[(u64, u64, u64)]) -> Vec<(u64, u64)> {
        let mut ram = Ram(vec![0; 64 * 512]);
        for &(table, index, entry) in entries {
            ram.0[(table * ENTRIES + index) as usize] = entry;
        }
        let mut map = Box::new(MemoryMap::new());
        // SAFETY: the tables are in the memory, and nobody changes them.
        unsafe { map.reserve_page_tables(&ram, PhysAddr::new(frame(root) | 0x18), levels) }.unwrap();
        let reserved = map.reserved().filter(|region| region.name == NAME);
        let number = |address: PhysAddr| (address.as_u64() - START) / FRAME_SIZE;
        reserved.map(|region| (number(region.range.start), number(region.range.end))).collect()
    }

    /// No execution, dirty, accessed, user, writable: the bits that say nothing of an entry's target.
    const FLAGS: u64 = 1 << 63 | 0x66;
    const LAST_WITH_PAT: u64 = PRESENT | LARGE;

    #[test]
    fn every_table_and_no_page_is_reserved() {
        let entries = [
            (40, 0, frame(20) | PRESENT | FLAGS),
            (40, 511, frame(22) | PRESENT),
            (40, 5, frame(1)),                   // not present
            (20, 3, frame(0) | PRESENT | LARGE), // a page of 1 GiB
            (20, 4, frame(21) | PRESENT | FLAGS),
            (21, 7, frame(0) | PRESENT | LARGE), // a page of 2 MiB
            (21, 8, frame(30) | PRESENT),
            (30, 1, frame(50) | LAST_WITH_PAT), // a page, with what is the flag of large ones above
            (22, 0, frame(21) | PRESENT),       // a second way
        ];
        assert_eq!(tables_of(TableLevels::Four, 40, &entries), [(20, 23), (30, 31), (40, 41)]);
    }

    #[test]
    fn a_root_may_lead_to_itself() {
        let entries =
            [(40, 0, frame(20) | PRESENT), (20, 0, frame(21) | PRESENT), (40, 510, frame(40) | PRESENT)];
        assert_eq!(tables_of(TableLevels::Four, 40, &entries), [(20, 22), (40, 41)]);
    }

    #[test]
    fn five_levels_are_one_more() {
        let entries = [
            (60, 0, frame(40) | PRESENT),
            (40, 0, frame(20) | PRESENT),
            (20, 0, frame(21) | PRESENT),
            (21, 0, frame(30) | PRESENT),
            (30, 0, frame(50) | PRESENT),
        ];
        let five = [(20, 22), (30, 31), (40, 41), (60, 61)];
        assert_eq!(tables_of(TableLevels::Five, 60, &entries), five);
        assert_eq!(tables_of(TableLevels::Four, 40, &entries), five[..3]);
    }
}
