//! The configuration of a frame allocator.

use super::zone::{Watermarks, ZoneLimits};

/// Whether there is a per-frame table.
///
/// ```
/// use topomem_numa::frames::{FramesConfig, PerFrameTable};
///
/// let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
/// assert_ne!(config.table, PerFrameTable::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerFrameTable {
    /// No table. Copy-on-write and page-table locks need a table; a frames-only kernel does not.
    #[default]
    Absent,
    /// 8 bytes a frame, on the frame's own node.
    Present,
}

/// The time at which a double free, or a free with a wrong order, is detected.
///
/// ```
/// use topomem_numa::frames::{DoubleFrees, FramesConfig};
///
/// let paranoid = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..FramesConfig::default() };
/// assert_eq!(FramesConfig::default().double_frees, DoubleFrees::FoundLate);
/// # let _ = paranoid;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoubleFrees {
    /// At once if the frame is free in its bitmap or in the freeing CPU's magazine, otherwise when
    /// the magazine is flushed. Costs nothing on a magazine hit.
    #[default]
    FoundLate,
    /// Always at once, including any wrong order ("paranoid"). Costs a byte per frame, one
    /// compare-and-swap per free, and the quick path. Every run must be freed as it was allocated.
    FoundAtOnce,
}

/// The number of zeroed frames kept by each node.
///
/// Only [`Frames::refill_zeroed`](crate::frames::Frames::refill_zeroed) fills the pools. Pooled frames
/// remain free: a request that finds no other frame takes them. The bookkeeping is two bytes a
/// frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroedFrames {
    /// One for 1024 frames of the node, at most 256.
    #[default]
    InProportion,
    /// This many, at most 1024.
    Frames(u16),
}

impl ZeroedFrames {
    /// Returns the number for a node with `managed` frames.
    fn of(self, managed: u64) -> u64 {
        match self {
            ZeroedFrames::InProportion => (managed / 1024).min(256),
            ZeroedFrames::Frames(frames) => u64::from(frames).min(managed),
        }
    }
}

/// The [`Watermarks`] of each populated zone. None is more than a quarter of the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZoneWatermarks {
    /// As Linux sets them (`mm/page_alloc.c`, 6.12: `calculate_min_free_kbytes`,
    /// `__setup_per_zone_wmarks`). All zones of all nodes together spare the root of 16 times their size in
    /// KiB, at least 128 KiB and at most 256 MiB: 4 MiB of 1 GiB, 16 MiB of 16 GiB. A zone's `min` is its share of
    /// that by size. From `min` to `low`, and from `low` to `high`, it is a quarter of `min`, or a thousandth of
    /// the zone if that is more.
    #[default]
    InProportion,
    /// These of every zone.
    Frames(Watermarks),
}

impl ZoneWatermarks {
    /// Those of a zone of `managed` frames, of `total` frames that the machine has.
    pub(in crate::frames) fn of(self, managed: u64, total: u64) -> Watermarks {
        let marks = match self {
            ZoneWatermarks::Frames(marks) => marks,
            ZoneWatermarks::InProportion => {
                let spared = (total * 4 * 16).isqrt().clamp(128, 256 << 10) / 4;
                let min = (u128::from(spared) * u128::from(managed) / u128::from(total.max(1))) as u64;
                let step = (min / 4).max(managed / 1000);
                Watermarks { min, low: min + step, high: min + 2 * step }
            }
        };
        let most = managed / 4;
        Watermarks { min: marks.min.min(most), low: marks.low.min(most), high: marks.high.min(most) }
    }
}

/// When are frames filled with zeros?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zeroing {
    /// On a request for zeroed frames, or ahead of it
    /// ([`Frames::refill_zeroed`](crate::frames::Frames::refill_zeroed)). Free frames keep the data of
    /// their last owner.
    #[default]
    OnRequest,
    /// On every free, so that no data of an owner outlives the free, and for all memory once at the
    /// start. Requests for zeroed frames then cost nothing more, and there are no pools. Every free
    /// writes the whole run, and no free or allocation takes the quick path.
    OnFree,
}

/// Configuration of [`Frames::init`](crate::frames::Frames::init).
///
/// # Examples
///
/// ```
/// # use topomem_numa::frames::{DoubleFrees, FramesConfig};
/// let config = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..FramesConfig::default() };
/// assert_ne!(config, FramesConfig::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FramesConfig {
    /// The limits of the zones.
    pub zones: ZoneLimits,
    /// How much is spared, and from when on memory is reclaimed.
    pub watermarks: ZoneWatermarks,
    /// Is there a per-frame table?
    pub table: PerFrameTable,
    /// The time at which double frees are detected.
    pub double_frees: DoubleFrees,
    /// The number of zeroed frames kept by each node.
    pub zeroed: ZeroedFrames,
    /// The time at which frames are filled with zeros.
    pub zeroing: Zeroing,
}

impl FramesConfig {
    /// The default without a reserve, and without reclaim: any request may take the last frame. For tests that
    /// count frames, and for kernels that keep a reserve of their own.
    #[must_use]
    pub fn without_reserve() -> FramesConfig {
        let watermarks = ZoneWatermarks::Frames(Watermarks::NONE);
        FramesConfig { watermarks, ..FramesConfig::default() }
    }

    /// How many frames the pool of a node of `managed` frames is filled with.
    pub(in crate::frames) fn pool_of(&self, managed: u64) -> u64 {
        match self.zeroing {
            Zeroing::OnRequest => self.zeroed.of(managed),
            Zeroing::OnFree => 0,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Zones of `bytes` bytes on a machine of `total` bytes, in KiB.
    fn kib(bytes: u64, total: u64) -> [u64; 3] {
        let Watermarks { min, low, high } = ZoneWatermarks::InProportion.of(bytes / 4096, total / 4096);
        [min * 4, low * 4, high * 4]
    }

    /// Compares with the watermarks of Linux 6.12.
    #[test]
    fn shares_are_those_of_linux() {
        let gib = 1 << 30;
        assert_eq!(kib(gib, gib), [4096, 5144, 6192]);
        assert_eq!(kib(16 * gib, 16 * gib), [16384, 33160, 49936]);
        assert_eq!(kib(12 * gib, 16 * gib), [12288, 24868, 37448], "three quarters, by size");
        assert_eq!(kib(1 << 50, 1 << 50)[0], 256 << 10, "at most");
        assert_eq!(kib(1 << 20, 1 << 20), [128, 160, 192], "at least");
    }

    #[test]
    fn no_watermark_is_more_than_a_quarter_of_the_zone() {
        let all = Watermarks { min: 100, low: 200, high: 300 };
        let cut = ZoneWatermarks::Frames(all).of(500, 1 << 20);
        assert_eq!(cut, Watermarks { min: 100, low: 125, high: 125 });
        assert_eq!(ZoneWatermarks::InProportion.of(64, 64), Watermarks { min: 16, low: 16, high: 16 });
        assert_eq!(ZoneWatermarks::InProportion.of(0, 0), Watermarks::NONE);
    }
}
