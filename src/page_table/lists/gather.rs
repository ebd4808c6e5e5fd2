//! Lists of shares: frames by number, in pages of their own.
//!
//! A frame shared by several mappings may be leaving several of them at once. It cannot be linked
//! through its own word of the per-frame table, unlike in a [`Chain`]. A gather list names such
//! frames in pages allocated before the change, and links its pages through their words.

use core::cell::Cell;

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::Ordering;

use super::chain::{Chain, Reserve};
use crate::page_table::format::level::Level;
use crate::page_table::tables::memory::TableMemory;

/// In a record: the share is a 2 MiB leaf's.
const HUGE: u32 = 1 << 31;

/// Number of words of a page besides its records.
const HEADER: usize = 6;

/// Number of records of a page.
const CAPACITY: u32 = (4096 / 4 - HEADER) as u32;

/// A gather page. The fields from `fill` on concern the whole list, and are valid in its first
/// page.
#[repr(C)]
struct Page {
    /// Number of records added.
    added: Cell<u32>,
    /// Number of records taken.
    taken: Cell<u32>,
    /// The link of the page for the next record.
    fill: Cell<u32>,
    /// The link of the last page.
    end: Cell<u32>,
    /// Number of records fitting into the page `fill` and the empty pages behind it.
    room: Cell<u32>,
    /// Number of 4 KiB frames named by the list.
    frames: Cell<u32>,
    records: [Cell<u32>; CAPACITY as usize],
}

const _: () = assert!(size_of::<Page>() == 4096);

/// Shares waiting to be dropped, or to be mapped: a queue of frames and of 2 MiB runs.
///
/// The list owns the shares without dropping them: dropping a list with shares leaks them.
#[derive(Debug)]
#[must_use = "a dropped list leaks its shares and its pages"]
pub(crate) struct Gather {
    /// The link of the first page; 0 if none.
    head: u32,
}

impl Gather {
    pub(crate) const EMPTY: Gather = Gather { head: 0 };

