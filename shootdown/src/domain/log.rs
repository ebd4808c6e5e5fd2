//! A domain's last invalidations: a bounded, lock-free log with many writers.
//!
//! Generation `g` belongs in slot `g % LOG_LEN`. A writer first claims `g` by adding to the
//! domain's counter, then fills the slot. A reader can therefore meet a generation whose slot is
//! unfilled, being filled, or reused. In each of these cases the reader learns only that the
//! removed translations are unknown, and must flush everything. No reader or writer ever waits.

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering, fence};

use crate::{Generation, PageRange, PageSize, Scope, Tables, VirtAddr};

/// Number of generations a CPU may be behind and still flush single pages; a power of two.
pub(crate) const LOG_LEN: u64 = if cfg!(loom) { 2 } else { 32 };

/// Four words of a slot; a cache line has two slots.
#[repr(align(32))]
struct LogSlot {
    /// Twice the generation held by the slot; odd while the writer fills the slot; 0 at first.
    tag: AtomicU64,
    /// The scope's start address, with the page size and the kind in the low 12 bits.
    place: AtomicU64,
    /// The scope's number of pages.
    pages: AtomicU64,
}

const KIND_PAGES: u64 = 0;
const KIND_NON_GLOBAL: u64 = 1;
const KIND_DOMAIN: u64 = 2;
/// Pages with freed tables. [`Tables::Freed`] is 1, and the kind a product.
const KIND_PAGES_FREED: u64 = 3;

#[inline]
fn encode(scope: Scope, tables: Tables) -> (u64, u64) {
    match scope {
        Scope::Pages(range) => {
            let kind = tables as u64 * KIND_PAGES_FREED;
            (range.start().as_u64() | (range.size() as u64) << 2 | kind, range.pages())
        }
        Scope::NonGlobal => (KIND_NON_GLOBAL, 0),
        // Everything is issued to the kernel's domain. Freed tables make no difference to so large
        // a flush.
        Scope::Domain | Scope::Everything => (KIND_DOMAIN, 0),
    }
}

/// Returns the scope encoded by [`encode`]. The tag vouches for both words coming from a single
/// writer.
#[inline]
fn decode(place: u64, pages: u64) -> (Scope, Tables) {
    match place & 3 {
        KIND_PAGES => (Scope::Pages(decode_pages(place, pages)), Tables::Kept),
        KIND_PAGES_FREED => (Scope::Pages(decode_pages(place, pages)), Tables::Freed),
        KIND_NON_GLOBAL => (Scope::NonGlobal, Tables::Kept),
        _ => (Scope::Domain, Tables::Kept),
    }
}

#[inline]
fn decode_pages(place: u64, pages: u64) -> PageRange {
    let size = match place >> 2 & 3 {
        0 => PageSize::Size4KiB,
        1 => PageSize::Size2MiB,
        _ => PageSize::Size1GiB,
    };
    PageRange::from_parts(VirtAddr::from_canonical(place & !0xfff), pages, size)
}

/// The log, and the counter of its generations.
pub(crate) struct Log {
    /// The newest claimed generation.
    newest: CachePadded<AtomicU64>,
    slots: [LogSlot; LOG_LEN as usize],
}

