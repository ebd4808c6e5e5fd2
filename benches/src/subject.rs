//! What a frame allocator must offer to be measured.

use topomem_percpu::Order;

/// A frame allocator over frames `0..frames`, shared by the threads that play CPUs.
pub trait Subject: Sync + Sized {
    /// The crate's name, and the name of its rows.
    const NAME: &'static str;

    /// An allocator over `frames` free frames, for up to `cpus` CPUs.
    fn new(frames: usize, cpus: usize) -> Self;

    /// A run of frames on behalf of CPU `cpu`: the number of its first frame.
    fn alloc(&self, cpu: usize, order: Order) -> Option<u64>;

    /// Returns what [`Subject::alloc`] gave.
    fn free(&self, cpu: usize, frame: u64, order: Order);

    /// Gives back what CPU `cpu` caches, where the subject caches anything.
    fn drain(&self, _cpu: usize) {}

    /// Bookkeeping in bytes, where the subject states it.
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
}
