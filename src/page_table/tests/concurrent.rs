//! Cursors of several CPUs at once.

use std::thread;

use super::*;
use crate::budget::Budget;

const ROUNDS: u64 = if cfg!(miri) { 2 } else { 2000 };

/// CPUs whose ranges are disjoint. Miri runs one thread at a time, and slowly.
const CPUS: u64 = if cfg!(miri) { 2 } else { 4 };

/// A page table with a directory for the second GiB: who makes it has its entry for itself.
fn warm(arena: &Arena) -> Table {
    let table = Table::new(arena, &pin(0), RootEntries::Own).unwrap();
    map(&table, arena, &pin(0), pages(0x7_ffff, 1), foreign(1), Level::PAGE).unwrap();
    table
}

#[test]
fn disjoint_tables_are_never_contended() {
    let arena = Arena::new(64);
    let table = warm(&arena);
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (arena, table) = (&arena, &table);
            scope.spawn(move || {
                let pin = pin(cpu as usize);
                let own = pages(0x4_0000 + cpu * 512, 512);
                for round in 0..ROUNDS {
                    let frame = foreign(0x8000 + cpu * 512 + round % 7);
                    map(table, arena, &pin, own, frame, Level::PAGE).unwrap();
                    let changed = clear(table, arena, &pin, own).unwrap();
                    assert_eq!(changed.pages, 512);
                }
            });
        }
    });
    assert_eq!(table.locks().contended(), 0);
    finish(&table, &arena);
}

/// Each CPU has a 2 MiB range, the next one's neighbour: of pages, of a large leaf, split, promoted,
/// with the lowest table coming and going.
#[test]
fn neighbours_in_a_directory_are_never_contended() {
    each_beside_the_others(|arena, table, cpu, round| {
        let pin = pin(cpu as usize);
        let own = pages(0x4_0000 + cpu * 512, 512);
        let frame = foreign(0x8000 + cpu * 512);
        map(table, arena, &pin, pages(own.first + round % 512, 1), frame, Level::PAGE).unwrap();
        assert_eq!(clear(table, arena, &pin, own).unwrap().pages, 1);
        // The leaf takes the place of the table.
        map(table, arena, &pin, own, frame, Level::HUGE).unwrap();
        let part = pages(own.first + 100, 1 + round % 200);
        let changed = reprotect(table, arena, &pin, part, Protection::USER_CODE).unwrap();
        assert_eq!(changed.pages, part.count());
        assert_eq!(clear(table, arena, &pin, own).unwrap().pages, 512);
        map(table, arena, &pin, own, frame, Level::PAGE).unwrap();
        let promoted = promote(table, arena, &pin, own, Level::HUGE).unwrap();
        assert_eq!(promoted.retired.tables.len(), 1);
        arena.free_changed(&pin, promoted);
        assert_eq!(clear(table, arena, &pin, own).unwrap().pages, 512);
    });
}

/// Each CPU has 6 MiB of a directory, and empties it as a whole.
#[test]
fn wider_ranges_in_a_directory_are_never_contended() {
    each_beside_the_others(|arena, table, cpu, round| {
        let pin = pin(cpu as usize);
        let own = pages(0x4_0000 + cpu * 1536, 1536);
        let inner = pages(own.first + 300 + round % 100, 900);
        let frame = foreign(0x8000 + inner.first);
        map(table, arena, &pin, inner, frame, Level::HUGE).unwrap();
        let changed = clear(table, arena, &pin, own).unwrap();
        assert_eq!((changed.pages, changed.retired.tables.len()), (900, 2));
        arena.free_changed(&pin, changed);
    });
}

fn each_beside_the_others(work: impl Fn(&Arena, &Table, u64, u64) + Sync) {
    let arena = Arena::new(64);
    let table = warm(&arena);
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (arena, table, work) = (&arena, &table, &work);
            scope.spawn(move || (0..ROUNDS.div_ceil(8)).for_each(|round| work(arena, table, cpu, round)));
        }
    });
    assert_eq!(table.locks().contended(), 0);
    finish(&table, &arena);
}

