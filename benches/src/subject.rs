//! What a frame allocator must offer to be measured.

use topomem_percpu::Order;

/// A frame allocator, shared by the threads that play CPUs.
///
/// A case sees what a kernel would see: the crate's own type of frame, and the CPU that a kernel
/// has found out anyway. Finding it out is measured for nobody, nor is masking interrupts around
/// a lock.
pub trait Subject: Sync + Sized {
    /// The crate's name, and the name of its rows.
    const NAME: &'static str;

    /// What it calls a frame.
    type Frame: Copy + Ord + Send;

    /// What its calls need to know of the CPU that they run on.
    type Cpu;

    /// An allocator over `frames` free frames, for up to `cpus` CPUs.
    fn new(frames: usize, cpus: usize) -> Self;

    /// The CPU numbered `cpu`, for the thread that plays it.
    fn cpu(&self, cpu: usize) -> Self::Cpu;

    /// The first of a run of frames.
    fn alloc(&self, cpu: &Self::Cpu, order: Order) -> Option<Self::Frame>;

    /// Returns what [`Subject::alloc`] gave.
    fn free(&self, cpu: &Self::Cpu, frame: Self::Frame, order: Order);

    /// Frees single frames of a list, by what the subject has for that.
    #[inline]
    fn free_list(&self, cpu: &Self::Cpu, frames: &[Self::Frame]) {
        frames.iter().for_each(|&frame| self.free(cpu, frame, Order::FRAME));
    }

    /// Gives back what `cpu` caches, where the subject caches anything.
    fn drain(&self, _cpu: &Self::Cpu) {}

    /// Bookkeeping in bytes, where the subject states it.
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
}
