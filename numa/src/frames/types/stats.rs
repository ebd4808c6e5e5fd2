//! The counters of the allocator.

use topomem_percpu::Order;

use super::zone::{Pressure, Zone};

/// One CPU's magazine, counted by its owner alone: reading the counters costs the owner nothing.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::frames::FrameRequest;
///
/// drop(frames.alloc_owned(&FrameRequest::frame())?); // takes a word of the bitmap
/// drop(frames.alloc_owned(&FrameRequest::frame())?); // a hit
/// assert!(frames.cpu_stats(pin.cpu()).unwrap().hits >= 1);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MagazineStats {
    /// Runs up to order 9 handed out by the magazine without lock or atomic
    /// read-modify-write.
    pub hits: u64,
    /// Allocations of up to 32 frames that found no frames in the magazine.
    pub misses: u64,
    /// Words of up to 64 frames taken from a bitmap.
    pub refills: u64,
    /// Frames freed into the magazine, alone or in runs below order 9.
    pub frees: u64,
    /// Single frames freed directly into their bitmap.
    pub straight: u64,
    /// Words returned to a bitmap.
    pub flushes: u64,
    /// Uses that found the magazine busy, nested in another context of the CPU.
    pub nested: u64,
    /// Runs handed out from the CPU's own node.
    pub local: u64,
    /// Runs handed out from another node.
    pub remote: u64,
    /// Frames freed twice, detected only when their word was flushed.
    pub late_doubles: u64,
    /// Frames in the magazine now.
    pub cached: u64,
}

/// One zone of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZoneStats {
    /// Frames managed by the allocator, without reserved frames.
    pub managed: u64,
    /// Free frames, without those in magazines and in the pool of zeroed frames.
    pub free: u64,
    /// Completely retired frames ([`Frames::retire`](crate::frames::Frames::retire)).
    pub retired: u64,
    /// Of `free`: maximal aligned free runs by order. Sums to `free` weighted by size.
    pub runs: [u64; Order::GIANT.get() as usize + 1],
}

/// One node.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::NodeId;
///
/// let stats = frames.stats(NodeId::ZERO).unwrap();
/// assert!(stats.free() <= stats.managed());
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStats {
    /// By [`Zone::index`].
    pub zones: [ZoneStats; Zone::COUNT],
    /// Frames of this node in magazines.
    pub in_magazines: u64,
    /// The pool of zeroed frames.
    pub zeroed: ZeroedStats,
    /// Runs served by this node to requests that preferred it.
    pub local: u64,
    /// Runs served by this node to requests that preferred another node.
    pub remote: u64,
    /// Requests that preferred this node and were served by another node.
    pub foreign: u64,
    /// The worst pressure of its zones.
    pub pressure: Pressure,
}

impl NodeStats {
    /// Returns all free frames, including those in magazines and pools.
    #[must_use]
    pub fn all_free(&self) -> u64 {
        self.free() + self.in_magazines + self.zeroed.frames
    }

    /// Returns the free frames in bitmaps and buddy.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.zones.iter().map(|zone| zone.free).sum()
    }

    /// Returns the completely retired frames.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.zones.iter().map(|zone| zone.retired).sum()
    }

    /// Returns the managed frames.
    #[must_use]
    pub fn managed(&self) -> u64 {
        self.zones.iter().map(|zone| zone.managed).sum()
    }
}

/// Every frame counted once, as [`Frames::validate`](crate::frames::Frames::validate) found them.
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
    /// Completely retired ([`Frames::retire`](crate::frames::Frames::retire)).
    pub retired: u64,
    /// Inside regions but not managed: reserved, or holes.
    pub reserved: u64,
}

/// A node's pool of frames known to be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroedStats {
    /// Frames in it now.
    pub frames: u64,
    /// Requests for a zeroed frame served by the pool.
    pub hits: u64,
    /// Requests for a zeroed frame that found the pool empty, and had to wait for the zeroing.
    pub misses: u64,
    /// Frames freed while they were in the pool, and detected later than by the free itself. Each
    /// was handed out once.
    pub doubles: u64,
}
