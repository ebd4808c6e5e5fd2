//! One CPU's translation caches: they evict nothing by themselves.
//!
//! Hardware may drop an entry at any time, so a missing flush often goes unnoticed there. Here an
//! entry stays until software asks for its removal, and a missing flush shows every time. What
//! each operation removes follows the Intel SDM, volume 3A, section 4.10.4.1, and for INVLPGB the
//! AMD APM, volume 3; where they allow more to go than they demand, no more goes.

use std::collections::HashMap;
use std::vec::Vec;

use topomem_percpu::PhysAddr;
use topomem_shootdown::RootLoad;

/// A level of the page-table tree. Leaves are possible at 1, 2 and 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::sim) struct Level(u8);

impl Level {
    /// The table whose entries map 4 KiB.
    pub(super) const LAST: Level = Level(1);
    /// The root of a four-level tree.
    pub(in crate::sim) const ROOT: Level = Level(4);

    pub(in crate::sim) const fn below(self) -> Option<Level> {
        if self.0 > 1 { Some(Level(self.0 - 1)) } else { None }
    }

    pub(in crate::sim) const fn get(self) -> u8 {
        self.0
    }

    /// How many address bits one entry covers: 12, 21, 30 or 39.
    pub(in crate::sim) const fn shift(self) -> u32 {
        3 + 9 * self.0 as u32
    }

    /// Which entry of a table at this level covers `address`.
    pub(in crate::sim) const fn index(self, address: u64) -> u64 {
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
    pub(in crate::sim) writable: bool,
    pub(in crate::sim) user: bool,
    pub(in crate::sim) executable: bool,
}

impl Rights {
    pub(in crate::sim) const ALL: Rights = Rights { writable: true, user: true, executable: true };
}

/// A cached translation of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) struct Translation {
    /// Where the page begins.
    pub(in crate::sim) base: PhysAddr,
    /// 1, 2 or 3: a page of 4 KiB, 2 MiB or 1 GiB.
    pub(in crate::sim) level: Level,
    pub(super) rights: Rights,
    /// The page's entry was dirty when it was cached: a write has nothing to mark.
    pub(in crate::sim) dirty: bool,
    pub(in crate::sim) global: bool,
}

/// A cached way to a table, with what the entries above it allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Branch {
    pub(in crate::sim) table: PhysAddr,
    pub(super) rights: Rights,
}

/// Whose a translation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Tag {
    /// Everybody's: the page is global.
    Global,
    Of(u16),
}

/// The translations and the ways to tables that one CPU holds, of all ASIDs.
#[derive(Debug, Default)]
pub(in crate::sim) struct Tlb {
    current: u16,
    /// The highest ASID that was ever current.
    highest: u16,
    pages: [HashMap<(Tag, u64), Translation>; 3],
    /// The table at a level that covers an address, for an ASID: the paging-structure caches.
    branches: HashMap<(u16, Level, u64), Branch>,
}

impl Tlb {
    const LEAVES: [Level; 3] = [Level(1), Level(2), Level(3)];

    /// The translation of `address`, stale or not.
    pub(in crate::sim) fn lookup(&self, address: u64) -> Option<Translation> {
        let tags = [Tag::Of(self.current), Tag::Global];
        let of_tag = |tag| {
            Tlb::LEAVES.iter().zip(&self.pages).find_map(|(level, pages)| {
                if pages.is_empty() { None } else { pages.get(&(tag, level.prefix(address))).copied() }
            })
        };
        tags.into_iter().find_map(of_tag)
    }

    pub(in crate::sim) fn insert(&mut self, address: u64, translation: Translation) {
        let level = translation.level;
        let tag = if translation.global { Tag::Global } else { Tag::Of(self.current) };
        if let Some(pages) = self.pages.get_mut(usize::from(level.get()) - 1) {
            pages.insert((tag, level.prefix(address)), translation);
        }
    }

    /// The lowest cached table on the way to `address`, and its level.
    pub(super) fn nearest_branch(&self, address: u64) -> Option<(Level, Branch)> {
        if self.branches.is_empty() {
            return None;
        }
        Tlb::LEAVES.iter().find_map(|&level| {
            let branch = self.branches.get(&(self.current, level, Tlb::covered(level, address)))?;
            Some((level, *branch))
        })
    }

    /// Remembers that the table at `level` on the way to `address` is `branch`; true where that
    /// is news.
    pub(super) fn insert_branch(&mut self, level: Level, address: u64, branch: Branch) -> bool {
        self.branches.insert((self.current, level, Tlb::covered(level, address)), branch) != Some(branch)
    }

    /// The tables cached for the current ASID: the level of each, the first address that it covers,
    /// and the way there.
    pub(super) fn branches(&self) -> Vec<(Level, u64, Branch)> {
        let of_current = self.branches.iter().filter(|&(&(asid, _, _), _)| asid == self.current);
        let place = |(&(_, level, covered), &branch): (&(u16, Level, u64), &Branch)| {
            (level, covered << 9 << level.shift(), branch)
        };
        of_current.map(place).collect()
    }

    /// What a whole table at `level` covers: the prefix above its index.
    const fn covered(level: Level, address: u64) -> u64 {
        level.prefix(address) >> 9
    }

    /// A CR3 write.
    pub(in crate::sim) fn load_root(&mut self, load: RootLoad) {
        match load {
            RootLoad::Untagged => self.flush_asid(0),
            RootLoad::Keep(asid) => self.current = asid.get(),
            RootLoad::Flush(asid) => {
                self.current = asid.get();
                self.flush_asid(asid.get());
            }
        }
        self.highest = self.highest.max(self.current);
    }

