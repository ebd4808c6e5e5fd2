//! The state of an address space, in frames of its own. Its address never changes, as required by
//! the shootdown queue for a domain active on CPUs.

use core::fmt;
use core::ptr;

use crossbeam_utils::CachePadded;
use topomem_numa::frames::{AllocError, FrameRequest, Frames};
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::{ChangeRecord, Domain, Invalidation, PageRange, VirtAddr};

use super::error::{ProtectError, RemapError, UnmapError};
use super::layout::{SpaceKind, pages_of, range_of, range_of_pages, size_of_level};
use crate::Machine;
use crate::budget::Budget;
use crate::page_table::{
    Answer, Answered, AtOnce, Changed, Found, Level, MovedRegions, Neighbours, Outcome, PageTable, Pages,
    Protection, Reach, RelocateError, Reserve, Rewrite, RewriteError,
};
use crate::region::{
    DEFAULT_STACK_LIMIT, FaultPolicy, GrownStack, ProgramBreak, Records, SpaceLayout, SpacePolicy,
};
use crate::retire::{Parked, RetireList};
use crate::service::MemoryService;
use crate::service::memory::frame_memory;
use crate::spin_lock::SpinLock;

/// Counts and hints of a CPU about a space. Remote CPUs may read and write them, too.
#[derive(Debug)]
pub(crate) struct CpuShare {
    /// 4 KiB pages mapped less pages unmapped, modulo 2^64.
    pub mapped: AtomicU64,
    /// Page faults handled without a pager.
    pub minor_faults: AtomicU64,
    /// Page faults with a wait for a pager.
    pub major_faults: AtomicU64,
    /// The page below which to search the next free pages of the CPU's part; 0 for the end of the
    /// part.
    pub search_below: AtomicU64,
}

impl CpuShare {
    fn new() -> CpuShare {
        CpuShare {
            mapped: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
            major_faults: AtomicU64::new(0),
            search_below: AtomicU64::new(0),
        }
    }
}

pub(crate) struct SpaceCore<P: Machine> {
    pub service: &'static MemoryService<P>,
    pub table: PageTable<P::Format>,
    pub kind: SpaceKind,
    /// The pages allowed to be mapped.
    pub bounds: Pages,
    /// The domain of a user space; the kernel's belongs to the shootdown queue.
    own_domain: Domain,
    /// Retired batches without a waiting context.
    pub retired: SpinLock<RetireList>,
    /// The counts and hints of each CPU, in frames behind the space.
    pub per_cpu: &'static [CachePadded<CpuShare>],
    /// The placement of regions without a fixed place.
    pub layout: SpaceLayout,
    /// Greatest number of pages of a stack.
    pub stack_limit: AtomicU64,
    /// The most recently grown stack.
    pub grown_stack: GrownStack,
    /// The policy of page faults.
    pub fault_policy: FaultPolicy,
    /// The nodes of the pages' frames.
    pub policy: SpacePolicy,
    /// The end of the program's heap.
    pub program_break: ProgramBreak,
    /// The records of regions, with their attributes beyond their ids.
    pub records: Records<P>,
    /// True if the handle is gone: the space is freed when no CPU has it active.
    pub abandoned: AtomicBool,
    /// True if the space is abandoned and maps nothing any more.
    pub dismantled: AtomicBool,
    /// True if an unmap may have left empty tables not yet seen by a sweep.
    pub(super) emptied: AtomicBool,
    /// The page to continue the next sweep for empty tables from.
    pub(super) sweep_from: AtomicU64,
    /// Number of groups of unlinked empty tables still visible to page walkers.
    pub unlinked: AtomicU32,
    /// The pages whose empty tables stay, if any: the first page, and the page behind the last.
    pub spared_tables: [AtomicU64; 2],
    /// The next space of the service's list, governed by the list's lock.
    pub next: AtomicPtr<SpaceCore<P>>,
    /// Number of contexts visiting the space through the list; the space stays in the list
    /// meanwhile.
    pub visitors: AtomicU32,
    /// The first of the space's own frames, and their order.
    frame: PhysFrame,
    order: Order,
}

/// The offset of the CPUs' counts and hints behind the space's bookkeeping.
const fn per_cpu_offset<P: Machine>() -> usize {
    size_of::<SpaceCore<P>>().next_multiple_of(align_of::<CachePadded<CpuShare>>())
}

