//! What the orderings of page tables are for: each of these models of loom's fails without some of them.

mod arena;
mod cursors;
mod locks;
mod walks;

use arena::Arena;
use topomem_percpu::{CpuId, CpuPin};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::*;

type Table = PageTable<X64<4>>;

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: each of a model's threads plays one CPU, and no other thread plays the same.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

/// A frame that the arena does not have: borrowed mappings may name any.
fn foreign(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

/// What one entry of a table of `level` covers, from `first` on.
fn covered(first: u64, level: Level) -> Pages {
    Pages { first, last: first + level.pages() - 1 }
}

/// Maps `pages` to the frames from `frame` on.
fn map(table: &Table, arena: &Arena, pin: &CpuPin, pages: Pages, frame: PhysFrame) {
    let attributes =
        Attributes { protection: Protection::USER_DATA, reach: Reach::Space, ownership: Ownership::Borrowed };
    let mut backing = Contiguous { first_page: pages.first, frame, largest: Level::PAGE, attributes };
    let mut reserve = Reserve::new(arena, pin);
    let replaced = table.fill(arena, &mut reserve, pages, &mut backing).unwrap();
    assert!(replaced.is_empty());
}

fn page(page: u64) -> Pages {
    Pages { first: page, last: page }
}

/// Clears `pages`: how many were mapped, and the tables that were unlinked.
fn clear(table: &Table, arena: &Arena, pin: &CpuPin, pages: Pages) -> (u64, Chain) {
    let mut changed = Changed::NOTHING;
    table.clear(arena, &mut Reserve::new(arena, pin), pages, &mut changed).unwrap();
    (changed.pages, changed.retired.tables)
}

/// Explores interleavings with at most two preemptions, unless LOOM_MAX_PREEMPTIONS says
/// otherwise.
fn explore(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.check(f);
}
