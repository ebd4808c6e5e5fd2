mod alike;
mod arena;
mod chain;
mod concurrent;
mod marks;
mod model;
mod promote;
mod record;
mod rewrite;
#[cfg(topomem_count)]
mod shared_lines;
mod shares;
mod steps;

use arena::Arena;
use topomem_percpu::{CpuId, CpuPin, PhysAddr, PhysFrame};

use super::*;

type Table = PageTable<X64<4>>;

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: each test thread plays one CPU, and no other thread plays the same.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

/// A frame that no arena has: borrowed mappings may name any.
fn foreign(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

fn pages(first: u64, count: u64) -> Pages {
    Pages { first, last: first + count - 1 }
}

const BORROWED: Attributes =
    Attributes { protection: Protection::USER_DATA, reach: Reach::Space, ownership: Ownership::Borrowed };

const OWNED: Attributes = Attributes { ownership: Ownership::Owned, ..BORROWED };

fn map(
    table: &Table,
    arena: &Arena,
    pin: &CpuPin,
    pages: Pages,
    frame: PhysFrame,
    largest: Level,
) -> Result<(), FillError<arena::Empty>> {
    let mut backing = Contiguous { first_page: pages.first, frame, largest, attributes: BORROWED };
    let mut reserve = Reserve::new(arena, pin);
    let replaced = table.fill(arena.by(pin), &mut reserve, pages, &mut backing, |replaced| replaced)?;
    arena.free_chain(pin, replaced);
    Ok(())
}

fn clear(table: &Table, arena: &Arena, pin: &CpuPin, pages: Pages) -> Result<Changed, arena::Empty> {
    let mut changed = Changed::NOTHING;
    table.clear(arena.by(pin), &mut Reserve::new(arena, pin), pages, &mut changed, |_, _| {}, |_| ())?;
    Ok(changed)
}

fn reprotect(
    table: &Table,
    arena: &Arena,
    pin: &CpuPin,
    pages: Pages,
    protection: Protection,
) -> Result<Changed, arena::Empty> {
    let mut changed = Changed::NOTHING;
    table.reprotect(arena.by(pin), &mut Reserve::new(arena, pin), pages, protection, &mut changed, |_| ())?;
    Ok(changed)
}

/// Maps `pages`, 4 KiB each, to frames of the arena from `frame` on, which were allocated so.
fn own_run(table: &Table, arena: &Arena, pin: &CpuPin, pages: Pages, frame: PhysFrame) {
    let mut backing = Contiguous { first_page: pages.first, frame, largest: Level::PAGE, attributes: OWNED };
    let replaced = table
        .fill(arena.by(pin), &mut Reserve::new(arena, pin), pages, &mut backing, |replaced| replaced)
        .unwrap();
    arena.free_chain(pin, replaced);
}

fn promote(table: &Table, arena: &Arena, pin: &CpuPin, pages: Pages, level: Level) -> Result<Changed, Unfit> {
    let mut reserve = Reserve::new(arena, pin);
    table.promote(arena.by(pin), &mut reserve, pages, level, |changed| changed).map_err(|error| match error {
        Unpromoted::Unfit(unfit) => unfit,
        Unpromoted::Tables(error) => panic!("{error:?}"),
    })
}

std::thread_local! {
    static WALKS: Walks = const { Walks::new() };
}

fn find(table: &Table, arena: &Arena, page: u64) -> Option<(PhysFrame, Level, Protection)> {
    let pin = pin(0);
    let (leaf, level) = WALKS.with(|walks| table.walk(arena, &walks.enter(&pin), page))?;
    Some((leaf.frame + page % level.pages(), level, leaf.protection))
}

/// How many entries are claimed in the table in `frame`, of `level`, and below.
fn claims(arena: &Arena, frame: PhysFrame, level: Level) -> usize {
    // SAFETY: it is linked, and nobody changes the table meanwhile.
    let table = unsafe { table_at(arena, frame) };
    let of_entry = |index| {
        let raw = table.load(index);
        let below = match (X64::<4>::decode(raw, level), level.below()) {
            (Entry::Table(next), Some(below)) => claims(arena, next, below),
            _ => 0,
        };
        let claimed = level > Level::PAGE && raw.0 & X64::<4>::CLAIM != 0;
        usize::from(claimed) + below
    };
    (0..ENTRIES).map(of_entry).sum()
}

/// Everything below the root goes, and so do its frames; only the root is left in the arena.
fn finish(table: &Table, arena: &Arena) {
    assert_eq!(claims(arena, table.root(), Level::FOURTH), 0, "claims leaked");
    let pin = pin(0);
    let everything = Pages { first: 0, last: (1 << 35) - 1 };
    let changed = clear(table, arena, &pin, everything).unwrap();
    arena.free_changed(&pin, changed);
    assert_eq!(arena.allocated(), 1, "tables or frames leaked");
}
