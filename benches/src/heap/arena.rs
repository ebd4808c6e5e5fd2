//! Memory below heaps that do not map any themselves, and what a process has of the machine's.

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of an arena.
pub const BYTES: usize = 512 << 20;

/// An anonymous mapping, aligned to its size. It takes memory as it is touched, in pages of 2 MiB where the system has
/// them: a kernel's direct map has no smaller ones.
#[derive(Debug)]
pub struct Arena {
    mapping: NonNull<u8>,
    base: NonNull<u8>,
}

/// Bytes mapped so that an aligned arena is among them.
const MAPPED: usize = 2 * BYTES;

impl Arena {
    /// A fresh arena.
    ///
    /// # Panics
    ///
    /// If the system maps none.
    #[must_use]
    pub fn new() -> Arena {
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, wherever there is room.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), MAPPED, protection, flags) };
        let mapping = match mapped.map(|address| NonNull::new(address.cast::<u8>())) {
            Ok(Some(mapping)) => mapping,
            Ok(None) => panic!("an arena at null"),
            Err(error) => panic!("no arena of {BYTES} bytes: {error}"),
        };
        let offset = mapping.addr().get().next_multiple_of(BYTES) - mapping.addr().get();
        // SAFETY: twice its size is mapped, so an aligned arena is inside.
        let base = unsafe { mapping.add(offset) };
        // A system that has no large pages refuses, and the arena has small ones.
        // SAFETY: the arena is mapped; the advice changes no contents.
        let _ = unsafe { madvise(base.as_ptr().cast(), BYTES, Advice::LinuxHugepage) };
        Arena { mapping, base }
    }

    /// The arena's first byte.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; whoever uses the memory owns the arena, and goes with it.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), MAPPED) };
    }
}

// SAFETY: plain memory.
unsafe impl Send for Arena {}
// SAFETY: as above; the arena itself never reads or writes it.
unsafe impl Sync for Arena {}

/// Bytes of memory that the process has of the machine's.
///
/// # Errors
///
/// If the system does not say.
pub fn resident() -> io::Result<u64> {
    // Page tables are walked for it, so it is exact; `statm` may be behind by some pages for each CPU.
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no Rss in smaps_rollup"))
}
