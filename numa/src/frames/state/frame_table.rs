//! The per-frame table: the per-frame data of copy-on-write, page-table locks and retire lists.

use topomem_percpu::sync::atomic::AtomicU32;

use crate::frames::region::Span;
use crate::frames::types::FrameNumber;

/// Eight bytes of the frame's owner; the allocator never accesses the bytes.
///
/// # Examples
///
/// ```
/// # use std::sync::atomic::Ordering;
/// # use topomem_numa::frames::FrameInfo;
/// fn share(info: &FrameInfo) -> u32 {
///     // Relaxed: the owner holds a reference, so the count orders nothing.
///     info.references.fetch_add(1, Ordering::Relaxed) + 1
/// }
/// ```
#[derive(Debug)]
pub struct FrameInfo {
    /// The number of mappings of the frame, or another count of the owner.
    pub references: AtomicU32,
    /// A lock word, or the number of the next frame in a list of the owner.
    pub aux: AtomicU32,
}

impl FrameInfo {
    pub(in crate::frames) fn new() -> FrameInfo {
        FrameInfo { references: AtomicU32::new(0), aux: AtomicU32::new(0) }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<FrameInfo>() == 8);

/// Gaps of up to 512 frames without memory are given entries, so that parts of the address
/// space mostly have one stretch: at most 4 KiB of the table for each hole.
pub(in crate::frames) const BRIDGED: u64 = 512;

/// If memory ends at this frame or below, 8 TiB, an entry has the frame's number: then neither
/// needs a search. Larger numbers need more bits than a link in the table has.
pub(in crate::frames) const NUMBERED_AS_FRAMES: FrameNumber = FrameNumber::new(1 << 31);

/// A stretch of the per-frame table: the entries of consecutive frames. The entries are numbered.
#[derive(Debug)]
pub(in crate::frames) struct Stretch {
    pub(in crate::frames) span: Span,
    /// The number of the first frame's entry: the frame's own number, or a consecutive number over
    /// all stretches, with a number left out between two.
    pub(in crate::frames) first_entry: u64,
    pub(in crate::frames) entries: &'static [FrameInfo],
}

impl Stretch {
    /// Returns the entry of a frame.
    pub(super) fn entry(&self, frame: FrameNumber) -> Option<&'static FrameInfo> {
        self.entries.get(frame.checked_sub(self.span.start)? as usize)
    }
}

/// Returns the stretch of the sorted `stretches` that has `frame`.
pub(super) fn stretch_of(stretches: &'static [Stretch], frame: FrameNumber) -> Option<&'static Stretch> {
    let after = stretches.partition_point(|stretch| stretch.span.start <= frame);
    let stretch = stretches.get(after.checked_sub(1)?)?;
    (frame < stretch.span.end).then_some(stretch)
}

/// Returns true if each entry has the number of the frame.
pub(super) fn numbered_as_frames(stretches: &[Stretch]) -> bool {
    stretches.iter().all(|stretch| stretch.first_entry == stretch.span.start.get())
}

/// Returns the frame of the entry numbered `entry`; for a number without an entry, any frame.
#[cold]
pub(super) fn frame_of_entry(stretches: &[Stretch], entry: u64) -> FrameNumber {
    let after = stretches.partition_point(|stretch| stretch.first_entry <= entry);
    let stretch = stretches.get(after.saturating_sub(1));
    stretch.map_or(FrameNumber::ZERO, |stretch| {
        let offset = entry.wrapping_sub(stretch.first_entry);
        FrameNumber::new(stretch.span.start.get().wrapping_add(offset))
    })
}
