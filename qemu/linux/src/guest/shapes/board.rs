//! What workers share, be they threads or processes.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::guest::error::GuestError;
use crate::guest::pages::mapping;
use crate::guest::system::clock::Ticks;

/// The highest number of rounds.
const ROUNDS: usize = 1024;

/// Where workers meet before each round, and how long the slowest one took. All bytes zero is an empty one.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Board {
    /// How often a worker has arrived: added to with AcqRel and loaded with Acquire, so that nobody begins a round
    /// before all have ended the last.
    arrived: AtomicUsize,
    /// Has a worker given up? Nobody waits for it then.
    has_failed: AtomicBool,
    /// The most ticks of a worker in each round. Relaxed: read when all workers have ended.
    longest: [AtomicU64; ROUNDS],
}

/// A board that this process and its children share.
#[derive(Debug)]
pub(super) struct SharedBoard(NonNull<Board>);

// SAFETY: a board is made of atomics, and stays until this is dropped.
unsafe impl Sync for SharedBoard {}

impl SharedBoard {
    pub(super) fn create() -> Result<Self, GuestError> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel has room. It is as aligned as a page.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Board>(), access, MapFlags::SHARED) };
        let start = start.map_err(mapping("mmap"))?;
        NonNull::new(start.cast()).map(Self).ok_or(mapping("mmap")(Errno::NOMEM))
    }

    pub(super) fn get(&self) -> &Board {
        // SAFETY: `create` mapped it, its zeros are an empty board, and all use it by reference.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedBoard {
    fn drop(&mut self) {
        // SAFETY: nobody can have a reference any more. What stays mapped is no harm.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Board>()) };
    }
}

impl Board {
    /// Waits until all `workers` have come here as often as the caller. Returns false if one has given up.
    pub(super) fn meet(&self, workers: usize) -> bool {
        let mut arrived = self.arrived.fetch_add(1, Ordering::AcqRel) + 1;
        // Nobody comes twice before all came once.
        let all = arrived.next_multiple_of(workers);
        while arrived < all {
            if self.has_failed.load(Ordering::Relaxed) {
                return false;
            }
            // Without PAUSE, for which the emulator takes the lock that it sends interrupts under.
            arrived = self.arrived.load(Ordering::Acquire);
        }
        true
    }

    /// A worker has taken so long in a round.
    pub(super) fn note(&self, round: usize, ticks: Ticks) {
        if let Some(longest) = self.longest.get(round) {
            longest.fetch_max(ticks.count(), Ordering::Relaxed);
        }
    }

    /// A worker gives up.
    pub(super) fn fail(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// The most ticks of a worker in each of the first rounds; `None` if a worker has given up.
    pub(super) fn longest(&self, rounds: usize) -> Option<Vec<u64>> {
        let longest = self.longest.get(..rounds)?;
        let has_failed = self.has_failed.load(Ordering::Relaxed);
        (!has_failed).then(|| longest.iter().map(|ticks| ticks.load(Ordering::Relaxed)).collect())
    }
}
