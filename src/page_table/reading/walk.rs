//! Walking a page table without a lock.

use core::fmt;

use crossbeam_utils::CachePadded;
#[cfg(not(loom))]
use topomem_percpu::PagedCpuTable;
use topomem_percpu::sync::atomic::{AtomicU32, Ordering, fence};
use topomem_percpu::{CpuId, CpuPage, CpuPin};

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
///
/// The first CPUs' words are in place, where they cost an announcement the least: placed on the CPU's node, they made a
/// change of one page's protection take 508 instructions in place of 488. The others' words are placed when the CPUs
/// come online.
pub struct Walks {
    /// Number of nested walks under way on each of the first CPUs. Written by the CPU itself.
    first: [Walking; FIRST],
    /// The words of the other CPUs.
    #[cfg(not(loom))]
    others: PagedCpuTable<Walking>,
    /// Not 0 once another CPU has begun a walk without a word. The end of such a walk is not seen.
    #[cfg(not(loom))]
    unknown: AtomicU32,
}

/// Number of nested walks under way on a CPU, on a cache line of its own.
pub type Walking = CachePadded<AtomicU32>;

/// Number of CPUs whose words are in place.
const FIRST: usize = if cfg!(loom) { topomem_percpu::MAX_CPUS } else { 16 };

/// The word of other CPUs that have none. Nothing reads it.
#[cfg(not(loom))]
static UNKNOWN: Walking = CachePadded::new(AtomicU32::new(0));

/// Number of looks at a CPU before [`Walks::wait_for_others`] gives up.
const LONGEST_SPIN: u32 = if cfg!(loom) { 2 } else { 10_000 };

impl Walks {
    /// Returns the state without walks.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Walks {
        Walks {
            first: [const { CachePadded::new(AtomicU32::new(0)) }; FIRST],
            others: PagedCpuTable::new(&UNKNOWN),
            unknown: AtomicU32::new(0),
        }
    }

    /// Returns the state without walks (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Walks {
        Walks { first: core::array::from_fn(|_| CachePadded::new(AtomicU32::new(0))) }
    }

    /// Gives room for the words of `cpu` and the CPUs that share a page with it, unless there is.
    #[cfg(not(loom))]
    pub fn extend(
        &self,
        cpu: CpuId,
        page: &'static CpuPage<Walking>,
    ) -> Result<(), &'static CpuPage<Walking>> {
        self.others.extend(cpu, page)
    }

    /// Gives `cpu` its word, for good, before the CPU comes online.
    #[cfg(not(loom))]
    pub fn place(&self, cpu: CpuId, word: &'static Walking) {
        // The first CPUs have theirs, and a CPU keeps its word.
        let _ = self.others.place(cpu, word);
    }

    /// Does nothing: a model's CPUs all have their words.
    #[cfg(loom)]
    pub fn extend(&self, _: CpuId, page: &'static CpuPage<Walking>) -> Result<(), &'static CpuPage<Walking>> {
        Err(page)
    }

    /// Does nothing: a model's CPUs all have their words.
    #[cfg(loom)]
    pub fn place(&self, _: CpuId, _: &'static Walking) {}

    /// Announces a walk of the pinned CPU, until the guard is dropped.
    #[inline]
    pub fn enter<'a>(&'a self, pin: &'a CpuPin) -> WalkGuard<'a> {
        let word = self.word(pin.cpu());
        // Contexts of a CPU nest, so a load and a store suffice: an interrupting context restores
        // the word. Relaxed: only this CPU writes the word, and the fence below orders the store.
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Pairs with the fence in `wait_for_others`: either the reclaimer sees this walk, or the
        // walk sees the table unlinked.
        fence(Ordering::SeqCst);
        WalkGuard { word, pin }
    }

    #[inline(always)]
    fn word(&self, cpu: CpuId) -> &AtomicU32 {
        match self.first.get(cpu.index()) {
            Some(word) => word,
            #[cfg(not(loom))]
            None => self.other_word(cpu),
            #[cfg(loom)]
            None => &self.first[0],
        }
    }

    #[cfg(not(loom))]
    #[cold]
    #[inline(never)]
    fn other_word(&self, cpu: CpuId) -> &AtomicU32 {
        let word = self.others.get(cpu);
        if core::ptr::eq(word, &UNKNOWN) {
            // A CPU that never was online: nobody is told when its walk ends, so no table is freed any more.
            self.unknown.store(1, Ordering::Relaxed);
        }
        word
    }

    /// Waits until every CPU has been outside a walk at some time after the call. Returns false if
    /// a CPU stays inside for long, and at once if this context has interrupted a walk of its own
    /// CPU.
    pub fn wait_for_others(&self, pin: &CpuPin, relax: impl Fn()) -> bool {
        fence(Ordering::SeqCst);
        // Relaxed: only this CPU writes the word.
        if self.word(pin.cpu()).load(Ordering::Relaxed) != 0 {
            return false;
        }
        #[cfg(not(loom))]
        // Relaxed: the fences order it.
        if self.unknown.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let first = self.first.iter();
        #[cfg(not(loom))]
        let words = first.chain(self.others.iter().map(|(_, word)| word));
        #[cfg(loom)]
        let mut words = first;
        #[cfg(not(loom))]
        let mut words = words;
        words.all(|word| {
            // Acquire pairs with the Release in the guard's drop: the walk's loads are done.
            (0..LONGEST_SPIN).any(|turn| {
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
