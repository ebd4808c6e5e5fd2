use super::*;

const ROOT: u64 = 0x1000;
const PAGE: u64 = 0x7000;
const OTHER: u64 = 0x8000;
const ADDRESS_4K: u64 = 0xffff_c000_1234_5000;

/// RAM with a root and a path of tables at 0x2000, 0x3000, 0x4000 down to `ADDRESS_4K`.
fn tables() -> (Arena, Tlb) {
    let arena = Arena::new(PhysAddr::new(0), 4 << 20).unwrap();
    let mut table = ROOT;
    let mut level = Level::ROOT;
    while let Some(below) = level.below() {
        set(&arena, table, level, (table + 0x1000) | PRESENT | WRITABLE | USER);
        table += 0x1000;
        level = below;
    }
    set(&arena, table, Level::LAST, PAGE | PRESENT | WRITABLE);
    (arena, Tlb::default())
}

fn set(arena: &Arena, table: u64, level: Level, entry: u64) {
    arena.store(PhysAddr::new(table + level.index(ADDRESS_4K) * 8), entry).unwrap();
}

fn set_leaf(arena: &Arena, entry: u64) {
    set(arena, 0x4000, Level::LAST, entry);
}

fn kernel(arena: &Arena, tlb: &mut Tlb, access: Access) -> Result<u64, Fault> {
    let root = Some(PhysAddr::new(ROOT));
    translate(arena, tlb, root, ADDRESS_4K + 8, access, Privilege::Kernel).map(PhysAddr::as_u64)
}

#[test]
fn walks_to_the_page() {
    let (arena, mut tlb) = tables();
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(tlb.len(), 1);
}

#[test]
fn a_stale_translation_is_used_until_flushed() {
    let (arena, mut tlb) = tables();
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    set_leaf(&arena, OTHER | PRESENT);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    tlb.flush_page(ADDRESS_4K);
    assert_eq!(kernel(&arena, &mut tlb, Access::Read), Ok(OTHER + 8));
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Err(denied(Access::Write)));
}

#[test]
fn an_unmapped_page_answers_until_flushed() {
    let (arena, mut tlb) = tables();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, 0);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    tlb.flush_non_global();
    let fault = Fault::NotPresent { address: ADDRESS_4K + 8, level: 1 };
    assert_eq!(kernel(&arena, &mut tlb, Access::Read), Err(fault));
    assert_eq!(tlb.len(), 0, "a missing page is not cached");
}

#[test]
fn a_freed_table_is_walked_until_flushed() {
    let (arena, mut tlb) = tables();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    tlb.fault(ADDRESS_4K);
    set(&arena, ROOT, Level::ROOT, 0);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok(), "by the paging-structure cache");
    tlb.flush_page(ADDRESS_4K);
    let fault = Fault::NotPresent { address: ADDRESS_4K + 8, level: 4 };
    assert_eq!(kernel(&arena, &mut tlb, Access::Read), Err(fault));
}

#[test]
fn a_global_page_survives_a_change_of_root() {
    let (arena, mut tlb) = tables();
    set_leaf(&arena, PAGE | PRESENT | GLOBAL);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, 0);
    tlb.flush_non_global();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    tlb.flush_all();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_err());
}

#[test]
fn rights_are_the_least_on_the_way() {
    let (arena, mut tlb) = tables();
    set(&arena, 0x2000, Level::ROOT.below().unwrap(), 0x3000 | PRESENT | USER | NO_EXECUTE);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Err(denied(Access::Write)));
    assert_eq!(kernel(&arena, &mut tlb, Access::Execute), Err(denied(Access::Execute)));
    let root = Some(PhysAddr::new(ROOT));
    let user = translate(&arena, &mut tlb, root, ADDRESS_4K + 8, Access::Read, Privilege::User);
    assert_eq!(user, Err(denied(Access::Read)));
}

#[test]
fn a_denied_access_drops_the_stale_right() {
    let (arena, mut tlb) = tables();
    set_leaf(&arena, PAGE | PRESENT);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, PAGE | PRESENT | WRITABLE);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Err(denied(Access::Write)));
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8), "spurious faults end by retrying");
}

/// The level whose entries point to the lowest tables.
fn directory() -> Level {
    let level = Level::ROOT.below().and_then(Level::below).unwrap();
    assert_eq!(level.below(), Some(Level::LAST));
    level
}

fn entry(arena: &Arena, table: u64, level: Level) -> u64 {
    arena.load(PhysAddr::new(table + level.index(ADDRESS_4K) * 8)).unwrap()
}

fn marks(arena: &Arena) -> u64 {
    entry(arena, 0x4000, Level::LAST) & (ACCESSED | DIRTY)
}