impl Log {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Log {
        Log {
            newest: CachePadded::new(AtomicU64::new(Generation::FIRST.0)),
            slots: [const {
                LogSlot { tag: AtomicU64::new(0), place: AtomicU64::new(0), pages: AtomicU64::new(0) }
            }; LOG_LEN as usize],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Log {
        Log {
            newest: CachePadded::new(AtomicU64::new(Generation::FIRST.0)),
            slots: core::array::from_fn(|_| LogSlot {
                tag: AtomicU64::new(0),
                place: AtomicU64::new(0),
                pages: AtomicU64::new(0),
            }),
        }
    }

    #[inline]
    fn slot(&self, generation: Generation) -> &LogSlot {
        &self.slots[(generation.0 % LOG_LEN) as usize]
    }

    /// Returns the newest claimed generation.
    ///
    /// Acquire pairs with the claim's Release: the reader of a generation sees the page-table
    /// stores before its invalidation.
    #[inline]
    pub(crate) fn newest(&self) -> Generation {
        Generation(self.newest.load(Ordering::Acquire))
    }

    /// Appends one invalidation and returns its generation.
    #[inline]
    pub(crate) fn append(&self, scope: Scope, tables: Tables) -> Generation {
        let generation = self.claim();
        self.fill(generation, scope, tables);
        generation
    }

    /// Claims the next generation.
    #[inline]
    pub(crate) fn claim(&self) -> Generation {
        // Release: see `newest`. Acquire: the page-table stores of earlier claimants happen before
        // our next steps, as for a reader of our generation.
        Generation(self.newest.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Returns the newest generation up to `newest` with a change of a page of `range`, or `None`
    /// if no such generation exists. A generation unknown to the log, or no longer known, counts as
    /// a change of the range.
    pub(crate) fn newest_of(&self, range: PageRange, newest: Generation) -> Option<Generation> {
        let oldest = newest.0.saturating_sub(LOG_LEN).max(Generation::FIRST.0);
        let mut known = (oldest + 1..=newest.0).rev().map(Generation);
        let found = known.find(|&generation| match self.read(generation) {
            Some((Scope::Pages(pages), _)) => pages.overlaps(range),
            Some(_) | None => true,
        });
        found.or((oldest > Generation::FIRST.0).then_some(Generation(oldest)))
    }

    /// Writes `generation`'s slot, unless another writer is inside the slot or a later generation
    /// has taken it. `generation` then stays unknown, and its readers flush everything.
    #[inline]
    fn fill(&self, generation: Generation, scope: Scope, tables: Tables) {
        let slot = self.slot(generation);
        let full = generation.0 * 2;
        let old = slot.tag.load(Ordering::Relaxed);
        // A single comparison: an odd tag rotated right is above every generation.
        if old.rotate_right(1) > generation.0 {
            return;
        }
        // The odd tag keeps further writers out: the two words below come from a single writer.
        // Acquire keeps their stores after the claim, and pairs with the Release of the slot's last
        // writer.
        if slot.tag.compare_exchange(old, full | 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // Pairs with the Acquire fence in `read`: a reader of a word from below finds the odd tag,
        // or a later tag, when it reads the tag again.
        fence(Ordering::Release);
        let (place, pages) = encode(scope, tables);
        slot.place.store(place, Ordering::Relaxed);
        slot.pages.store(pages, Ordering::Relaxed);
        // Release pairs with the first Acquire load in `read`: a reader of the tag sees the words.
        slot.tag.store(full, Ordering::Release);
    }

    /// Returns the scope of `generation`, and whether tables were freed with the pages. Returns
    /// `None` if the log does not know the generation, or no longer.
    #[inline]
    pub(crate) fn read(&self, generation: Generation) -> Option<(Scope, Tables)> {
        self.words(generation).map(|(place, pages)| decode(place, pages))
    }

    /// Returns the pages of `generation` in the usual case: pages, with tables kept.
    #[inline]
    pub(crate) fn read_pages(&self, generation: Generation) -> Option<PageRange> {
        let (place, pages) = self.words(generation)?;
        if place & 3 == KIND_PAGES { Some(decode_pages(place, pages)) } else { None }
    }

    #[inline]
    fn words(&self, generation: Generation) -> Option<(u64, u64)> {
        let slot = self.slot(generation);
        let full = generation.0 * 2;
        if slot.tag.load(Ordering::Acquire) != full {
            return None;
        }
        let place = slot.place.load(Ordering::Relaxed);
        let pages = slot.pages.load(Ordering::Relaxed);
        // Pairs with the Release fence in `fill`: a torn read shows as a changed tag.
        fence(Ordering::Acquire);
        if slot.tag.load(Ordering::Relaxed) != full {
            return None;
        }
        Some((place, pages))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn pages(start: u64, pages: u64) -> Scope {
        Scope::Pages(PageRange::new(VirtAddr::new_truncate(start), pages, PageSize::Size2MiB).unwrap())
    }

    #[test]
    fn keeps_the_last_generations() {
        let log = Log::new();
        for number in 0..=LOG_LEN {
            log.append(pages(number << 21, number + 1), Tables::Kept);
        }
        assert_eq!(log.newest(), Generation(LOG_LEN + 2));
        assert_eq!(log.read(Generation(2)), None, "overrun");
        assert_eq!(log.read(Generation(3)), Some((pages(1 << 21, 2), Tables::Kept)));
        assert_eq!(log.read(log.newest()), Some((pages(LOG_LEN << 21, LOG_LEN + 1), Tables::Kept)));
        assert_eq!(log.read(Generation(LOG_LEN + 3)), None, "not issued yet");
    }

    #[test]
    fn every_scope_comes_back() {
        let log = Log::new();
        for scope in [pages(0xffff_ffff_ffe0_0000, 1), Scope::NonGlobal, Scope::Domain] {
            let generation = log.append(scope, Tables::Kept);
            assert_eq!(log.read(generation), Some((scope, Tables::Kept)));
        }
    }

    #[test]
    fn freed_tables_are_noted_with_pages() {
        let log = Log::new();
        let generation = log.append(pages(1 << 21, 3), Tables::Freed);
        assert_eq!(log.read(generation), Some((pages(1 << 21, 3), Tables::Freed)));
    }

    #[test]
    fn finds_the_newest_change_of_a_page() {
        let log = Log::new();
        let range = |first: u64, pages| {
            PageRange::new(VirtAddr::new_truncate(first << 21), pages, PageSize::Size2MiB).unwrap()
        };
        assert_eq!(log.newest_of(range(0, 1), log.newest()), None, "there is no change");
        let first = log.append(Scope::Pages(range(4, 2)), Tables::Kept);
        let second = log.append(Scope::Pages(range(5, 2)), Tables::Freed);
        let found = |first, pages| log.newest_of(range(first, pages), log.newest());
        assert_eq!((found(3, 1), found(4, 1), found(5, 1)), (None, Some(first), Some(second)));
        assert_eq!((found(0, 5), found(6, 9), found(7, 1)), (Some(first), Some(second), None));
        let unknown = log.claim();
        assert_eq!(found(3, 1), Some(unknown));
        for _ in 0..LOG_LEN {
            log.append(Scope::Pages(range(0, 1)), Tables::Kept);
        }
        assert_eq!(found(3, 1), Some(unknown), "overrun: older generations may have changed any page");
        let domain = log.append(Scope::Domain, Tables::Kept);
        assert_eq!(found(3, 1), Some(domain));
    }

    #[test]
    fn a_claimed_generation_is_unknown_until_written() {
        let log = Log::new();
        let claimed = log.claim();
        assert_eq!((log.newest(), log.read(claimed)), (claimed, None));
        log.fill(claimed, pages(0, 1), Tables::Kept);
        assert_eq!(log.read(claimed), Some((pages(0, 1), Tables::Kept)));
    }

    #[test]
    fn a_late_writer_spoils_nothing() {
        let log = Log::new();
        let late = log.claim();
        (1..LOG_LEN).for_each(|_| {
            log.claim();
        });
        let next = log.append(pages(1 << 21, 1), Tables::Kept);
        assert_eq!(late.0 % LOG_LEN, next.0 % LOG_LEN);
        log.fill(late, pages(0, 1), Tables::Kept);
        assert_eq!((log.read(late), log.read(next)), (None, Some((pages(1 << 21, 1), Tables::Kept))));
    }

    #[test]
    fn a_slot_in_use_by_a_writer_is_left_alone() {
        let log = Log::new();
        let first = log.append(pages(0, 1), Tables::Kept);
        log.slot(first).tag.store((first.0 * 2) | 1, Ordering::Relaxed);
        let second = {
            (1..LOG_LEN).for_each(|_| {
                log.claim();
            });
            log.append(pages(1 << 21, 1), Tables::Kept)
        };
        assert_eq!((log.read(first), log.read(second)), (None, None));
    }
}
