//! Frames to map in a range.

use core::ops::Range;

use topomem_numa::frames::Frames;
use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::page_table::{Attributes, Backing, Chain, Format, Leaf, Level, RawEntry, Runs};
use crate::service::memory::frame_memory;

/// Frames allocated for a range: runs of 2 MiB for some of its pages, single frames for the rest.
/// Unused frames return to the allocator on drop.
pub(super) struct FreshFrames<'a, P: Platform> {
    pub frames: &'a Frames<P>,
    pub pin: &'a CpuPin,
    /// The pages for runs: whole 2 MiB.
    pub huge: Range<u64>,
    pub runs: Runs,
    pub singles: Chain,
    pub attributes: Attributes,
}

fn leaf<F: Format>(attributes: Attributes, frame: PhysFrame, level: Level) -> RawEntry {
    let Attributes { protection, reach, ownership } = attributes;
    F::leaf(&Leaf { frame, protection, reach, ownership }, level)
}

impl<F: Format, P: Platform> Backing<F> for FreshFrames<'_, P> {
    fn level_at(&self, page: u64) -> Level {
        if self.huge.contains(&page) { Level::HUGE } else { Level::PAGE }
    }

    fn take(&mut self, _: u64, level: Level) -> RawEntry {
        let frame =
            if level == Level::HUGE { self.runs.pop(self.frames) } else { self.singles.pop(self.frames) };
        debug_assert!(frame.is_some(), "there are too few frames");
        frame.map_or(RawEntry::EMPTY, |frame| leaf::<F>(self.attributes, frame, level))
    }
}

impl<P: Platform> Drop for FreshFrames<'_, P> {
    fn drop(&mut self) {
        while let Some(run) = self.runs.pop(self.frames) {
            // SAFETY: the run was allocated for this range, and is mapped nowhere.
            unsafe { frame_memory::release_own(self.frames, self.pin, run, Order::HUGE) };
        }
        while let Some(frame) = self.singles.pop(self.frames) {
            // SAFETY: as above.
            unsafe { frame_memory::release_own(self.frames, self.pin, frame, Order::FRAME) };
        }
    }
}

/// Frames listed by the caller, one for each page from `first` on.
pub(super) struct GivenFrames<'a> {
    pub first: u64,
    pub frames: &'a [PhysFrame],
    pub attributes: Attributes,
}

impl<F: Format> Backing<F> for GivenFrames<'_> {
    fn level_at(&self, _: u64) -> Level {
        Level::PAGE
    }

    fn take(&mut self, page: u64, level: Level) -> RawEntry {
        let frame = self.frames.get((page - self.first) as usize);
        debug_assert!(frame.is_some(), "there are too few frames");
        frame.map_or(RawEntry::EMPTY, |&frame| leaf::<F>(self.attributes, frame, level))
    }
}
