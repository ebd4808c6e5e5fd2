//! Lookup of a frame's region and of the frame's entry in the per-frame table, without a search.

use core::ptr;

use super::frame_table::{FrameInfo, Stretch, frame_of_entry, numbered_as_frames, stretch_of};
use crate::frames::region::Region;
use crate::frames::types::FrameNumber;

/// The maximum number of parts.
const PARTS: u64 = 1 << 12;
/// The minimum number of frames in a part, as a power of two: 16 MiB, the smallest zone.
const LEAST_SHIFT: u32 = 12;

/// The regions, sorted and disjoint, and for each part of the address space the first region that
/// reaches into the part or lies behind the part.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) regions: &'static [&'static Region],
    parts: &'static [u32],
    /// The per-frame table, sorted and disjoint; empty without one.
    pub(in crate::frames) stretches: &'static [Stretch],
    /// By part; empty without a per-frame table.
    tables: &'static [PartTable],
    /// True if each entry of the per-frame table has the number of the frame.
    numbered_as_frames: bool,
    /// Frames in a part, as a power of two.
    shift: u32,
}

/// The one stretch of the per-frame table that reaches into a part of the address space.
#[derive(Debug)]
pub(in crate::frames) struct PartTable {
    /// The address of frame 0's entry, if the stretch reached down to frame 0; null if the part has
    /// several stretches, or none.
    entries: *const FrameInfo,
    /// The number of frame 0's entry, if the stretch reached down to frame 0. Wraps.
    first_entry: u64,
}

// SAFETY: a table represents `&'static FrameInfo`s, and references to `FrameInfo` are `Send` and `Sync`.
unsafe impl Send for PartTable {}
// SAFETY: as above.
unsafe impl Sync for PartTable {}

impl PartTable {
    /// Returns the table of the part numbered `part`.
    pub(in crate::frames) fn of(stretches: &[Stretch], part: usize, shift: u32) -> PartTable {
        let (start, end) = (first_frame_of(part, shift), first_frame_of(part + 1, shift));
        let first = stretches.partition_point(|stretch| stretch.span.end <= start);
        let mut here = stretches.iter().skip(first).take_while(|stretch| stretch.span.start < end);
        match (here.next(), here.next()) {
            (Some(one), None) => PartTable {
                entries: one.entries.as_ptr().wrapping_sub(one.span.start.get() as usize),
                first_entry: one.first_entry.wrapping_sub(one.span.start.get()),
            },
            _ => PartTable { entries: ptr::null(), first_entry: 0 },
        }
    }
}

/// Returns the number of parts, and of frames in a part (as a power of two), for memory that ends
/// with frame `end`.
pub(in crate::frames) fn parts(end: FrameNumber) -> (usize, u32) {
    let end = end.get();
    let mut shift = LEAST_SHIFT;
    while end.div_ceil(1 << shift) > PARTS {
        shift += 1;
    }
    (end.div_ceil(1 << shift) as usize, shift)
}

/// Returns the first frame of the part numbered `part`.
fn first_frame_of(part: usize, shift: u32) -> FrameNumber {
    FrameNumber::new((part as u64) << shift)
}

