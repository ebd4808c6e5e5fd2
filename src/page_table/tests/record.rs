//! A change is recorded before anybody else can change the same entries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const HUGE: u64 = 512;

/// What another CPU does meanwhile, with the same page.
type Other = fn(&Table, &Arena);

/// Calls `change` with a function for its `record`: while that runs, another CPU makes the change `other`,
/// which must not be done before `record` has returned.
fn recorded_first(change: impl FnOnce(&Table, &Arena, &dyn Fn()), other: Other) {
    let arena = Arena::new(64);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    // Two pages in the same table, so that both CPUs need the same lock; and a neighbour.
    map(&table, &arena, &pin(0), pages(HUGE, 2), foreign(8 * HUGE), Level::PAGE).unwrap();
    let (recorded, called) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (arena, table, recorded) = (&arena, &table, &recorded);
        change(table, arena, &|| {
            called.store(true, Ordering::SeqCst);
            let second = scope.spawn(move || {
                other(table, arena);
                assert!(recorded.load(Ordering::SeqCst), "it came in between");
            });
            while table.locks().contended() == 0 && !second.is_finished() {
                thread::yield_now();
            }
            recorded.store(true, Ordering::SeqCst);
        });
    });
    assert!(called.into_inner(), "nothing was recorded");
}

fn unmap_it(table: &Table, arena: &Arena) {
    let changed = clear(table, arena, &pin(1), pages(HUGE, 2)).unwrap();
    arena.free_changed(&pin(1), changed);
}

fn unmap_what_moved(table: &Table, arena: &Arena) {
    let changed = clear(table, arena, &pin(1), pages(5 * HUGE, 2)).unwrap();
    arena.free_changed(&pin(1), changed);
}

fn map_it(table: &Table, arena: &Arena) {
    map(table, arena, &pin(1), pages(HUGE + 7, 1), foreign(1), Level::PAGE).unwrap();
}

#[test]
fn unmappings_are() {
    for count in [1, 2] {
        for other in [unmap_it as Other, map_it] {
            recorded_first(
                |table, arena, record| {
                    let (pin, mut changed) = (pin(0), Changed::NOTHING);
                    let mut reserve = Reserve::new(arena, &pin);
                    table
                        .clear(
                            arena.by(&pin),
                            &mut reserve,
                            pages(HUGE, count),
                            &mut changed,
                            |_, _| {},
                            |_| record(),
                        )
                        .unwrap();
                },
                other,
            );
        }
    }
}

#[test]
fn wider_unmappings_are() {
    recorded_first(
        |table, arena, record| {
            let (pin, mut changed) = (pin(0), Changed::NOTHING);
            let mut reserve = Reserve::new(arena, &pin);
            table
                .clear(
                    arena.by(&pin),
                    &mut reserve,
                    pages(0, 3 * HUGE),
                    &mut changed,
                    |_, _| {},
                    |_| record(),
                )
                .unwrap();
            arena.free_changed(&pin, changed);
        },
        unmap_it,
    );
}

#[test]
fn protections_are() {
    recorded_first(
        |table, arena, record| {
            let (pin, mut changed) = (pin(0), Changed::NOTHING);
            let mut reserve = Reserve::new(arena, &pin);
            let (range, protection) = (pages(HUGE, 1), Protection::USER_READ_ONLY);
            table
                .reprotect(arena.by(&pin), &mut reserve, range, protection, &mut changed, |_| record())
                .unwrap();
        },
        unmap_it,
    );
}

#[test]
fn single_pages_are() {
    recorded_first(
        |table, arena, record| {
            let (mut changed, range) = (Changed::NOTHING, pages(HUGE, 1));
            let read_only = Protection::USER_READ_ONLY;
            table
                .reprotect_page(arena.by(&pin(0)), range, Level::PAGE, read_only, &mut changed, |_| record())
                .unwrap();
        },
        unmap_it,
    );
    recorded_first(
        |table, arena, record| {
            let mut changed = Changed::NOTHING;
            let pin = pin(0);
            let reserve = &mut Reserve::new(arena, &pin);
            table
                .clear_page(
                    arena.by(&pin),
                    reserve,
                    pages(HUGE, 1),
                    Level::PAGE,
                    &mut changed,
                    |_, _| {},
                    |_| record(),
                )
                .unwrap();
        },
        unmap_it,
    );
}

/// At the old place and at the new one.
#[test]
fn moves_are() {
    for other in [unmap_it as Other, map_it, unmap_what_moved] {
        recorded_first(
            |table, arena, record| {
                let pin = pin(0);
                let mut reserve = Reserve::new(arena, &pin);
                let (from, to) = (pages(HUGE, 2), pages(5 * HUGE, 2));
                table
                    .relocate(arena.by(&pin), &mut reserve, from, to, MovedRegions::default(), |_| record())
                    .unwrap();
            },
            other,
        );
    }
}

#[test]
fn mappings_are() {
    recorded_first(
        |table, arena, record| {
            let pin = pin(0);
            let mut reserve = Reserve::new(arena, &pin);
            let range = pages(HUGE + 7, 1);
            let mut backing = Contiguous {
                first_page: range.first,
                frame: foreign(77),
                largest: Level::PAGE,
                attributes: BORROWED,
            };
            table.fill(arena.by(&pin), &mut reserve, range, &mut backing, |_| record()).unwrap();
        },
        unmap_it,
    );
}
