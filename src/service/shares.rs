//! Frames with several holders, by the per-frame table.

use topomem_numa::frames::Frames;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{Order, Platform};
use x86_64::structures::paging::PhysFrame;

use super::frame_memory::{info, run_of};
use super::references::{self, Dropped, Holder, RUN, is_run};
use crate::page_table::{Level, SharesFull};

/// Returns the frame whose word counts the holders of `frame`, which a leaf of `level` maps.
fn counted_on<P: Platform>(frames: &Frames<P>, frame: PhysFrame, level: Level) -> PhysFrame {
    // Relaxed: the word is marked before there is a leaf of the part, and stays so while there is one.
    if level == Level::PAGE && is_run(info(frames, frame).references.load(Ordering::Relaxed)) {
        run_of(frame)
    } else {
        frame
    }
}

/// As [`TableMemory::share`](crate::page_table::TableMemory::share).
#[inline]
pub(super) fn share<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Result<(), SharesFull> {
    if level == Level::PAGE && references::share_page(&info(frames, frame).references) {
        return Ok(());
    }
    share_counted(frames, frame, level)
}

/// As [`share`], whatever counts the holders.
#[cold]
#[inline(never)]
fn share_counted<P: Platform>(frames: &Frames<P>, frame: PhysFrame, level: Level) -> Result<(), SharesFull> {
    let counted = counted_on(frames, frame, level);
    references::share(&info(frames, counted).references, Holder::of(level))
}

/// As [`TableMemory::drop_share`](crate::page_table::TableMemory::drop_share).
#[inline]
pub(super) fn drop_share<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Option<(PhysFrame, Level)> {
    if level == Level::PAGE && references::drop_page(&info(frames, frame).references) {
        return None;
    }
    drop_counted(frames, frame, level)
}

/// As [`drop_share`], whatever counts the holders and however many there are.
#[inline(never)]
fn drop_counted<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
) -> Option<(PhysFrame, Level)> {
    let counted = counted_on(frames, frame, level);
    let word = &info(frames, counted).references;
    // Relaxed: the mark stays while there is a holder.
    let whole = is_run(word.load(Ordering::Relaxed));
    match references::drop_share(word, Holder::of(level)) {
        Dropped::Held => None,
        Dropped::Last => Some((counted, if whole { Level::HUGE } else { level })),
    }
}

/// As [`TableMemory::is_sole_holder`](crate::page_table::TableMemory::is_sole_holder).
pub(super) fn is_sole_holder<P: Platform>(frames: &Frames<P>, frame: PhysFrame, level: Level) -> bool {
    references::is_sole_holder(&info(frames, frame).references, Holder::of(level))
}

/// Returns how many bytes of a page of `frame`, which leaves of `level` share, are the part of each, if `others`
/// of those that hold the frame are no leaves.
pub(crate) fn part_of_each<P: Platform>(
    frames: &Frames<P>,
    frame: PhysFrame,
    level: Level,
    others: u32,
) -> u64 {
    let counted = counted_on(frames, frame, level);
    references::part_of_each(&info(frames, counted).references, others)
}

/// As [`TableMemory::split_shared`](crate::page_table::TableMemory::split_shared).
pub(super) fn split<P: Platform>(frames: &Frames<P>, first: PhysFrame) {
    // Relaxed: the first leaves of the parts become visible through the entry that the caller has for
    // itself. Another space that cuts its leaf at the same time stores the same.
    for part in 1..Order::HUGE.frames() {
        info(frames, first + part).references.store(RUN, Ordering::Relaxed);
    }
}
