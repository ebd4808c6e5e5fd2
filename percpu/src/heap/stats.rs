//! What the heap counts.

/// One size class, over all nodes. Read counter by counter while others run, so exact only when
/// nobody else uses the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassStats {
    /// Bytes of an object.
    pub object_size: usize,
    /// Objects that callers hold.
    pub live: u64,
    /// Free objects in CPUs' and depots' magazines, or on their way home to their slab.
    pub cached: u64,
    /// Free objects in slabs.
    pub free: u64,
    /// Slabs that hold pages.
    pub slabs: u64,
    /// Bytes of pages in those slabs.
    pub slab_bytes: u64,
}

impl ClassStats {
    /// How much of the pages is not in live objects, in thousandths; 0 without pages.
    #[must_use]
    pub fn fragmentation_per_mille(&self) -> u64 {
        let live = self.live * self.object_size as u64;
        (self.slab_bytes.saturating_sub(live) * 1000).checked_div(self.slab_bytes).unwrap_or(0)
    }
}

/// Objects beyond the largest class, each a run of pages of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LargeStats {
    /// Runs that callers hold.
    pub live: u64,
    /// Bytes of those runs.
    pub bytes: u64,
}

/// One CPU's use of its magazines since it came online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuHeapStats {
    /// Allocations and frees that the CPU's own magazines served.
    pub hits: u64,
    /// Allocations and frees that went on to the depot or to a slab.
    pub misses: u64,
    /// Uses nested in another use of this CPU (interrupt handlers), served by the shared path.
    pub nested: u64,
    /// Frees of another node's objects, sent home.
    pub remote_frees: u64,
}