#[test]
fn a_walk_marks_what_it_uses() {
    let (arena, mut tlb) = tables();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    let (mut table, mut level) = (ROOT, Level::ROOT);
    while let Some(below) = level.below() {
        assert_eq!(entry(&arena, table, level) & (ACCESSED | DIRTY), ACCESSED, "level {}", level.get());
        (table, level) = (table + 0x1000, below);
    }
    assert_eq!(marks(&arena), ACCESSED);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(marks(&arena), ACCESSED | DIRTY, "by the first write");
    set_leaf(&arena, PAGE | PRESENT | WRITABLE);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(marks(&arena), 0, "it was cached as dirty");
    tlb.flush_page(ADDRESS_4K);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(marks(&arena), ACCESSED | DIRTY);
}

#[test]
fn a_page_that_was_dirty_is_cached_so() {
    let (arena, mut tlb) = tables();
    set_leaf(&arena, PAGE | PRESENT | WRITABLE | DIRTY);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, 0);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(entry(&arena, 0x4000, Level::LAST), 0);
}

#[test]
fn the_first_write_looks_at_the_entry_again() {
    let (arena, mut tlb) = tables();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, OTHER | PRESENT | WRITABLE);
    assert_eq!(kernel(&arena, &mut tlb, Access::Read), Ok(PAGE + 8));
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(OTHER + 8));
    assert_eq!(marks(&arena), ACCESSED | DIRTY);
    tlb.flush_page(ADDRESS_4K);
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set_leaf(&arena, 0);
    let fault = Fault::NotPresent { address: ADDRESS_4K + 8, level: 1 };
    tlb.flush_page(ADDRESS_4K);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Err(fault));
    assert_eq!(entry(&arena, 0x4000, Level::LAST), 0, "nothing is marked that is not present");
}

#[test]
fn a_write_by_a_cached_way_marks_an_unlinked_table() {
    let (arena, mut tlb) = tables();
    assert!(kernel(&arena, &mut tlb, Access::Read).is_ok());
    set(&arena, 0x3000, directory(), 0);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Ok(PAGE + 8));
    assert_eq!(marks(&arena), ACCESSED | DIRTY);
}

#[test]
fn a_denied_access_marks_no_page() {
    let (arena, mut tlb) = tables();
    set_leaf(&arena, PAGE | PRESENT);
    assert_eq!(kernel(&arena, &mut tlb, Access::Write), Err(denied(Access::Write)));
    assert_eq!(marks(&arena), 0);
}

/// Software that replaces the entry gets each mark with the old entry, or the walk finds the new one.
#[test]
fn no_mark_is_lost_to_an_atomic_change() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 20_000 };
    let (arena, _) = tables();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut tlb = Tlb::default();
            let mut written = [0; 2];
            for _ in 0..ROUNDS {
                tlb.flush_all();
                if let Ok(place) = kernel(&arena, &mut tlb, Access::Write) {
                    written[usize::from(place == OTHER + 8)] += 1;
                }
            }
            written
        });
        let word = arena.word(PhysAddr::new(0x4000 + Level::LAST.index(ADDRESS_4K) * 8)).unwrap();
        let mut dirty = [0, 0];
        let mut turn = 0;
        while !writer.is_finished() {
            let new = if turn % 2 == 0 { OTHER } else { PAGE };
            let old = word.swap(new | PRESENT | WRITABLE, Ordering::AcqRel);
            let from = usize::from(old & ADDRESS == OTHER);
            assert_eq!(from, turn % 2, "the walk wrote an entry that was replaced");
            dirty[from] += u64::from(old & DIRTY != 0);
            turn += 1;
        }
        let last = word.load(Ordering::Acquire);
        dirty[usize::from(last & ADDRESS == OTHER)] += u64::from(last & DIRTY != 0);
        let written = writer.join().unwrap();
        for (place, (dirty, written)) in dirty.into_iter().zip(written).enumerate() {
            assert!(dirty <= written && (written == 0) == (dirty == 0), "{place}: {dirty} of {written}");
        }
    });
}

#[test]
fn large_pages_translate_their_offset() {
    let (arena, mut tlb) = tables();
    set(&arena, 0x3000, Level::LAST, 0);
    set(&arena, 0x3000, directory(), 0x20_0000 | PRESENT | LARGE | 1 << 12);
    assert_eq!(kernel(&arena, &mut tlb, Access::Read), Ok(0x20_0000 + (ADDRESS_4K & 0x1f_ffff) + 8));
}

#[test]
fn bad_addresses_and_bad_tables_are_faults() {
    let (arena, mut tlb) = tables();
    let root = Some(PhysAddr::new(ROOT));
    let mut read =
        |root, address| translate(&arena, &mut tlb, root, address, Access::Read, Privilege::Kernel);
    assert_eq!(read(root, 1 << 47), Err(Fault::NotCanonical(1 << 47)));
    assert_eq!(read(None, 0), Err(Fault::NoRoot(0)));
    let physical = PhysAddr::new(1 << 30);
    assert_eq!(read(Some(physical), 0), Err(Fault::BusError { address: 0, physical }));
}

fn denied(access: Access) -> Fault {
    Fault::Denied { address: ADDRESS_4K + 8, access }
}