    /// Returns whether the list has neither shares nor pages.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == 0
    }

    /// Returns the number of 4 KiB frames named by the list.
    pub(crate) fn frames<M: TableMemory>(&self, memory: &M) -> u64 {
        self.first(memory).map_or(0, |first| first.frames.get().into())
    }

    /// Returns the number of pages to add before `shares` more shares fit.
    pub(crate) fn pages_for<M: TableMemory>(&self, memory: &M, shares: u64) -> u64 {
        let room = self.first(memory).map_or(0, |first| first.room.get().into());
        shares.saturating_sub(room).div_ceil(CAPACITY.into())
    }

    /// Adds an empty page in `frame`, owned by the list from now on.
    pub(crate) fn add_page<M: TableMemory>(&mut self, memory: &M, frame: PhysFrame) {
        let link = memory.link(frame);
        // SAFETY: the caller gives up the frame.
        let page = unsafe { page_at(memory, link) };
        page.added.set(0);
        page.taken.set(0);
        let Some(first) = self.first(memory) else {
            page.fill.set(link);
            page.end.set(link);
            page.room.set(CAPACITY);
            page.frames.set(0);
            set_next(memory, link, 0);
            self.head = link;
            return;
        };
        // Behind the page being filled, before pages from another list.
        let fill = first.fill.get();
        let next = next(memory, fill);
        set_next(memory, link, next);
        set_next(memory, fill, link);
        if next == 0 {
            first.end.set(link);
        }
        first.room.set(first.room.get() + CAPACITY);
    }

    /// Adds `pages` pages from a sufficient reserve.
    pub(crate) fn add_pages<M: TableMemory>(&mut self, memory: &M, reserve: &mut Reserve<'_, M>, pages: u64) {
        for _ in 0..pages {
            if let Some(frame) = reserve.take() {
                self.add_page(memory, frame);
            }
        }
    }

    /// Adds the share of a leaf of `level`. The list has room, as ensured with
    /// [`Gather::pages_for`].
    pub(crate) fn push<M: TableMemory>(&mut self, memory: &M, frame: PhysFrame, level: Level) {
        let Some(first) = self.first(memory).filter(|first| first.room.get() > 0) else {
            debug_assert!(false, "the plan counted too few shares");
            return;
        };
        // SAFETY: the list owns its pages.
        let page = |link| unsafe { page_at(memory, link) };
        let mut fill = page(first.fill.get());
        if fill.added.get() == CAPACITY {
            first.fill.set(next(memory, first.fill.get()));
            fill = page(first.fill.get());
        }
        let mark = if level == Level::PAGE { 0 } else { HUGE };
        fill.records[fill.added.get() as usize].set(memory.link(frame) | mark);
        fill.added.set(fill.added.get() + 1);
        first.room.set(first.room.get() - 1);
        first.frames.set(first.frames.get() + level.pages() as u32);
    }

    /// Takes the oldest share out: its frame, and the level of its leaf. Emptied pages go to
    /// `spent`, for the caller to free.
    pub(crate) fn take<M: TableMemory>(
        &mut self,
        memory: &M,
        spent: &mut Chain,
    ) -> Option<(PhysFrame, Level)> {
        loop {
            let first = self.first(memory)?;
            let taken = first.taken.get();
            if taken < first.added.get() {
                let record = first.records[taken as usize].get();
                let level = if record & HUGE == 0 { Level::PAGE } else { Level::HUGE };
                first.taken.set(taken + 1);
                first.frames.set(first.frames.get() - level.pages() as u32);
                return Some((memory.frame_of(record & !HUGE), level));
            }
            let emptied = self.head;
            self.head = next(memory, emptied);
            if let Some(second) = self.first(memory) {
                let filled = first.fill.get() == emptied;
                second.fill.set(if filled { self.head } else { first.fill.get() });
                second.room.set(if filled { 0 } else { first.room.get() });
                second.end.set(first.end.get());
                second.frames.set(first.frames.get());
            }
            set_next(memory, emptied, 0);
            spent.push(memory, memory.frame_of(emptied));
        }
    }

    /// Takes over all of `other`, in constant time.
    #[inline]
    pub(crate) fn append<M: TableMemory>(&mut self, memory: &M, other: Gather) {
        if self.is_empty() {
            *self = other;
        } else if !other.is_empty() {
            self.join(memory, &other);
        }
    }

    #[cold]
    fn join<M: TableMemory>(&mut self, memory: &M, other: &Gather) {
        if let (Some(first), Some(others)) = (self.first(memory), other.first(memory)) {
            set_next(memory, first.end.get(), other.head);
            first.end.set(others.end.get());
            first.frames.set(first.frames.get() + others.frames.get());
        }
    }

    fn first<'m, M: TableMemory>(&self, memory: &'m M) -> Option<&'m Page> {
        // SAFETY: the list owns its pages.
        (self.head != 0).then(|| unsafe { page_at(memory, self.head) })
    }
}

// Relaxed: a list has a single owner at a time, and passes from owner to owner through a lock or a
// Release store of its own.

fn next<M: TableMemory>(memory: &M, link: u32) -> u32 {
    memory.aux(memory.frame_of(link)).load(Ordering::Relaxed)
}

fn set_next<M: TableMemory>(memory: &M, link: u32, next: u32) {
    memory.aux(memory.frame_of(link)).store(next, Ordering::Relaxed);
}

/// Returns the gather page in the frame with the number `link`.
///
/// # Safety
///
/// The frame is a gather page of the caller's. No other context accesses its bytes while the
/// reference lives.
unsafe fn page_at<M: TableMemory>(memory: &M, link: u32) -> &Page {
    // SAFETY: the direct map of an allocated frame is valid, aligned to 4096 bytes, and holds
    // initialised words (zeroed at the allocation). The rest is the caller's promise.
    unsafe { memory.direct_map(memory.frame_of(link)).cast().as_ref() }
}
