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
                    let filled = table.fill(arena, &mut reserve, range, &mut backing);
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
