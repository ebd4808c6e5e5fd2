//! One CPU's cache of runs of pages, for the next large objects.
//!
//! A free of a large object keeps the run here, and the next allocation of the length takes the run: no
//! lock, no read-modify-write, and no shared line except the object's and the entry in the
//! [record](crate::heap::large::runs). Runs of a length are linked through the first words. The record marks
//! each cached run, and a second free is refused. The record is checked before a link is
//! followed: a link overwritten after the free is not followed.
//!
//! A cache holds up to [`MAX_PAGES`] pages, and up to [`MAX_RUNS`] runs of a length of up to 1 MiB.
//! If a run finds no room, runs of other lengths are evicted, in turn. Cached runs return to the
//! source if the CPU drains ([`Heap::drain`](crate::heap::Heap::drain)) or goes offline.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::heap::large::run::{Home, LargeRun, Run};
use crate::heap::large::runs::{Leaf, Runs, is_page};
use crate::heap::{Corruption, InvalidFree};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::{CpuId, NodeId, Order, RunLength};

/// The most pages in a CPU's cache: 2 MiB.
pub(in crate::heap) const MAX_PAGES: u32 = 512;

/// The most cached runs of a length.
pub(in crate::heap) const MAX_RUNS: u32 = 16;

/// The lengths up to 1 MiB.
const BINS: usize = match Order::new(8) {
    Some(order) => RunLength::of_order(order).index() + 1,
    None => 0,
};

/// The number of leaves of the record remembered by a CPU.
const LEAVES: usize = 8;

/// The cached runs of one CPU, all requested on the CPU's node.
///
/// Used inside the CPU's cell, by one context of the CPU at a time. Remote CPUs read the counters:
/// atomics, loaded and stored, and relaxed, since they order nothing.
pub(in crate::heap) struct RunCache {
    /// By length.
    bins: [Bin; BINS],
    /// Pages of all cached runs.
    pages: Cell<u32>,
    /// The maximum number of runs of a length: [`MAX_RUNS`], or zero while the CPU is offline, or if the record does not
    /// tell the CPU's node from others.
    max_runs: Cell<u32>,
    /// The length at which the next eviction starts.
    next_evicted: Cell<usize>,
    home: Home,
    /// Recently used leaves, by the lower bits of the numbers: most uses find the leaf here.
    leaves: [Remembered; LEAVES],
}

/// The runs of a length.
struct Bin {
    first: Cell<Option<NonNull<u8>>>,
    count: AtomicU32,
    /// Allocations less frees of the CPU; wraps if the CPU frees more.
    live: AtomicU64,
}

