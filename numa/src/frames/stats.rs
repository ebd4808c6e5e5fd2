//! What the allocator counts.

use topomem_percpu::Order;

use super::{Pressure, ZeroedStats, Zone};

/// One CPU's magazine, counted by its owner alone: reading it costs the owner nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MagazineStats {
    /// Runs up to order 9 handed out by the magazine without lock or atomic
    /// read-modify-write.
    pub hits: u64,
    /// Allocations of up to 32 frames that found none in the magazine.
    pub misses: u64,
    /// Words of up to 64 frames taken from a bitmap.
    pub refills: u64,
    /// Frames freed, alone or in runs below order 9, that the magazine took.
    pub frees: u64,
    /// Single frames freed that went straight to their bitmap.
    pub straight: u64,
    /// Words given back to a bitmap.
    pub flushes: u64,
    /// Uses that found the magazine busy, nested in another context of the CPU.
    pub nested: u64,
    /// Runs handed out from the CPU's own node.
    pub local: u64,
    /// Runs handed out from another node.
    pub remote: u64,
    /// Frames freed twice that were recognised only when their word went home.
    pub late_doubles: u64,
    /// Frames that the magazine holds now.
    pub cached: u64,
}

/// One zone of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZoneStats {
    /// Frames that the allocator manages; reserved ones left out.
    pub managed: u64,
    /// Free frames, those in magazines and in the pool of zeroed frames left out.
    pub free: u64,
    /// Frames out of circulation ([`Frames::retire`](super::Frames::retire)).
    pub retired: u64,
    /// Of `free`: maximal aligned free runs by order. Sums to `free` weighted by size.
    pub runs: [u64; Order::GIANT.get() as usize + 1],
}

/// One node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStats {
    /// By [`Zone::index`].
    pub zones: [ZoneStats; Zone::COUNT],
    /// Frames of this node in magazines.
    pub in_magazines: u64,
    /// The pool of zeroed frames.
    pub zeroed: ZeroedStats,
    /// Runs that this node served to requests that preferred it.
    pub local: u64,
    /// Runs that this node served to requests that preferred another.
    pub remote: u64,
    /// Requests that preferred this node and were served by another.
    pub foreign: u64,
    /// The worst of the zones that it has.
    pub pressure: Pressure,
}

impl NodeStats {
    /// Free frames, wherever they are.
    #[must_use]
    pub fn all_free(&self) -> u64 {
        self.free() + self.in_magazines + self.zeroed.frames
    }

    /// Free frames in bitmaps and buddy.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.zones.iter().map(|zone| zone.free).sum()
    }

    /// Frames out of circulation.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.zones.iter().map(|zone| zone.retired).sum()
    }

    /// Managed frames.
    #[must_use]
    pub fn managed(&self) -> u64 {
        self.zones.iter().map(|zone| zone.managed).sum()
    }
}

/// Every frame counted once, as [`Frames::validate`](super::Frames::validate) found them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Free in bitmaps and buddy.
    pub free: u64,
    /// In CPUs' magazines.
    pub in_magazines: u64,
    /// In nodes' pools of zeroed frames.
    pub zeroed: u64,
    /// Handed out.
    pub allocated: u64,
    /// Out of circulation ([`Frames::retire`](super::Frames::retire)).
    pub retired: u64,
    /// Inside regions but not managed: reserved, or holes.
    pub reserved: u64,
}
