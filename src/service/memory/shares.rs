//! Frames with several holders, counted in the per-frame table.

use topomem_numa::frames::Frames;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{Order, PhysFrame, Platform};

use super::frame_memory::{info, run_of};
use super::references::{self, Dropped, Holder, RUN, is_run};
use crate::page_table::{Level, SharesFull};

/// Returns the frame whose word counts the holders of `frame`, mapped by a leaf of `level`.
fn counted_on<P: Platform>(frames: &Frames<P>, frame: PhysFrame, level: Level) -> PhysFrame {
    // Relaxed: the word is marked before the first leaf of the part exists, and keeps the mark
    // until the last.
    if level == Level::PAGE && is_run(info(frames, frame).references.load(Ordering::Relaxed)) {
        run_of(frame)
    } else {
        frame
    }
}

/// Shares a frame as [`TableMemory::share`](crate::page_table::TableMemory::share) does.
#[inline]
pub(in crate::service) fn share<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Result<(), SharesFull> {
    if level == Level::PAGE && references::share_page(&info(frames, frame).references) {
        return Ok(());
    }
    share_counted(frames, frame, level)
}

/// Shares like [`share`], wherever the holders are counted.
#[cold]
#[inline(never)]
fn share_counted<P: Platform>(frames: &Frames<P>, frame: PhysFrame, level: Level) -> Result<(), SharesFull> {
    let counted = counted_on(frames, frame, level);
    references::share(&info(frames, counted).references, Holder::of(level))
}

/// Drops a share as [`TableMemory::drop_share`](crate::page_table::TableMemory::drop_share) does.
#[inline]
pub(in crate::service) fn drop_share<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Option<(PhysFrame, Level)> {
    if level == Level::PAGE && references::drop_page(&info(frames, frame).references) {
        return None;
    }
    drop_counted(frames, frame, level)
}

/// Drops like [`drop_share`], wherever and however many holders are counted.
#[inline(never)]
fn drop_counted<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Option<(PhysFrame, Level)> {
    let counted = counted_on(frames, frame, level);
    let word = &info(frames, counted).references;
    // Relaxed: the mark stays while a holder exists.
    let whole = is_run(word.load(Ordering::Relaxed));
    match references::drop_share(word, Holder::of(level)) {
        Dropped::Held => None,
        Dropped::Last => Some((counted, if whole { Level::HUGE } else { level })),
    }
}

/// Returns the answer of
/// [`TableMemory::is_sole_holder`](crate::page_table::TableMemory::is_sole_holder).
pub(in crate::service) fn is_sole_holder<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> bool {
    references::is_sole_holder(&info(frames, frame).references, Holder::of(level))
}

/// Returns each holder's part, in bytes, of a page of `frame`, shared by leaves of `level`.
/// `others` of the holders are not leaves.
pub(crate) fn part_of_each<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
    others: u32,
) -> u64 {
    let counted = counted_on(frames, frame, level);
    references::part_of_each(&info(frames, counted).references, others)
}

/// Splits a run as [`TableMemory::split_shared`](crate::page_table::TableMemory::split_shared)
/// does.
pub(in crate::service) fn split<P: Platform>(frames: &Frames<P>, first: PhysFrame) {
    // Relaxed: the first leaves of the parts become visible through the entry claimed by the
    // caller. Another space cutting its leaf at the same time stores the same values.
    for part in 1..Order::HUGE.frames() {
        info(frames, first + part).references.store(RUN, Ordering::Relaxed);
    }
}