/// Returns the number of the first region for a search in the part numbered `part`.
pub(in crate::frames) fn first_region(regions: &[&'static Region], part: usize, shift: u32) -> u32 {
    let start = first_frame_of(part, shift);
    regions.partition_point(|region| region.span.end <= start) as u32
}

impl Directory {
    pub(in crate::frames) fn new(
        regions: &'static [&'static Region],
        parts: &'static [u32],
        stretches: &'static [Stretch],
        tables: &'static [PartTable],
        shift: u32,
    ) -> Directory {
        let numbered_as_frames = numbered_as_frames(stretches);
        Directory { regions, parts, stretches, tables, numbered_as_frames, shift }
    }

    /// Returns the number of the frame's part of the address space.
    #[inline(always)]
    fn part_of(&self, frame: FrameNumber) -> usize {
        (frame.get() >> self.shift) as usize
    }

    /// Returns a frame's entry in the per-frame table, if any.
    pub(in crate::frames) fn find_info(&self, frame: FrameNumber) -> Option<&'static FrameInfo> {
        stretch_of(self.stretches, frame)?.entry(frame)
    }

    /// Returns a frame's entry in the per-frame table.
    ///
    /// Bound: two loads if the part has one stretch of the table.
    ///
    /// # Safety
    ///
    /// A region has the frame, the frame is managed, and there is a per-frame table.
    #[inline]
    pub(in crate::frames) unsafe fn info(&self, frame: FrameNumber) -> &'static FrameInfo {
        // SAFETY: the caller's promise: with a per-frame table there is a part for each frame up to
        // the last region's end.
        let table = unsafe { self.tables.get_unchecked(self.part_of(frame)) };
        if table.entries.is_null() {
            // SAFETY: the caller's promise.
            return unsafe { self.info_by_stretch(frame) };
        }
        // SAFETY: the pointer was made from the frame's stretch, which has an entry for each of its
        // frames.
        unsafe { &*table.entries.wrapping_add(frame.get() as usize) }
    }

    /// Returns a frame's entry by a search of the stretches.
    ///
    /// # Safety
    ///
    /// As for [`Directory::info`].
    #[cold]
    unsafe fn info_by_stretch(&self, frame: FrameNumber) -> &'static FrameInfo {
        // SAFETY: the caller's promise.
        unsafe { self.find_info(frame).unwrap_unchecked() }
    }

    /// Returns the number of a frame's entry in the per-frame table.
    ///
    /// Bound: as for [`Directory::info`].
    ///
    /// # Safety
    ///
    /// As for [`Directory::info`].
    #[inline]
    pub(in crate::frames) unsafe fn entry_number(&self, frame: FrameNumber) -> u64 {
        if self.numbered_as_frames {
            return frame.get();
        }
        // SAFETY: as in `info`.
        let table = unsafe { self.tables.get_unchecked(self.part_of(frame)) };
        if table.entries.is_null() {
            let stretch = stretch_of(self.stretches, frame);
            return stretch.map_or(0, |stretch| stretch.first_entry + (frame - stretch.span.start));
        }
        table.first_entry.wrapping_add(frame.get())
    }

    /// Returns the frame of the per-frame table's entry numbered `entry`; for a number without an
    /// entry, any frame.
    #[inline]
    pub(in crate::frames) fn frame_of_entry(&self, entry: u64) -> FrameNumber {
        if self.numbered_as_frames { FrameNumber::new(entry) } else { frame_of_entry(self.stretches, entry) }
    }

    /// Returns the region of a frame.
    ///
    /// Bound: three loads, and a binary search of the regions that reach into the frame's part of the
    /// address space, mostly one: 16 MiB where memory ends below 64 GiB, and more with more memory.
    #[inline]
    pub(crate) fn region_of(&self, frame: FrameNumber) -> Option<&'static Region> {
        let part = self.part_of(frame);
        let first = *self.parts.get(part)? as usize;
        // The next part's first region may begin in this part.
        let end = self.parts.get(part + 1).map_or(self.regions.len(), |&next| next as usize + 1);
        let here = self.regions.get(first..end.min(self.regions.len()))?;
        let region = here.get(here.partition_point(|region| region.span.end <= frame))?;
        (region.span.start <= frame).then_some(region)
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameNumber, parts};

    fn parts_up_to(end: u64) -> (usize, u32) {
        parts(FrameNumber::new(end))
    }

    #[test]
    fn parts_are_few_wherever_memory_is() {
        assert_eq!(parts_up_to(1), (1, 12));
        assert_eq!(parts_up_to(1 << 12), (1, 12));
        assert_eq!(parts_up_to((1 << 12) + 1), (2, 12));
        assert_eq!(parts_up_to(1 << 24), (1 << 12, 12));
        assert_eq!(parts_up_to((1 << 24) + 1), ((1 << 11) + 1, 13));
        assert_eq!(parts_up_to(1 << 40), (1 << 12, 28));
    }
}
