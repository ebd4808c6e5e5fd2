//! Walking a page table without a lock.

use core::fmt;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicU32, Ordering, fence};
use topomem_percpu::{CpuPin, MAX_CPUS};

use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf};
use crate::page_table::format::level::Level;
use crate::page_table::tables::memory::{TableMemory, table_at};

/// Which CPUs walk page tables in software just now, so that no table is freed under them.
///
/// The hardware's walks end with the shootdown that retires a table; a software walk may run on
/// a CPU that the shootdown does not reach. So a walk announces itself in its CPU's own word (a
/// store and a fence, no atomic read-modify-write), and a table is freed once, after it was
/// unlinked, each CPU has been seen outside: an epoch scheme as in RCU's quiescent states
/// (McKenney and Slingwine, 1998).
pub struct Walks {
    /// How many walks of this CPU, one nested in the other, are under way. Only its own CPU
    /// writes it.
    walking: [CachePadded<AtomicU32>; MAX_CPUS],
}

/// How often [`Walks::wait_for_others`] looks at a CPU before it gives up.
const PATIENCE: u32 = if cfg!(loom) { 2 } else { 10_000 };

impl Walks {
    /// Nobody walks.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Walks {
        Walks { walking: [const { CachePadded::new(AtomicU32::new(0)) }; MAX_CPUS] }
    }

    /// Nobody walks (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Walks {
        Walks { walking: core::array::from_fn(|_| CachePadded::new(AtomicU32::new(0))) }
    }

    /// Announces a walk of the pinned CPU, until the guard is dropped.
    #[inline]
    pub fn enter<'a>(&'a self, pin: &'a CpuPin) -> WalkGuard<'a> {
        let word = &self.walking[pin.cpu().index()];
        // Contexts of one CPU nest, so a load and a store do: who interrupts in between leaves
        // the word as it was.
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Pairs with the fence in `wait_for_others`: either the reclaimer sees this walk, or
        // the walk sees that the table is unlinked.
        fence(Ordering::SeqCst);
        WalkGuard { word, pin }
    }

    /// Waits until every CPU has been outside a walk at some time after the call. Returns false if a
    /// CPU stays inside for long, and at once if this context has interrupted a walk of its own CPU.
    pub fn wait_for_others(&self, pin: &CpuPin, relax: impl Fn()) -> bool {
        fence(Ordering::SeqCst);
        // Relaxed: only this CPU writes the word.
        if self.walking[pin.cpu().index()].load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.walking.iter().all(|word| {
            // Acquire pairs with the Release in the guard's drop: the walk's loads are done.
            (0..PATIENCE).any(|turn| {
                if turn > 0 {
                    relax();
                }
                word.load(Ordering::Acquire) == 0
            })
        })
    }
}

impl Default for Walks {
    fn default() -> Walks {
        Walks::new()
    }
}

impl fmt::Debug for Walks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walks").finish_non_exhaustive()
    }
}

/// Proof of an announced walk: tables seen by it stay allocated.
#[derive(Debug)]
pub struct WalkGuard<'a> {
    word: &'a AtomicU32,
    /// The walk stays on the CPU whose word it is.
    pin: &'a CpuPin,
}

impl Drop for WalkGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let _ = self.pin;
        self.word.store(self.word.load(Ordering::Relaxed) - 1, Ordering::Release);
    }
}

impl<F: Format> PageTable<F> {
    /// The leaf that maps `page`, and its level: what the hardware would find.
    pub(crate) fn walk<M: TableMemory>(
        &self,
        memory: &M,
        _walk: &WalkGuard<'_>,
        page: u64,
    ) -> Option<(Leaf, Level)> {
        let mut frame = self.root;
        let mut level = F::ROOT;
        loop {
            // SAFETY: the root lives as long as `self`; a table below was linked when its entry
            // was read, and is not freed while the walk is announced.
            let table = unsafe { table_at(memory, frame) };
            match F::decode(table.load(level.index(page)), level) {
                Entry::Empty | Entry::Mark(_) => return None,
                Entry::Leaf(leaf) => return leaf.protection.access().reads().then_some((leaf, level)),
                Entry::Table(next) => (frame, level) = (next, level.below()?),
            }
        }
    }
}
