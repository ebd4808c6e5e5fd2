//! What a heap must offer to be measured.

use std::alloc::GlobalAlloc;

/// A heap, shared by the threads that play CPUs. It is called as a program's global allocator would be.
pub(super) trait Subject: GlobalAlloc + Sync + Sized {
    /// The crate's name, and the name of its rows.
    const NAME: &'static str;

    /// A heap for up to `cpus` threads.
    fn new(cpus: usize) -> Self;

    /// Makes the calling thread the CPU numbered `cpu`.
    fn enter(&self, _cpu: usize) {}

    /// Gives back what the calling thread caches, and what the heap keeps without need, as far as there is
    /// a call for that.
    fn reclaim(&self) {}

    /// Bytes that the heap holds, bookkeeping included; `None` if its memory cannot be told from what the
    /// arena below it has.
    fn held(&self) -> Option<u64>;
}