/// Ranges overlap, tables come and go, and every frame is mapped by one CPU and retired by
/// another: each must come back exactly once.
#[test]
fn overlapping_changes_lose_and_double_nothing() {
    let arena = Arena::new(400);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    thread::scope(|scope| {
        for cpu in 0..3u64 {
            let (arena, table) = (&arena, &table);
            scope.spawn(move || {
                let pin = pin(cpu as usize);
                let mut random = random(cpu + 1);
                for _ in 0..ROUNDS {
                    let range = pages(0x4_0000 - 600 + random(1200), 1 + random(20));
                    let mut chain = Chain::EMPTY;
                    for _ in 0..range.count() {
                        chain.push(arena, arena.allocate(&pin).unwrap());
                    }
                    let mut backing =
                        Chained { memory: arena, level: Level::PAGE, frames: &mut chain, attributes: OWNED };
                    let mut reserve = Reserve::new(arena, &pin);
                    let filled =
                        table.fill(arena.by(&pin), &mut reserve, range, &mut backing, |replaced| replaced);
                    assert!(filled.is_err() || chain.is_empty());
                    arena.free_chain(&pin, chain);
                    drop(reserve);
                    let _ = table.walk(arena, &arena.by(&pin).enter(), range.first);
                    let wide = pages(range.first & !511, 512 * (1 + random(3)));
                    let changed = clear(table, arena, &pin, wide).unwrap();
                    arena.free_changed(&pin, changed);
                }
            });
        }
    });
    finish(&table, &arena);
}

/// The ends of a GiB and of 512 GiB.
const EDGES: [u64; 2] = [(1 << 27) - (1 << 18), 1 << 27];

/// Ranges of several directories, and of whole GiB and 512 GiB, beside small ones in them, and
/// sweeps.
#[test]
#[cfg_attr(miri, ignore = "walks through whole upper tables for minutes; the others cover the unsafe code")]
fn overlapping_changes_of_several_tables_lose_and_double_nothing() {
    let arena = Arena::new(2000);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    thread::scope(|scope| {
        for cpu in 0..3u64 {
            let (arena, table) = (&arena, &table);
            scope.spawn(move || {
                let pin = pin(cpu as usize);
                let mut random = random(cpu + 1);
                for _ in 0..ROUNDS.div_ceil(10) {
                    let edge = EDGES[random(2) as usize];
                    let range = pages(edge - random(40), 1 + random(80));
                    let mut chain = Chain::EMPTY;
                    for _ in 0..range.count() {
                        chain.push(arena, arena.allocate(&pin).unwrap());
                    }
                    let mut backing =
                        Chained { memory: arena, level: Level::PAGE, frames: &mut chain, attributes: OWNED };
                    let mut reserve = Reserve::new(arena, &pin);
                    let access = arena.by(&pin);
                    let filled = table.fill(access, &mut reserve, range, &mut backing, |replaced| replaced);
                    assert!(filled.is_err() || chain.is_empty());
                    arena.free_chain(&pin, chain);
                    drop(reserve);
                    let part = pages(edge - random(40), 1 + random(80));
                    let protected = reprotect(table, arena, &pin, part, Protection::USER_READ_ONLY).unwrap();
                    assert!(protected.retired.is_empty());
                    let gone = match random(4) {
                        0 => pages(edge - 512, 1024),
                        1 => pages(edge, 1 << 18),
                        2 => pages(EDGES[0], 1 << (18 + random(2))),
                        _ => pages((edge >> 27) << 27, 1 << 27),
                    };
                    arena.free_changed(&pin, clear(table, arena, &pin, gone).unwrap());
                    let (mut budget, mut swept) = (Budget::unlimited(), Chain::EMPTY);
                    table.reclaim(arena.by(&pin), pages(0, 1 << 28), &mut budget, |changed| {
                        swept.append(arena, changed.retired.tables);
                    });
                    arena.free_chain(&pin, swept);
                }
            });
        }
    });
    finish(&table, &arena);
}

/// Each CPU has a range that crosses the end of a GiB, and none is another's neighbour.
#[test]
#[cfg_attr(miri, ignore = "walks through whole upper tables for minutes; the others cover the unsafe code")]
fn ranges_of_several_tables_are_never_contended() {
    each_beside_the_others(|arena, table, cpu, round| {
        let pin = pin(cpu as usize);
        let own = pages(((2 * cpu + 3) << 18) - 300, 600);
        map(table, arena, &pin, own, foreign(0x10_0000 + round), Level::PAGE).unwrap();
        assert_eq!(clear(table, arena, &pin, own).unwrap().pages, 600);
    });
}

/// Numbers below a bound, drawn at random.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}
