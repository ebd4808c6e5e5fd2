//! One CPU's translation caches: they evict nothing by themselves.
//!
//! Hardware may drop an entry at any time, so a missing flush often goes unnoticed there. Here an
//! entry stays until software asks for its removal, and a missing flush shows every time. What
//! each operation removes follows the Intel SDM, volume 3A, section 4.10.4.1.

use std::collections::HashMap;
use std::vec::Vec;

use x86_64::PhysAddr;

/// A level of the page-table tree. Leaves are possible at 1, 2 and 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Level(u8);

impl Level {
    /// The table whose entries map 4 KiB.
    pub(super) const LAST: Level = Level(1);
    /// The root of a four-level tree.
    pub(super) const ROOT: Level = Level(4);

    pub(super) const fn below(self) -> Option<Level> {
        if self.0 > 1 { Some(Level(self.0 - 1)) } else { None }
    }

    pub(super) const fn get(self) -> u8 {
        self.0
    }

    /// How many address bits one entry covers: 12, 21, 30 or 39.
    pub(super) const fn shift(self) -> u32 {
        3 + 9 * self.0 as u32
    }

    /// Which entry of a table at this level covers `address`.
    pub(super) const fn index(self, address: u64) -> u64 {
        address >> self.shift() & 511
    }

    /// `address` without what one entry covers.
    const fn prefix(self, address: u64) -> u64 {
        address >> self.shift()
    }
}

/// What the entries on the way to a page allow together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) writable: bool,
    pub(super) user: bool,
    pub(super) executable: bool,
}

impl Rights {
    pub(super) const ALL: Rights = Rights { writable: true, user: true, executable: true };
}

/// A cached translation of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translation {
    /// Where the page begins.
    pub(super) base: PhysAddr,
    /// 1, 2 or 3: a page of 4 KiB, 2 MiB or 1 GiB.
    pub(super) level: Level,
    pub(super) rights: Rights,
    pub(super) global: bool,
}

/// A cached way to a table, with what the entries above it allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) table: PhysAddr,
    pub(super) rights: Rights,
}

/// The translations and the ways to tables that one CPU holds.
#[derive(Debug, Default)]
pub(super) struct Tlb {
    pages: [HashMap<u64, Translation>; 3],
    /// The table at a level that covers an address: the paging-structure caches.
    branches: HashMap<(Level, u64), Branch>,
}

impl Tlb {
    const LEAVES: [Level; 3] = [Level(1), Level(2), Level(3)];

    /// The translation of `address`, stale or not.
    pub(super) fn lookup(&self, address: u64) -> Option<Translation> {
        Tlb::LEAVES.iter().zip(&self.pages).find_map(|(level, pages)| {
            if pages.is_empty() { None } else { pages.get(&level.prefix(address)).copied() }
        })
    }

    pub(super) fn insert(&mut self, address: u64, translation: Translation) {
        let level = translation.level;
        if let Some(pages) = self.pages.get_mut(usize::from(level.get()) - 1) {
            pages.insert(level.prefix(address), translation);
        }
    }

    /// The lowest cached table on the way to `address`, and its level.
    pub(super) fn nearest_branch(&self, address: u64) -> Option<(Level, Branch)> {
        if self.branches.is_empty() {
            return None;
        }
        Tlb::LEAVES.iter().find_map(|&level| {
            let branch = self.branches.get(&(level, Tlb::covered(level, address)))?;
            Some((level, *branch))
        })
    }

    /// Remembers that the table at `level` on the way to `address` is `branch`; true where that
    /// is news.
    pub(super) fn insert_branch(&mut self, level: Level, address: u64, branch: Branch) -> bool {
        self.branches.insert((level, Tlb::covered(level, address)), branch) != Some(branch)
    }

    /// The cached tables: the level of each, the first address that it covers, and the way there.
    pub(super) fn branches(&self) -> Vec<(Level, u64, Branch)> {
        let place = |(&(level, covered), &branch): (&(Level, u64), &Branch)| {
            (level, covered << 9 << level.shift(), branch)
        };
        self.branches.iter().map(place).collect()
    }

