//! Frames for the first page tables, before memory has an allocator.

use core::fmt;

use topomem::numa::FRAME_SIZE;
use topomem::{MemoryRange, PhysAddr};
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use crate::{MemoryKind, MemoryMapEntry};

/// Nothing is free that the boot tables show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEarlyMemory;

impl fmt::Display for NoEarlyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no free memory in the first GiB for page tables")
    }
}

/// Hands out the frames of the longest free run below a limit, the highest first, so that the little
/// memory below 16 MiB stays free. There is no fixed number of frames: a table of the direct map covers
/// 1 GiB, so the first GiB has room for the tables of more memory than a machine has.
#[derive(Debug)]
pub struct EarlyFrames {
    /// What is left.
    free: MemoryRange,
    /// Where the run ended.
    end: PhysAddr,
}

impl EarlyFrames {
    /// Finds the longest run of usable memory below `limit` that touches none of `taken`.
    ///
    /// Cost: the number of entries times that of `taken`.
    ///
    /// # Errors
    ///
    /// [`NoEarlyMemory`] if not even one frame is free.
    pub fn find<I>(
        entries: &[MemoryMapEntry],
        taken: I,
        limit: PhysAddr,
    ) -> Result<EarlyFrames, NoEarlyMemory>
    where
        I: Iterator<Item = MemoryRange> + Clone,
    {
        let others = entries.iter().filter(|entry| entry.kind() != MemoryKind::Usable);
        let taken =
            taken.chain(others.filter_map(MemoryMapEntry::range)).filter_map(|range| range.touched_frames());
        // Low memory is where CPUs start, and firmware's.
        let low = MemoryRange::new(PhysAddr::ZERO, PhysAddr::new(1 << 20));
        let taken = taken.chain(low);
        let usable = entries.iter().filter(|entry| entry.kind() == MemoryKind::Usable);
        let usable = usable.filter_map(|entry| entry.range()?.whole_frames());
        let mut longest: Option<MemoryRange> = None;
        for range in usable {
            let Some(mut rest) = MemoryRange::new(range.start, range.end.min(limit)) else { continue };
            loop {
                // The first obstacle splits the rest: what is below it is a run.
                let obstacle = taken
                    .clone()
                    .filter(|obstacle| obstacle.intersection(&rest).is_some())
                    .min_by_key(|obstacle| obstacle.start);
                let run = match obstacle {
                    None => Some(rest),
                    Some(obstacle) => MemoryRange::new(rest.start, obstacle.start),
                };
                if let Some(run) = run.filter(|run| longest.is_none_or(|known| known.bytes() < run.bytes())) {
                    longest = Some(run);
                }
                match obstacle.and_then(|obstacle| MemoryRange::new(obstacle.end, rest.end)) {
                    Some(after) => rest = after,
                    None => break,
                }
            }
        }
        let free = longest.ok_or(NoEarlyMemory)?;
        Ok(EarlyFrames { free, end: free.end })
    }

    /// Returns what has been handed out; `None` if nothing has.
    #[must_use]
    pub fn handed_out(&self) -> Option<MemoryRange> {
        MemoryRange::new(self.free.end, self.end)
    }
}

// SAFETY: each frame is handed out once, since `free` shrinks by it; it is memory that the firmware
// calls usable, and none of what the caller named as taken.
unsafe impl FrameAllocator<Size4KiB> for EarlyFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.free.end.as_u64().checked_sub(FRAME_SIZE)?;
        if frame < self.free.start.as_u64() {
            return None;
        }
        self.free.end = PhysAddr::new(frame);
        topomem::PhysFrame::containing_address(self.free.end).try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usable(start: u64, end: u64) -> MemoryMapEntry {
        MemoryMapEntry::new(start, end - start, MemoryKind::Usable)
    }

    fn bounds(start: u64, end: u64) -> MemoryRange {
        MemoryRange::from_bounds(start, end).unwrap()
    }

    fn run(
        entries: &[MemoryMapEntry],
        taken: &[MemoryRange],
        limit: u64,
    ) -> Result<MemoryRange, NoEarlyMemory> {
        EarlyFrames::find(entries, taken.iter().copied(), PhysAddr::new(limit)).map(|frames| frames.free)
    }

    #[test]
    fn finds_the_longest_run_between_obstacles() {
        let entries = [usable(0, 640 << 10), usable(MIB, 3 << 30), usable(4 << 30, 9 << 30)];
        let taken = [bounds(600 * MIB + 1, 601 * MIB), bounds(MIB, 8 * MIB), bounds(5 * MIB, 9 * MIB)];
        assert_eq!(run(&entries, &taken, 1 << 30), Ok(bounds(9 * MIB, 600 * MIB)));
        assert_eq!(run(&entries, &[], 1 << 30), Ok(bounds(MIB, 1 << 30)));
        assert_eq!(run(&entries, &[bounds(0, 1 << 30)], 1 << 30), Err(NoEarlyMemory));
        assert_eq!(run(&[usable(0, 640 << 10)], &[], 1 << 30), Err(NoEarlyMemory), "low memory is not free");
    }

    #[test]
    fn what_firmware_keeps_within_a_usable_range_is_not_used() {
        let firmware = MemoryMapEntry::new(100 * MIB, 10, MemoryKind::Reserved);
        let entries = [usable(MIB, 120 * MIB), firmware];
        assert_eq!(run(&entries, &[], 1 << 30), Ok(bounds(MIB, 100 * MIB)));
    }

    #[test]
    fn hands_out_each_frame_once_from_the_top() {
        let entries = [usable(MIB, MIB + 3 * FRAME_SIZE)];
        let mut frames = EarlyFrames::find(&entries, core::iter::empty(), PhysAddr::new(1 << 30)).unwrap();
        assert_eq!(frames.handed_out(), None);
        let mut next = || frames.allocate_frame().map(|frame| frame.start_address().as_u64());
        assert_eq!([next(), next(), next()], [Some(MIB + 0x2000), Some(MIB + 0x1000), Some(MIB)]);
        assert_eq!(next(), None);
        assert_eq!(frames.handed_out(), Some(bounds(MIB, MIB + 0x3000)));
    }
}
