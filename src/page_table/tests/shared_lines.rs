//! Which lines CPUs write that change disjoint ranges of one page table: with the production code on
//! observed atomics (`--cfg topomem_count`).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::vec::Vec;

use topomem_percpu::sync::observed::{Access, observe};

use super::*;

const LINE: usize = 64;

/// A CPU's pages begin this far from the next one's: the directory's entries of 16 MiB share a line.
const APART: u64 = 8 * 512;

std::thread_local! {
    /// The CPU that the thread plays, while it is observed.
    static CPU: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lines by number, and the CPUs that have written them.
static WRITERS: Mutex<BTreeMap<usize, BTreeSet<usize>>> = Mutex::new(BTreeMap::new());

fn writers() -> MutexGuard<'static, BTreeMap<usize, BTreeSet<usize>>> {
    WRITERS.lock().unwrap()
}

fn note(access: Access) {
    if let (Some(cpu), Access::Store(address) | Access::ReadModifyWrite(address)) = (CPU.get(), access) {
        writers().entry(address / LINE).or_default().insert(cpu);
    }
}

/// A page of each CPU's own, a large page, and a range that reaches into the next 2 MiB.
fn change(arena: &Arena, table: &Table, cpu: usize, round: u64) {
    let pin = pin(cpu);
    let own = 0x4_0000 + cpu as u64 * APART;
    for (range, largest) in [
        (pages(own + round % 512, 1), Level::PAGE),
        (pages(own + 512, 512), Level::HUGE),
        (pages(own + 1024 + 500, 50), Level::PAGE),
    ] {
        map(table, arena, &pin, range, foreign(0x10_0000 + range.first), largest).unwrap();
        let changed = reprotect(table, arena, &pin, range, Protection::USER_READ_ONLY).unwrap();
        assert_eq!(changed.pages, range.count());
        assert_eq!(clear(table, arena, &pin, range).unwrap().pages, range.count());
    }
}

#[test]
fn cpus_that_share_no_range_write_no_line_of_tables_in_common() {
    observe(note);
    for cpus in 1..=16 {
        let arena = Arena::new(80);
        let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
        // Then the tables are there.
        (0..cpus).for_each(|cpu| change(&arena, &table, cpu, 0));
        assert_eq!(table.locks().contended(), 0);
        writers().clear();
        thread::scope(|scope| {
            for cpu in 0..cpus {
                let (arena, table) = (&arena, &table);
                scope.spawn(move || {
                    CPU.set(Some(cpu));
                    (0..50).for_each(|round| change(arena, table, cpu, round));
                });
            }
        });
        assert_eq!(table.locks().contended(), 0, "{cpus} CPUs");
        let shared: Vec<_> =
            writers().iter().filter(|(_, cpus)| cpus.len() > 1).map(|(&line, _)| line).collect();
        assert_eq!(shared, [], "{cpus} CPUs");
        assert!(!writers().is_empty(), "nothing was observed");
        finish(&table, &arena);
    }
}