    /// What a whole table at `level` covers: the prefix above its index.
    const fn covered(level: Level, address: u64) -> u64 {
        level.prefix(address) >> 9
    }

    /// INVLPG: every translation of `address`, global ones too, and all paging-structure caches.
    pub(super) fn flush_page(&mut self, address: u64) {
        for (level, pages) in Tlb::LEAVES.iter().zip(&mut self.pages) {
            pages.remove(&level.prefix(address));
        }
        self.branches.clear();
    }

    /// A CR3 write without PCID: all that is not global, and all paging-structure caches.
    pub(super) fn flush_non_global(&mut self) {
        for pages in &mut self.pages {
            pages.retain(|_, translation| translation.global);
        }
        self.branches.clear();
    }

    /// A change of CR4.PGE: everything.
    pub(super) fn flush_all(&mut self) {
        for pages in &mut self.pages {
            pages.clear();
        }
        self.branches.clear();
    }

    /// What a page fault at `address` removes: its translations, as a faulting processor does.
    pub(super) fn fault(&mut self, address: u64) {
        for (level, pages) in Tlb::LEAVES.iter().zip(&mut self.pages) {
            pages.remove(&level.prefix(address));
        }
    }

    /// How many translations are held.
    pub(super) fn len(&self) -> usize {
        self.pages.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = 0x1234_5678_9000;
    const LARGE: u64 = 0x4000_0000;

    fn translation(level: Level, global: bool) -> Translation {
        Translation { base: PhysAddr::new(0x20_0000), level, rights: Rights::ALL, global }
    }

    fn filled() -> Tlb {
        let mut tlb = Tlb::default();
        tlb.insert(SMALL, translation(Level(1), false));
        tlb.insert(SMALL + 4096, translation(Level(1), true));
        tlb.insert(LARGE, translation(Level(2), false));
        tlb.insert_branch(Level(1), SMALL, Branch { table: PhysAddr::new(0x1000), rights: Rights::ALL });
        tlb
    }

    #[test]
    fn entries_cover_their_page_and_no_more() {
        let tlb = filled();
        assert!(tlb.lookup(SMALL + 0xfff).is_some());
        assert!(tlb.lookup(SMALL - 1).is_none());
        assert!(tlb.lookup(LARGE + 0x1f_ffff).is_some());
        assert!(tlb.lookup(LARGE + 0x20_0000).is_none());
    }

    #[test]
    fn flushing_a_page_leaves_the_others_but_no_branch() {
        let mut tlb = filled();
        tlb.flush_page(SMALL + 8);
        assert!(tlb.lookup(SMALL).is_none());
        assert!(tlb.lookup(SMALL + 4096).is_some());
        assert!(tlb.nearest_branch(SMALL).is_none());
        tlb.flush_page(SMALL + 4096);
        assert_eq!(tlb.len(), 1);
        tlb.flush_page(LARGE + 0x10_0000);
        assert_eq!(tlb.len(), 0);
    }

    #[test]
    fn globals_survive_all_but_a_full_flush() {
        let mut tlb = filled();
        tlb.flush_non_global();
        assert_eq!(tlb.len(), 1);
        assert!(tlb.lookup(SMALL + 4096).is_some());
        tlb.flush_all();
        assert_eq!(tlb.len(), 0);
    }

    #[test]
    fn a_branch_serves_what_its_table_covers() {
        let tlb = filled();
        let first_of_table = SMALL & !0x1f_ffff;
        assert!(tlb.nearest_branch(first_of_table + 0x1f_f000).is_some());
        assert!(tlb.nearest_branch(first_of_table + 0x20_0000).is_none());
    }

    #[test]
    fn a_fault_drops_the_faulting_page() {
        let mut tlb = filled();
        tlb.fault(SMALL);
        assert!(tlb.lookup(SMALL).is_none());
        assert!(tlb.nearest_branch(SMALL).is_some());
    }
}
