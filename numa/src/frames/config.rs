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

/// Configuration of [`Frames::init`](super::Frames::init).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FramesConfig {
    /// Where the zones end.
    pub zones: ZoneLimits,
    /// The watermarks of every populated zone, each cut to a quarter of the zone.
    pub watermarks: Watermarks,
    /// Is there a per-frame table?
    pub table: PerFrameTable,
}
