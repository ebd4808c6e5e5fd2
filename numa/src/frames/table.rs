//! The per-frame table: what copy-on-write, page-table locks and retire lists keep per frame.

use topomem_percpu::sync::atomic::AtomicU32;

use super::region::Span;

/// Eight bytes that belong to whoever owns the frame; the allocator never touches them.
#[derive(Debug)]
pub struct FrameInfo {
    /// How many mappings share the frame, or what the owner counts.
    pub references: AtomicU32,
    /// A lock word, or the number of the next frame in a list of the owner's.
    pub aux: AtomicU32,
}

impl FrameInfo {
    pub(super) fn new() -> FrameInfo {
        FrameInfo { references: AtomicU32::new(0), aux: AtomicU32::new(0) }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<FrameInfo>() == 8);

/// Frames without memory up to so many are given entries, so that parts of the address space have
/// one stretch mostly: at most 4 KiB of the table for each hole.
pub(super) const BRIDGED: u64 = 512;

/// If memory ends at this frame or below, 8 TiB, an entry has its frame's number: then neither takes a
/// search. Numbers above need more bits than a link in the table has.
pub(super) const NUMBERED_AS_FRAMES: u64 = 1 << 31;

/// A stretch of the per-frame table: the entries of consecutive frames. They are numbered.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) span: Span,
    /// The number of the first frame's entry: the frame's own number, or stretches are numbered
    /// through, with a number left out between two.
    pub(super) first_entry: u64,
    pub(super) entries: &'static [FrameInfo],
}

impl Stretch {
    /// The entry of a frame.
    pub(super) fn entry(&self, frame: u64) -> Option<&'static FrameInfo> {
        self.entries.get(frame.checked_sub(self.span.start)? as usize)
    }
}

/// The stretch of `stretches`, which are sorted, that has `frame`.
pub(super) fn stretch_of(stretches: &'static [Stretch], frame: u64) -> Option<&'static Stretch> {
    let after = stretches.partition_point(|stretch| stretch.span.start <= frame);
    let stretch = stretches.get(after.checked_sub(1)?)?;
    (frame < stretch.span.end).then_some(stretch)
}

/// Whether each entry has its frame's number.
pub(super) fn numbered_as_frames(stretches: &[Stretch]) -> bool {
    stretches.iter().all(|stretch| stretch.first_entry == stretch.span.start)
}

/// The frame whose entry has the number `entry`; for a number of no entry, some frame.
#[cold]
pub(super) fn frame_of_entry(stretches: &[Stretch], entry: u64) -> u64 {
    let after = stretches.partition_point(|stretch| stretch.first_entry <= entry);
    let stretch = stretches.get(after.saturating_sub(1));
    stretch.map_or(0, |stretch| stretch.span.start.wrapping_add(entry.wrapping_sub(stretch.first_entry)))
}