impl<P: Machine> SpaceCore<P> {
    /// Places a new space in frames near the pinned CPU.
    pub fn place(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        table: PageTable<P::Format>,
        kind: SpaceKind,
        bounds: Pages,
        layout: SpaceLayout,
    ) -> Result<&'static SpaceCore<P>, (AllocError, PageTable<P::Format>)> {
        let frames = service.frames();
        let cpus = service.topology().map_or(1, |topology| topology.cpus().len().max(1));
        let bytes = per_cpu_offset::<P>() + cpus * size_of::<CachePadded<CpuShare>>();
        // A machine's CPUs take a few hundred KiB at most.
        let order = Order::for_bytes(bytes as u64).unwrap_or(Order::HUGE);
        let frame = match service.alloc(pin, &FrameRequest::order(order)) {
            Ok(frame) => frame,
            Err(error) => return Err((error, table)),
        };
        let place = frames.platform().phys_to_virt(frame.start_address()).cast::<SpaceCore<P>>();
        // SAFETY: the caller owns the run until `give_back`. The run has room for `cpus` shares,
        // and the offset is a multiple of their alignment.
        let per_cpu = unsafe {
            let shares = place.cast::<u8>().add(per_cpu_offset::<P>()).cast::<CachePadded<CpuShare>>();
            (0..cpus).for_each(|cpu| shares.add(cpu).write(CachePadded::new(CpuShare::new())));
            core::slice::from_raw_parts(shares.as_ptr(), cpus)
        };
        let core = SpaceCore {
            service,
            table,
            kind,
            bounds,
            own_domain: Domain::new(),
            retired: SpinLock::new(RetireList::new()),
            per_cpu,
            layout,
            stack_limit: AtomicU64::new(DEFAULT_STACK_LIMIT),
            grown_stack: GrownStack::none(),
            fault_policy: FaultPolicy::new(),
            policy: SpacePolicy::none(),
            program_break: ProgramBreak::none(),
            records: Records::new(),
            abandoned: AtomicBool::new(false),
            dismantled: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
            sweep_from: AtomicU64::new(bounds.first),
            unlinked: AtomicU32::new(0),
            spared_tables: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            next: AtomicPtr::new(ptr::null_mut()),
            visitors: AtomicU32::new(0),
            frame,
            order,
        };
        // SAFETY: the caller owns the run, which is large enough and aligned to its size. The run
        // is given back only by `give_back`, whose caller has the last reference.
        unsafe {
            place.write(core);
            Ok(place.as_ref())
        }
    }

    /// Frees the space's own frames, and returns their number.
    ///
    /// # Safety
    ///
    /// Nothing uses `core` any more, its tables and frames have been freed, and its records
    /// forgotten.
    pub unsafe fn give_back(core: *const SpaceCore<P>, frames: &Frames<P>, pin: &CpuPin) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { (*core).records.free((*core).service, pin) };
        // SAFETY: the caller has the last use of `core`; nothing else in it needs dropping.
        let (frame, order) = unsafe { ((*core).frame, (*core).order) };
        // SAFETY: as above; `place` allocated the run.
        unsafe { frame_memory::release_own(frames, pin, frame, order) };
        order.frames()
    }

    /// Returns the domain used to announce the space's changes.
    #[inline]
    pub fn domain(&self) -> &Domain {
        match self.kind {
            SpaceKind::Kernel => self.service.shootdown().kernel(),
            SpaceKind::User => &self.own_domain,
        }
    }

    pub fn reach(&self) -> Reach {
        match self.kind {
            SpaceKind::Kernel => Reach::Global,
            SpaceKind::User => Reach::Space,
        }
    }

    /// Returns the page numbers of `range` if all of its pages may be mapped.
    #[inline]
    pub fn check(&self, range: PageRange) -> Option<Pages> {
        let pages = pages_of(range);
        (self.bounds.first <= pages.first && pages.last <= self.bounds.last).then_some(pages)
    }

    /// Records the stale translations of `changed` in the domain's log, or returns `None` if none
    /// are stale. For a cursor's `record`, called with the changed entries still locked.
    #[inline(always)]
    pub fn record(&self, changed: &Changed) -> Option<ChangeRecord<'_>> {
        let invalidation = invalidation_of(changed)?;
        Some(self.service.shootdown().record(self.domain(), invalidation))
    }

    /// Clears `range`, adds the change to `changed`, and lets `record` record it with the entries
    /// still locked.
    // Always inlined: recorded values stay in registers.
    #[inline(always)]
    pub fn clear<T>(
        &self,
        pin: &CpuPin,
        range: PageRange,
        changed: &mut Changed,
        mut record: impl FnMut(&mut Changed) -> T,
    ) -> Result<T, UnmapError> {
        let pages = self.check(range).ok_or(UnmapError::OutsideSpace(range))?;
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let before = changed.pages;
        loop {
            let leave = |number, pages| self.leave_record(number, pages);
            match self.table.clear(self.service.tables(pin), &mut reserve, pages, changed, leave, &mut record)
            {
                Ok(recorded) => {
                    self.count_unmapped(pin, changed.pages - before);
                    return Ok(recorded);
                }
                Err(error) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(UnmapError::OutOfFrames)?;
                }
            }
        }
    }

    /// Gives `range` another protection, adds the change to `changed`, and lets `record` record it
    /// as [`SpaceCore::clear`] does.
    // Always inlined: recorded values stay in registers.
    #[inline(always)]
    pub fn reprotect<T>(
        &self,
        pin: &CpuPin,
        range: PageRange,
        protection: Protection,
        changed: &mut Changed,
        mut record: impl FnMut(&mut Changed) -> T,
    ) -> Result<T, ProtectError> {
        let pages = self.check(range).ok_or(ProtectError::OutsideSpace(range))?;
        if !self.kind.permits(protection) {
            return Err(ProtectError::WrongPrivilege);
        }
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            match self.table.reprotect(
                self.service.tables(pin),
                &mut reserve,
                pages,
                protection,
                changed,
                &mut record,
            ) {
                Ok(recorded) => return Ok(recorded),
                Err(error) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(ProtectError::OutOfFrames)?;
                }
            }
        }
    }

    /// Moves the mappings in `from` to the pages from `to` on, and lets `record` record the move.
    /// `record` also gets the pages of the new place, with the entries of both places still locked.
    ///
    /// The pages of the old place keep belonging to regions if `left` returns regions.
    pub fn relocate<T>(
        &self,
        pin: &CpuPin,
        from: PageRange,
        to: VirtAddr,
        mut transfer: MovedRegions<'_>,
        mut record: impl FnMut(Changed, Pages) -> T,
    ) -> Result<T, Unmoved> {
        let target = PageRange::new(to, from.pages(), from.size()).map_err(RemapError::Target)?;
        let old = self.check(from).ok_or(RemapError::OutsideSpace(from))?;
        let new = self.check(target).ok_or(RemapError::OutsideSpace(target))?;
        if old.first <= new.last && new.first <= old.last {
            return Err(RemapError::Overlap { from, to }.into());
        }
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let mut record = |changed| record(changed, new);
        let moved = loop {
            let tables = self.service.tables(pin);
            let transfer = transfer.again();
            let error = match self.table.relocate(tables, &mut reserve, old, new, transfer, &mut record) {
                Ok(recorded) => break Ok(recorded),
                Err(RelocateError::Tables(error)) => error,
                Err(RelocateError::Occupied { page }) => {
                    break Err(RemapError::AlreadyMapped(VirtAddr::new_truncate(page << 12)).into());
                }
                Err(RelocateError::WouldSplit(level)) => {
                    break Err(RemapError::WouldSplit { to, size: size_of_level(level) }.into());
                }
                Err(RelocateError::Changed) => break Err(Unmoved::Changed),
            };
            if let Err(error) = self.service.reclaim_and_retry(pin, error, || reserve.refill()) {
                break Err(RemapError::OutOfFrames(error).into());
            }
        };
        self.note_emptied();
        moved
    }

    /// Changes `pages` as decided by `rewrite`, adds the change to `changed`, and records it.
    /// Returns the record, and the end of the change.
    // Always inlined, like `PageTable::rewrite_at_once`.
    #[inline(always)]
    pub fn rewrite<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Outcome<Option<ChangeRecord<'_>>, R, AllocError> {
        match self.rewrite_at_once(pin, pages, rewrite, changed) {
            Some(outcome) => outcome.map_err(RewriteError::Refused),
            None => self.rewrite_slowly(pin, pages, rewrite, changed),
        }
    }

    /// Rewrites like [`SpaceCore::rewrite`] in the usual case. Otherwise changes nothing and
    /// returns `None`: the caller then calls [`SpaceCore::rewrite_slowly`].
    // Always inlined, like `PageTable::rewrite_at_once`.
    #[inline(always)]
    pub fn rewrite_at_once<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> AtOnce<Option<ChangeRecord<'_>>, R> {
        let record = |changed: &mut Changed| self.record(changed);
        let outcome = self.table.rewrite_at_once(self.service.tables(pin), pages, rewrite, changed, record);
        if R::UNMAPS && changed.pages > 0 {
            self.count_unmapped(pin, changed.pages);
        }
        outcome
    }

    /// Rewrites like [`SpaceCore::rewrite`], for any pages and at any cost.
    #[inline(never)]
    pub fn rewrite_slowly<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Outcome<Option<ChangeRecord<'_>>, R, AllocError> {
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            let record = |changed: &mut Changed| self.record(changed);
            match self.table.rewrite(self.service.tables(pin), &mut reserve, pages, rewrite, changed, record)
            {
                Err(RewriteError::Tables(error)) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(RewriteError::Tables)?;
                }
                done => {
                    if changed.pages > 0 {
                        self.count_unmapped(pin, changed.pages);
                    }
                    return done;
                }
            }
        }
    }

    /// Handles an access to the page of `neighbours` as decided by `decide`, and maps the
    /// neighbours if the page becomes mapped. Adds the stale translations to `changed`, and records
    /// them. Calls `answered` once, with the page's entry still claimed.
    pub fn resolve<E>(
        &self,
        pin: &CpuPin,
        neighbours: &mut Neighbours<impl FnMut() -> Option<PhysFrame>>,
        mut decide: impl FnMut(Found, Level) -> Result<Answer, E>,
        answered: impl Fn(),
        changed: &mut Changed,
    ) -> Result<Answered<Option<ChangeRecord<'_>>>, RewriteError<E, AllocError>> {
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            let record = |changed: &mut Changed| {
                answered();
                self.record(changed)
            };
            match self.table.resolve(
                self.service.tables(pin),
                &mut reserve,
                neighbours,
                &mut decide,
                changed,
                record,
            ) {
                Err(RewriteError::Tables(error)) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(RewriteError::Tables)?;
                }
                done => return done,
            }
        }
    }

    /// Cuts the leaves above the level `to` touched by `pages`. No translation changes.
    pub fn cut_leaves(&self, pin: &CpuPin, pages: Pages, to: Level) -> Result<(), AllocError> {
        let mut reserve = Reserve::new(self.service.frames(), pin);
        loop {
            match self.table.cut_leaves(self.service.tables(pin), &mut reserve, pages, to) {
                Err(error) => self.service.reclaim_and_retry(pin, error, || reserve.refill())?,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Returns whether each CPU has flushed the earlier changes of `pages`. Never waits, and may be
    /// called with the pages claimed: then no further change comes in between.
    pub fn is_quiet(&self, pin: &CpuPin, pages: Pages) -> bool {
        let range = range_of_pages(pages);
        self.service.shootdown().pending_in(pin, self.domain(), range).is_complete()
    }

    /// Returns the pinned CPU's counts and hints about the space.
    #[inline]
    pub fn of_cpu(&self, pin: &CpuPin) -> &CpuShare {
        // A CPU not named by firmware uses the boot CPU's: they may be shared.
        self.per_cpu.get(pin.cpu().index()).unwrap_or(&self.per_cpu[0])
    }

    // Relaxed: counts, read for statistics.

    pub fn count_mapped(&self, pin: &CpuPin, pages: u64) {
        self.of_cpu(pin).mapped.fetch_add(pages, Ordering::Relaxed);
    }

    #[inline(always)]
    pub fn count_unmapped(&self, pin: &CpuPin, pages: u64) {
        self.of_cpu(pin).mapped.fetch_sub(pages, Ordering::Relaxed);
        self.note_emptied();
    }

    /// Returns the number of 4 KiB pages mapped through the space.
    pub fn mapped(&self) -> u64 {
        // A page may be mapped on one CPU and unmapped on another: only the sum is meaningful.
        self.per_cpu.iter().fold(0, |sum, cpu| sum.wrapping_add(cpu.mapped.load(Ordering::Relaxed)))
    }

    /// Notes possibly empty tables.
    pub fn note_emptied(&self) {
        // Relaxed: a hint.
        if !self.emptied.load(Ordering::Relaxed) {
            self.emptied.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps `parked` until its request is done, without a waiting context.
    pub fn park(&self, parked: Parked) {
        let frames = self.service.frames();
        self.retired.lock(frames.platform()).park(frames, parked);
    }

    /// Returns the number of retired frames without a waiting context.
    pub fn retired_frames(&self) -> u64 {
        self.retired.lock(self.service.platform()).frame_count(self.service.frames())
    }

    /// Frees batches with complete requests, as far as `budget` allows.
    ///
    /// Also for contexts in the middle of an interrupted use of the space on the same CPU: a list
    /// in use is skipped.
    pub fn collect(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let frames = self.service.frames();
        let is_done = |request| self.service.shootdown().is_done(self.domain(), request);
        let mut collected = Collected::NOTHING;
        let mut rest = Parked::NOTHING;
        loop {
            let Some(mut list) = self.retired.try_lock() else {
                collected.waiting = true;
                break;
            };
            if budget.is_spent() {
                collected.more |= !list.is_empty();
                break;
            }
            let Some(mut done) = list.take_done(is_done) else {
                collected.waiting |= !list.is_empty();
                break;
            };
            // The lock is not held while frames are freed.
            drop(list);
            // SAFETY: the request naming the frames is done.
            collected.freed += unsafe { done.retired.free_within(frames, self.service.walks(), pin, budget) };
            if done.retired.is_empty() {
                // Release pairs with the Acquire in `has_unlinked`.
                self.unlinked.fetch_sub(done.unlinked, Ordering::Release);
                self.service.call_soon(done.callbacks);
            } else {
                // The budget is spent, or a software walk may still read the tables.
                done.request = None;
                rest.join(frames, done);
            }
        }
        collected.waiting |= self.sweep_records(pin, budget);
        if !rest.is_empty() {
            collected.more |= budget.is_spent();
            collected.waiting |= !budget.is_spent();
            // The lock was free above: no context interrupted by this one holds it.
            self.retired.lock(frames.platform()).put_back(frames, rest);
        }
        collected
    }
}

/// The reason why pages were not moved.
#[derive(Debug)]
pub(crate) enum Unmoved {
    Refused(RemapError),
    /// A page belongs to an unexpected region ([`MovedRegions::expects`]).
    Changed,
}

impl From<RemapError> for Unmoved {
    fn from(error: RemapError) -> Unmoved {
        Unmoved::Refused(error)
    }
}

impl Unmoved {
    /// Returns the error of a move of `from` without expectations.
    pub fn refused(self, from: PageRange) -> RemapError {
        match self {
            Unmoved::Refused(error) => error,
            Unmoved::Changed => {
                debug_assert!(false, "nothing was expected");
                RemapError::OutsideSpace(from)
            }
        }
    }
}

/// Returns the translations to flush from TLBs and page walkers.
#[inline(always)]
pub(crate) fn invalidation_of(changed: &Changed) -> Option<Invalidation> {
    let invalidation = Invalidation::pages(range_of(changed.stale?, changed.smallest));
    Some(if changed.retired.tables.is_empty() { invalidation } else { invalidation.with_tables_freed() })
}

/// The frames freed, and the work left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collected {
    /// Number of 4 KiB frames freed.
    pub freed: u64,
    /// True if some work waits for remote CPUs, or was in use.
    pub waiting: bool,
    /// True if the budget did not suffice.
    pub more: bool,
}

impl Collected {
    pub const NOTHING: Collected = Collected { freed: 0, waiting: false, more: false };

    pub fn and(self, other: Collected) -> Collected {
        Collected {
            freed: self.freed + other.freed,
            waiting: self.waiting | other.waiting,
            more: self.more | other.more,
        }
    }
}

impl<P: Machine> fmt::Debug for SpaceCore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceCore")
            .field("kind", &self.kind)
            .field("root", &self.table.root())
            .field("domain", self.domain())
            .finish_non_exhaustive()
    }
}
