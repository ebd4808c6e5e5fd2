//! The configuration of a frame allocator.

use super::{Watermarks, ZoneLimits};

/// Whether there is a per-frame table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerFrameTable {
    /// No table. Copy-on-write and page-table locks need a table; a frames-only kernel does not.
    #[default]
    Absent,
    /// 8 bytes a frame, on the frame's own node.
    Present,
}

/// The time at which a double free, or a free with a wrong order, is detected.
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
/// Only [`Frames::refill_zeroed`](super::Frames::refill_zeroed) fills the pools. Pooled frames
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

/// When are frames filled with zeros?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zeroing {
    /// On a request for zeroed frames, or ahead of it
    /// ([`Frames::refill_zeroed`](super::Frames::refill_zeroed)). Free frames keep the data of
    /// their last owner.
    #[default]
    OnRequest,
    /// On every free, so that no data of an owner outlives the free, and for all memory once at the
    /// start. Requests for zeroed frames then cost nothing more, and there are no pools. Every free
    /// writes the whole run, and no free or allocation takes the quick path.
    OnFree,
}

/// Configuration of [`Frames::init`](super::Frames::init).
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
    /// The watermarks of every populated zone, each cut to a quarter of the zone.
    pub watermarks: Watermarks,
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
    /// How many frames the pool of a node of `managed` frames is filled with.
    pub(super) fn pool_of(&self, managed: u64) -> u64 {
        match self.zeroing {
            Zeroing::OnRequest => self.zeroed.of(managed),
            Zeroing::OnFree => 0,
        }
    }
}
