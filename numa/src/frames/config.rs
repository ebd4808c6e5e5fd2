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

/// How many frames each node keeps that are zero already.
///
/// They are filled in by [`Frames::refill_zeroed`](super::Frames::refill_zeroed) and by nothing
/// else, and remain free: whoever finds nothing else takes them. The bookkeeping is two bytes a
/// frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroedFrames {
    /// One for 1024 frames of the node, at most 256.
    #[default]
    InProportion,
    /// So many, at most 1024.
    Frames(u16),
}

impl ZeroedFrames {
    /// Of a node that has `managed` frames.
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
    /// When a request asks for zeroed frames, or ahead of that
    /// ([`Frames::refill_zeroed`](super::Frames::refill_zeroed)). Free frames keep what their
    /// last owner wrote.
    #[default]
    OnRequest,
    /// When they are freed, so that nothing of an owner outlives the free; all memory once at
    /// the start. Requests for zeroed frames then cost nothing more, and there are no pools.
    /// Every free writes the whole run, and no free or allocation takes the quick path.
    OnFree,
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
    /// How many frames each node keeps that are zero already.
    pub zeroed: ZeroedFrames,
    /// When are frames filled with zeros?
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
