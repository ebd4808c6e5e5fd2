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

/// The CPUs walking page tables in software at this moment. No table is freed during their walks.
///
/// The hardware's walks end with the shootdown of a retired table; a software walk may run on a CPU
/// not reached by the shootdown. A walk is therefore announced in its CPU's own word (a store and a
/// fence, no atomic read-modify-write). An unlinked table is freed after each CPU has been seen
/// outside a walk: an epoch scheme as in RCU's quiescent states (McKenney and Slingwine, 1998).
pub struct Walks {
    /// Number of nested walks under way on each CPU. Written by the CPU itself.
    walking: [CachePadded<AtomicU32>; MAX_CPUS],
}

/// Number of looks at a CPU before [`Walks::wait_for_others`] gives up.
const PATIENCE: u32 = if cfg!(loom) { 2 } else { 10_000 };

impl Walks {
    /// Returns the state without walks.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Walks {
        Walks { walking: [const { CachePadded::new(AtomicU32::new(0)) }; MAX_CPUS] }
    }

    /// Returns the state without walks (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Walks {
        Walks { walking: core::array::from_fn(|_| CachePadded::new(AtomicU32::new(0))) }
    }

    /// Announces a walk of the pinned CPU, until the guard is dropped.
    #[inline]
    pub fn enter<'a>(&'a self, pin: &'a CpuPin) -> WalkGuard<'a> {
        let word = &self.walking[pin.cpu().index()];
        // Contexts of a CPU nest, so a load and a store suffice: an interrupting context restores
        // the word. Relaxed: only this CPU writes the word, and the fence below orders the store.
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Pairs with the fence in `wait_for_others`: either the reclaimer sees this walk, or the
        // walk sees the table unlinked.
        fence(Ordering::SeqCst);
        WalkGuard { word, pin }
    }

    /// Waits until every CPU has been outside a walk at some time after the call. Returns false if
    /// a CPU stays inside for long, and at once if this context has interrupted a walk of its own
    /// CPU.
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

/// Proof of an announced walk: tables seen by the walk stay allocated.
#[derive(Debug)]
pub struct WalkGuard<'a> {
    word: &'a AtomicU32,
    /// The walk stays on the CPU of the word.
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
    /// Returns the leaf mapping `page`, and its level, as found by the hardware.
    pub(crate) fn walk<M: TableMemory>(
        &self,
        memory: &M,
        _walk: &WalkGuard<'_>,
        page: u64,
    ) -> Option<(Leaf, Level)> {
        let mut frame = self.root;
        let mut level = F::ROOT;
        loop {
            // SAFETY: the root lives as long as `self`. A table below was linked when its entry was
            // read, and is not freed while the walk is announced.
            let table = unsafe { table_at(memory, frame) };
            match F::decode(table.load(level.index(page)), level) {
                Entry::Empty | Entry::Mark(_) => return None,
                Entry::Leaf(leaf) => return leaf.protection.access().reads().then_some((leaf, level)),
                Entry::Table(next) => (frame, level) = (next, level.below()?),
            }
        }
    }
}
