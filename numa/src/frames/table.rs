//! The per-frame table: what copy-on-write, page-table locks and retire lists keep per frame.

use topomem_percpu::sync::atomic::AtomicU32;

/// Eight bytes that belong to whoever owns the frame; the allocator never touches them.
#[derive(Debug)]
pub struct FrameInfo {
    /// How many mappings share the frame, or what the owner counts.
    pub references: AtomicU32,
    /// A lock word, or the number of the next frame in a list of the owner's.
    pub aux: AtomicU32,
}

impl FrameInfo {
    pub(super) fn new() -> FrameInfo {
        FrameInfo { references: AtomicU32::new(0), aux: AtomicU32::new(0) }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<FrameInfo>() == 8);
