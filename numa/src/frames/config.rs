//! How a frame allocator is built.

use super::{Watermarks, ZoneLimits};

/// Is there a per-frame table?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerFrameTable {
    /// None: copy-on-write and page-table locks need one, a frames-only kernel does not.
    #[default]
    Absent,
    /// 8 bytes a frame, on the frame's own node.
    Present,
}

/// How soon is a frame noticed that is freed twice, or with a wrong order?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoubleFrees {
    /// At once when it is free at home or in the freeing CPU's magazine, else when it goes home.
    /// Costs nothing on a magazine hit.
    #[default]
    FoundLate,
    /// Always at once, and any wrong order too ("paranoid"): a byte per frame, one
    /// compare-and-swap per free, and no quick path. Every run must be freed as it was allocated.
    FoundAtOnce,
}

/// Configuration of [`Frames::init`](super::Frames::init).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FramesConfig {
    /// Where the zones end.
    pub zones: ZoneLimits,
    /// The watermarks of every populated zone, each cut to a quarter of the zone.
    pub watermarks: Watermarks,
    /// Is there a per-frame table?
    pub table: PerFrameTable,
    /// How soon are double frees noticed?
    pub double_frees: DoubleFrees,
}