    /// INVLPG: every translation of `address` that the current ASID has, global ones too, and all
    /// its paging-structure caches.
    pub(in crate::sim) fn flush_page(&mut self, address: u64) {
        self.remove(Tag::Of(self.current), address);
        self.remove(Tag::Global, address);
        let current = self.current;
        self.branches.retain(|&(asid, _, _), _| asid != current);
    }

    /// INVPCID of type 0: the translations of `address` that `asid` has, and the ways to it.
    pub(in crate::sim) fn flush_page_of(&mut self, asid: u16, address: u64) {
        self.remove(Tag::Of(asid), address);
        self.remove_ways(asid, address);
    }

    /// What an INVLPGB by address does to each CPU: the translations of `address` that any ASID
    /// has, global ones too, and the ways to it.
    pub(super) fn flush_page_of_all(&mut self, address: u64) {
        self.remove(Tag::Global, address);
        (0..=self.highest).for_each(|asid| self.flush_page_of(asid, address));
    }

    /// INVPCID of type 1, and a CR3 write that flushes: all that `asid` has, its paging-structure
    /// caches too.
    fn flush_asid(&mut self, asid: u16) {
        for pages in &mut self.pages {
            pages.retain(|&(tag, _), _| tag != Tag::Of(asid));
        }
        self.branches.retain(|&(of, _, _), _| of != asid);
    }

    /// The same for the current ASID.
    pub(in crate::sim) fn flush_non_global(&mut self) {
        self.flush_asid(self.current);
    }

    /// A change of CR4.PGE, and INVPCID of type 2: everything.
    pub(in crate::sim) fn flush_all(&mut self) {
        for pages in &mut self.pages {
            pages.clear();
        }
        self.branches.clear();
    }

    /// What a page fault at `address` removes: its translations, as a faulting processor does.
    pub(in crate::sim) fn fault(&mut self, address: u64) {
        self.remove(Tag::Of(self.current), address);
        self.remove(Tag::Global, address);
    }

    fn remove(&mut self, tag: Tag, address: u64) {
        for (level, pages) in Tlb::LEAVES.iter().zip(&mut self.pages) {
            pages.remove(&(tag, level.prefix(address)));
        }
    }

    fn remove_ways(&mut self, asid: u16, address: u64) {
        for level in Tlb::LEAVES {
            self.branches.remove(&(asid, level, Tlb::covered(level, address)));
        }
    }

    /// How many translations are held, of all ASIDs.
    pub(in crate::sim) fn len(&self) -> usize {
        self.pages.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use topomem_shootdown::Asid;

    use super::*;

    const SMALL: u64 = 0x1234_5678_9000;
    const LARGE: u64 = 0x4000_0000;

    fn translation(level: Level, global: bool) -> Translation {
        Translation { base: PhysAddr::new(0x20_0000), level, rights: Rights::ALL, dirty: true, global }
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

    /// What ASID 1 and ASID 2 have of two pages, current at the end: 2.
    fn of_two_asids() -> Tlb {
        let [one, two] = asids();
        let mut tlb = Tlb::default();
        for asid in [one, two] {
            tlb.load_root(RootLoad::Flush(asid));
            tlb.insert(SMALL, translation(Level(1), false));
            tlb.insert(SMALL + 4096, translation(Level(1), false));
            tlb.insert_branch(Level(1), SMALL, Branch { table: PhysAddr::new(0x1000), rights: Rights::ALL });
        }
        tlb
    }

    /// The first two that a CPU gives out.
    fn asids() -> [Asid; 2] {
        [1, 2].map(|number| Asid::new(number).unwrap())
    }

    fn has(tlb: &mut Tlb, asid: Asid, address: u64) -> (bool, bool) {
        tlb.load_root(RootLoad::Keep(asid));
        (tlb.lookup(address).is_some(), tlb.nearest_branch(address).is_some())
    }

    #[test]
    fn asids_are_apart() {
        let [one, two] = asids();
        let mut tlb = of_two_asids();
        tlb.flush_page(SMALL);
        assert_eq!(has(&mut tlb, two, SMALL), (false, false));
        assert_eq!(has(&mut tlb, two, SMALL + 4096), (true, false));
        assert_eq!(has(&mut tlb, one, SMALL), (true, true));
        tlb.flush_non_global();
        assert_eq!(has(&mut tlb, one, SMALL), (false, false));
        assert_eq!(has(&mut tlb, two, SMALL + 4096), (true, false));
        tlb.load_root(RootLoad::Flush(two));
        assert_eq!(tlb.len(), 0);
    }

    #[test]
    fn global_translations_are_of_all_asids() {
        let [one, two] = asids();
        let mut tlb = of_two_asids();
        tlb.insert(LARGE, translation(Level(2), true));
        assert_eq!(has(&mut tlb, one, LARGE), (true, false));
        tlb.flush_page(LARGE);
        assert_eq!(has(&mut tlb, two, LARGE), (false, false));
        assert_eq!(has(&mut tlb, two, SMALL), (true, true), "the ways of the other ASIDs stay");
    }

    #[test]
    fn a_selective_flush_is_of_one_page_of_one_asid() {
        let [one, two] = asids();
        let mut tlb = of_two_asids();
        tlb.flush_page_of(one.get(), SMALL);
        assert_eq!(has(&mut tlb, one, SMALL), (false, false));
        assert_eq!(has(&mut tlb, one, SMALL + 4096), (true, false));
        assert_eq!(has(&mut tlb, two, SMALL), (true, true));
        tlb.flush_page_of_all(SMALL + 4096);
        assert_eq!(has(&mut tlb, one, SMALL + 4096), (false, false));
        assert_eq!(has(&mut tlb, two, SMALL + 4096), (false, false));
        assert_eq!(has(&mut tlb, two, SMALL), (true, false), "one table covers both pages");
    }
}