impl Bin {
    #[inline]
    fn count_taken(&self) {
        self.count.store(self.count.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        self.live.store(self.live.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    #[inline]
    fn count_kept(&self) {
        self.count.store(self.count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.live.store(self.live.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }
}

/// A leaf, and the leaf's number.
struct Remembered {
    number: Cell<usize>,
    leaf: Cell<*const Leaf>,
}

/// Runs to be returned to the source, recorded as cached and linked through the first words.
#[derive(Debug)]
#[must_use]
pub(in crate::heap) struct Evicted(Option<NonNull<u8>>);

impl Evicted {
    const NONE: Evicted = Evicted(None);

    /// Puts `run` in front.
    ///
    /// # Safety
    ///
    /// The caller owns the run.
    unsafe fn push(&mut self, run: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { link(run, self.0) };
        self.0 = Some(run);
    }

    /// Takes the first run. If the record does not mark it as cached, its link was overwritten, and
    /// the rest of the list is lost.
    pub(in crate::heap) fn pop(&mut self, record: &Runs) -> Option<(NonNull<u8>, LargeRun)> {
        let run = self.0.take()?;
        let Some(Run::Cached(cached)) = record.at(run.addr().get()) else { return None };
        // SAFETY: the list owns its runs, each linked to the next.
        self.0 = unsafe { next(run) };
        Some((run, cached))
    }
}

/// Returns the run linked from `run`.
///
/// # Safety
///
/// The caller owns `run`, which is linked.
#[inline]
unsafe fn next(run: NonNull<u8>) -> Option<NonNull<u8>> {
    // SAFETY: the caller's promise; a run is aligned to a page.
    unsafe { run.cast().read() }
}

/// Links `run` to `next`.
///
/// # Safety
///
/// The caller owns `run`.
#[inline]
unsafe fn link(run: NonNull<u8>, next: Option<NonNull<u8>>) {
    // SAFETY: the caller's promise; a run is aligned to a page.
    unsafe { run.cast().write(next) };
}

/// Returns how many runs of a length a CPU of a node keeps.
fn max_runs(home: Home) -> u32 {
    match home {
        Home::Near(_) => MAX_RUNS,
        Home::Far => 0,
    }
}

impl RunCache {
    pub(in crate::heap) fn new(home: NodeId) -> RunCache {
        let bin = || Bin { first: Cell::new(None), count: AtomicU32::new(0), live: AtomicU64::new(0) };
        let nothing = || Remembered { number: Cell::new(usize::MAX), leaf: Cell::new(ptr::null()) };
        let home = Home::of(home);
        RunCache {
            bins: core::array::from_fn(|_| bin()),
            pages: Cell::new(0),
            max_runs: Cell::new(max_runs(home)),
            next_evicted: Cell::new(0),
            home,
            leaves: core::array::from_fn(|_| nothing()),
        }
    }

    pub(in crate::heap) fn set_online(&self) {
        self.max_runs.set(max_runs(self.home));
    }

    /// Turns the cache off. Call after [`RunCache::take_all`].
    pub(in crate::heap) fn set_offline(&self) {
        self.max_runs.set(0);
    }

    /// Takes a run of `length`, if any is aligned to `align` bytes. Uses remembered leaves
    /// of the record only, and makes no calls: see [`RunCache::prepare_pop`].
    #[inline(always)]
    pub(in crate::heap) fn pop(&self, length: RunLength, align: usize) -> Option<NonNull<u8>> {
        let bin = self.bins.get(length.index())?;
        let run = bin.first.get()?;
        let address = run.addr().get();
        if address & (align - 1) != 0 || !self.leaf(address)?.uncache(address, self.of_home(length)) {
            return None;
        }
        // SAFETY: the record marks the run as cached, and it is in the CPU's list.
        bin.first.set(unsafe { next(run) });
        bin.count_taken();
        self.pages.set(self.pages.get() - length.pages() as u32);
        Some(run)
    }

    /// Takes the longest run longer than `length`, if any is aligned to `align` bytes. Returns the run
    /// and the run's length.
    ///
    /// Bound: a look at each length.
    pub(in crate::heap) fn pop_longer(
        &self,
        record: &Runs,
        length: RunLength,
        align: usize,
    ) -> Option<(NonNull<u8>, RunLength)> {
        (length.index() + 1..BINS).rev().filter_map(RunLength::new).find_map(|longer| {
            self.remember(record, self.bins[longer.index()].first.get()?.addr().get());
            Some((self.pop(longer, align)?, longer))
        })
    }

    /// Puts the large object at `memory` into the cache. Returns false, with nothing changed, if
    /// the object does not have `length`, or is not of the CPU's node, or without room. Uses
    /// remembered leaves of the record only, and makes no calls: see [`RunCache::prepare_push`].
    ///
    /// # Safety
    ///
    /// The caller owns the large object, if any is recorded at `memory`.
    #[inline(always)]
    pub(in crate::heap) unsafe fn push(&self, memory: NonNull<u8>, length: RunLength) -> bool {
        let Some(bin) = self.bins.get(length.index()) else { return false };
        let (address, pages) = (memory.addr().get(), self.pages.get() + length.pages() as u32);
        let room = pages <= MAX_PAGES && bin.count.load(Ordering::Relaxed) < self.max_runs.get();
        if !room || !is_page(address) {
            return false;
        }
        if !self.leaf(address).is_some_and(|leaf| leaf.cache(address, self.of_home(length))) {
            return false;
        }
        // SAFETY: the context owns the run by now.
        unsafe { link(memory, bin.first.get()) };
        bin.first.set(Some(memory));
        bin.count_kept();
        self.pages.set(pages);
        true
    }

    /// Returns a run of the CPU's node.
    #[inline(always)]
    fn of_home(&self, length: RunLength) -> LargeRun {
        LargeRun { length, home: self.home }
    }

    /// Remembers the leaf for a [`RunCache::pop`] without a result. If the first run of `length`
    /// is not recorded as cached, two CPUs freed the run at the same time, or the run was written to after
    /// the free. Then the runs of the length are lost, and the error is returned.
    pub(in crate::heap) fn prepare_pop(&self, record: &Runs, length: RunLength) -> Option<InvalidFree> {
        let bin = self.bins.get(length.index())?;
        let address = bin.first.get()?.addr().get();
        self.remember(record, address);
        if record.at(address) == Some(Run::Cached(self.of_home(length))) {
            return None;
        }
        bin.first.set(None);
        self.forget_all(bin, length);
        Some(InvalidFree::LargeDoubleFree { address, size: length.bytes() as usize })
    }

    /// Remembers the leaf for a refused [`RunCache::push`] of the large object of `length` at
    /// `address`. If only the pages of other runs prevent keeping it, evicts runs until there is
    /// room, and half of all room is free.
    pub(in crate::heap) fn prepare_push(&self, record: &Runs, address: usize, length: RunLength) -> Evicted {
        self.remember(record, address);
        let mut evicted = Evicted::NONE;
        let kept = self.bins.get(length.index()).map(|bin| bin.count.load(Ordering::Relaxed));
        let pages = length.pages() as u32;
        if kept.is_none_or(|count| count >= self.max_runs.get()) || self.pages.get() + pages <= MAX_PAGES {
            return evicted;
        }
        let enough = (MAX_PAGES / 2).min(MAX_PAGES - pages);
        for _ in 0..BINS {
            if self.pages.get() <= enough {
                break;
            }
            let index = self.next_evicted.get();
            self.next_evicted.set((index + 1) % BINS);
            self.empty(record, index, &mut evicted);
        }
        evicted
    }

    /// Returns the leaf with the entry of `address`, if it is remembered.
    #[inline(always)]
    fn leaf(&self, address: usize) -> Option<&Leaf> {
        let number = Leaf::number_of(address);
        let remembered = &self.leaves[number % LEAVES];
        // SAFETY: the leaf belongs to the heap's record, which lives as long as the heap.
        (remembered.number.get() == number).then(|| unsafe { &*remembered.leaf.get() })
    }

    fn remember(&self, record: &Runs, address: usize) {
        if let Some(leaf) = record.leaf(address) {
            let number = Leaf::number_of(address);
            self.leaves[number % LEAVES].leaf.set(leaf);
            self.leaves[number % LEAVES].number.set(number);
        }
    }

    /// Takes out the run of `length` at `address`, if it is in the CPU's list.
    ///
    /// Bound: a search of [`MAX_RUNS`] runs.
    pub(in crate::heap) fn take_at(&self, record: &Runs, address: usize, length: RunLength) -> Evicted {
        let mut taken = Evicted::NONE;
        let Some(bin) = self.bins.get(length.index()) else { return taken };
        let mut before: Option<NonNull<u8>> = None;
        let mut at = bin.first.get();
        while let Some(run) =
            at.filter(|run| record.at(run.addr().get()) == Some(Run::Cached(self.of_home(length))))
        {
            // SAFETY: the record marks the run as cached, and it is in the CPU's list.
            let behind = unsafe { next(run) };
            if run.addr().get() != address {
                (before, at) = (at, behind);
                continue;
            }
            match before {
                // SAFETY: as above.
                Some(before) => unsafe { link(before, behind) },
                None => bin.first.set(behind),
            }
            bin.count.store(bin.count.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
            self.pages.set(self.pages.get() - length.pages() as u32);
            // SAFETY: the run was in the CPU's list.
            unsafe { taken.push(run) };
            break;
        }
        taken
    }

    /// Takes out all runs.
    pub(in crate::heap) fn take_all(&self, record: &Runs) -> Evicted {
        let mut all = Evicted::NONE;
        if self.pages.get() > 0 {
            (0..BINS).for_each(|index| self.empty(record, index, &mut all));
        }
        all
    }

    /// Takes out the runs of the length numbered `index`.
    fn empty(&self, record: &Runs, index: usize, evicted: &mut Evicted) {
        let (Some(length), Some(bin)) = (RunLength::new(index), self.bins.get(index)) else { return };
        let mut runs = Evicted(bin.first.take());
        while let Some((run, _)) = runs.pop(record) {
            // SAFETY: the run was in the CPU's list.
            unsafe { evicted.push(run) };
        }
        self.forget_all(bin, length);
    }

    /// Resets the count of `bin`.
    fn forget_all(&self, bin: &Bin, length: RunLength) {
        let count = bin.count.load(Ordering::Relaxed);
        bin.count.store(0, Ordering::Relaxed);
        self.pages.set(self.pages.get() - count * length.pages() as u32);
    }

    /// Returns the CPU's counts of each length: the length, its live large objects (wraps if remote
    /// CPUs freed more), and its cached runs.
    pub(in crate::heap) fn counts(&self) -> impl Iterator<Item = (RunLength, u64, u32)> {
        RunLength::all().zip(&self.bins).map(|(length, bin)| {
            (length, bin.live.load(Ordering::Relaxed), bin.count.load(Ordering::Relaxed))
        })
    }

    /// Checks lists, counts and record against each other.
    pub(in crate::heap) fn validate(&self, record: &Runs, cpu: CpuId) -> Result<(), Corruption> {
        let mut pages = 0;
        for (length, bin) in RunLength::all().zip(&self.bins) {
            let counted = bin.count.load(Ordering::Relaxed);
            let cached = Run::Cached(LargeRun { length, home: self.home });
            let (mut found, mut at) = (0, bin.first.get());
            while let Some(run) =
                at.filter(|run| found <= counted && record.at(run.addr().get()) == Some(cached))
            {
                found += 1;
                // SAFETY: the record marks the run as cached, and it is in the CPU's list.
                at = unsafe { next(run) };
            }
            if at.is_some() || found != counted || counted > MAX_RUNS {
                return Err(Corruption::CachedRuns { cpu, length, counted, found });
            }
            pages += found * length.pages() as u32;
        }
        let counted = self.pages.get();
        if counted == pages && pages <= MAX_PAGES {
            return Ok(());
        }
        Err(Corruption::CachedPages { cpu, counted, found: pages })
    }
}
