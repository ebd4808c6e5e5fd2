//! Cursors of several CPUs at once.

use std::thread;

use super::*;

const ROUNDS: u64 = if cfg!(miri) { 2 } else { 2000 };

#[test]
fn disjoint_tables_are_never_contended() {
    let arena = Arena::new(64);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    thread::scope(|scope| {
        for cpu in 0..4 {
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
        let mut reserve = Reserve::new(arena, &pin);
        let changed = reprotect(table, arena, &mut reserve, part, Protection::USER_CODE).unwrap();
        assert_eq!(changed.pages, part.count());
        assert_eq!(clear(table, arena, &pin, own).unwrap().pages, 512);
        map(table, arena, &pin, own, frame, Level::PAGE).unwrap();
        let promoted = promote(table, arena, own, Level::HUGE).unwrap();
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
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    thread::scope(|scope| {
        for cpu in 0..4 {
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
    let walks = Walks::new();
    thread::scope(|scope| {
        for cpu in 0..3u64 {
            let (arena, table, walks) = (&arena, &table, &walks);
            scope.spawn(move || {
                let pin = pin(cpu as usize);
                let mut state = cpu + 1;
                let mut random = |bound: u64| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % bound
                };
                for _ in 0..ROUNDS {
                    let range = pages(0x4_0000 - 600 + random(1200), 1 + random(20));
                    let mut chain = Chain::EMPTY;
                    for _ in 0..range.count() {
                        chain.push(arena, arena.allocate(&pin).unwrap());
                    }
                    let mut backing =
                        Chained { memory: arena, level: Level::PAGE, frames: &mut chain, attributes: OWNED };
                    let mut reserve = Reserve::new(arena, &pin);
                    let filled = table.fill(arena, &mut reserve, range, &mut backing, |replaced| replaced);
                    assert!(filled.is_err() || chain.is_empty());
                    arena.free_chain(&pin, chain);
                    drop(reserve);
                    let _ = table.walk(arena, &walks.enter(&pin), range.first);
                    let wide = pages(range.first & !511, 512 * (1 + random(3)));
                    let changed = clear(table, arena, &pin, wide).unwrap();
                    // What a shootdown would do before: wait for the software walks.
                    while !walks.wait_for_others(thread::yield_now) {}
                    arena.free_changed(&pin, changed);
                }
            });
        }
    });
    finish(&table, &arena);
}
