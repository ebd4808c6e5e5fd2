//! Address spaces: the kernel's, and user spaces that share its half.

mod batch;
mod core;
mod error;
mod flags;
mod layout;
mod mapper;
mod promote;
mod reclaim;
mod translate;
mod unmapping;

use ::core::fmt;

use topomem_numa::frames::FrameRequest;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::{Domain, Invalidation, PageRange, PageSize, RootLoad, VirtAddr, WakersDue};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

pub use batch::Batch;
pub(crate) use core::{Collected, SpaceCore};
pub use error::{CreateError, MapError, PromoteError, ProtectError, RemapError, UnmapError};
pub use flags::FlagsError;
pub use layout::SpaceKind;
pub(crate) use layout::{pages_of, user_bounds};
pub use mapper::{Refusal, SpaceMapper};
pub use unmapping::{Unmapped, Unmapping};

pub use crate::retire::Callback;

use crate::Machine;
use crate::page_table::{
    Attributes, Backing, Chain, Chained, Changed, Contiguous, FillError, Format, Leaf, Level, LockCounters,
    Ownership, Pages, Protection, Reserve,
};
use crate::retire::Retired;
use crate::service::frame_memory;
use layout::{level_of, range_of, size_of_level};

/// What an address translates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Where the byte is.
    pub address: PhysAddr,
    /// The size of the page that maps it.
    pub size: PageSize,
    /// The mapping: its first frame, and what it permits.
    pub leaf: Leaf,
}

/// An address space: a page table, the CPUs that may cache it, and the frames that it owns.
///
/// All operations take `&self` and run in parallel where their ranges have no 2 MiB in common; one
/// whose range, or page, reaches across 1 GiB waits for all others below the table that covers it.
/// They must not be called from interrupt handlers that may interrupt one of them.
///
/// # Completion
///
/// When the ticket of a change completes, no CPU can use any translation of the change's pages, nor of
/// the frames that it frees at any address that they were ever mapped at, that a change made before it
/// removed or narrowed. It does not matter which CPU made that change, nor whether other CPUs have been
/// told of it: the changes of an open [`Batch`] count. So a change that finds nothing to change may have
/// to wait, for the change that another CPU has just made.
///
/// # Mapping again
///
/// Mapping pages removes no translation, so it has no ticket and waits for no CPU. If an earlier unmapping
/// of the same pages is not complete, other CPUs may use the old translation, whose frame is still
/// allocated, in place of the new one. If that unmapping took out page tables, they may also find nothing
/// mapped. Both end when the unmapping completes. The CPU that has issued the unmapping uses the new
/// mapping at once. Hence pages are mapped again after the unmapping has been waited for, or the new
/// mapping is relied on after [`AddressSpace::pending`] of its pages has. Pages that were unmapped in a
/// batch that is still open are stale on the CPU of the batch, too.
///
/// A drop only marks a user space, in any context; it is freed once no CPU has it active, by the
/// service task ([`MemoryService::tend`](crate::MemoryService::tend)) or when memory is short. The kernel's space lives for
/// good.
pub struct AddressSpace<P: Machine> {
    core: &'static SpaceCore<P>,
}

impl<P: Machine> AddressSpace<P> {
    pub(crate) fn of(core: &'static SpaceCore<P>) -> AddressSpace<P> {
        AddressSpace { core }
    }

    /// Maps `range` to fresh frames, each allocated by `request`, whose order is that of the
    /// range's pages. The space owns them: unmapping frees them.
    ///
    /// Costs an allocation and an entry per page, and a claim for each 2 MiB that it touches, or one
    /// lock.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing has changed.
    pub fn map(
        &self,
        pin: &CpuPin,
        range: PageRange,
        request: FrameRequest,
        protection: Protection,
    ) -> Result<(), MapError> {
        let pages = self.check(range, protection)?;
        let (level, order) = owned_level(range)?;
        if request.get_order() != order {
            return Err(MapError::WrongOrder { given: request.get_order(), needed: order });
        }
        let frames = self.core.service.frames();
        let mut fresh = Fresh { space: self.core, pin, chain: Chain::EMPTY, order };
        for _ in 0..range.pages() {
            let frame = self.core.service.alloc(pin, &request).map_err(MapError::OutOfFrames)?;
            frame_memory::take_over(frames, frame);
            fresh.chain.push(frames, frame);
        }
        let attributes = self.attributes(protection, Ownership::Owned);
        let mut backing = Chained { memory: frames, level, frames: &mut fresh.chain, attributes };
        self.fill(pin, pages, &mut backing)
    }

    /// Maps the one page of `size` at `page` to the run of frames from `first`, which the space
    /// owns from then on.
    ///
    /// # Safety
    ///
    /// The caller has the run from this service's allocator, allocated with the order of `size`,
    /// and gives it up where this succeeds.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing has changed.
    pub unsafe fn map_owned(
        &self,
        pin: &CpuPin,
        page: VirtAddr,
        size: PageSize,
        first: PhysFrame,
        protection: Protection,
    ) -> Result<(), MapError> {
        let range = PageRange::new(page, 1, size).map_err(|_| MapError::MisalignedPage { page, size })?;
        let (level, _) = owned_level(range)?;
        let pages = self.check(range, protection)?;
        aligned(first, size)?;
        let before = frame_memory::take_over(self.core.service.frames(), first);
        let attributes = self.attributes(protection, Ownership::Owned);
        let mut backing = Contiguous { first_page: pages.first, frame: first, largest: level, attributes };
        let filled = self.fill(pin, pages, &mut backing);
        if filled.is_err() {
            frame_memory::give_up(self.core.service.frames(), first, before);
        }
        filled
    }

    /// Maps `range` to the frames from `first` on, which stay their owner's: device memory, the
    /// kernel image, frames shared between spaces. Pages as large as `range.size()` are used
    /// where alignment permits and the machine has them.
    ///
    /// # Safety
    ///
    /// The frames may be accessed as `protection` permits for as long as they are mapped (until
    /// the ticket of an unmap completes), and, where they are Rust's, only so that its aliasing
    /// rules hold.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing has changed.
    pub unsafe fn map_borrowed(
        &self,
        pin: &CpuPin,
        range: PageRange,
        first: PhysFrame,
        protection: Protection,
    ) -> Result<(), MapError> {
        let pages = self.check(range, protection)?;
        aligned(first, range.size())?;
        let paging = self.core.service.platform().paging();
        if !paging.reach(first.start_address().as_u64() >> 12, pages.count()) {
            let bits = paging.physical_bits();
            return Err(MapError::BeyondPhysicalMemory { first, pages: pages.count(), bits });
        }
        let largest = level_of(range.size()).min(paging.largest_leaf());
        let attributes = self.attributes(protection, Ownership::Borrowed);
        let mut backing = Contiguous { first_page: pages.first, frame: first, largest, attributes };
        self.fill(pin, pages, &mut backing)
    }

    fn attributes(&self, protection: Protection, ownership: Ownership) -> Attributes {
        Attributes { protection, reach: self.core.reach(), ownership }
    }

    fn check(&self, range: PageRange, protection: Protection) -> Result<Pages, MapError> {
        if !self.core.kind.permits(protection) {
            return Err(MapError::WrongPrivilege);
        }
        self.core.check(range).ok_or(MapError::OutsideSpace(range))
    }

    fn fill(
        &self,
        pin: &CpuPin,
        pages: Pages,
        backing: &mut impl Backing<P::Format>,
    ) -> Result<(), MapError> {
        let core = self.core;
        let frames = core.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let shootdown = core.service.shootdown();
        // Page walkers may still find an empty table instead of the leaf in its place, and fault.
        let invalidation = Invalidation::pages(range_of(pages, Level::PAGE)).with_tables_freed();
        let record = |replaced: Chain| {
            let stale = !replaced.is_empty() || core.has_unlinked();
            (stale.then(|| shootdown.record(core.domain(), invalidation)), replaced)
        };
        let (record, replaced) = loop {
            match core.table.fill(frames, &mut reserve, pages, backing, record) {
                Ok(filled) => break filled,
                Err(FillError::Tables(error)) => {
                    let refilled = core.service.relieve(pin, error, || reserve.refill());
                    refilled.map_err(MapError::OutOfFrames)?;
                }
                Err(FillError::Occupied { page, leaf }) => {
                    let page = VirtAddr::new_truncate(page << 12);
                    return Err(MapError::AlreadyMapped { page, frame: leaf.frame });
                }
            }
        };
        core.count_mapped(pages.count());
        if let Some(record) = record {
            let ticket = shootdown.announce(pin, record);
            let changed = Changed { retired: Retired::tables(replaced), ..Changed::NOTHING };
            Unmapping::of(core, Some(ticket), changed).wait(pin);
        }
        Ok(())
    }

    /// Unmaps what is mapped in `range`; what is not, stays so. Owned frames, and tables that
    /// the range alone used, go with the ticket. A large page at an end is split; a 2 MiB run
    /// that was split is freed when its last 4 KiB is.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; nothing has changed.
    // Where it is not inlined, its result of 180 bytes is copied.
    #[inline(always)]
    pub fn unmap(&self, pin: &CpuPin, range: PageRange) -> Result<Unmapping<'_, P>, UnmapError> {
        let mut changed = Changed::NOTHING;
        let mut record = None;
        self.core.clear(pin, range, &mut changed, |changed| record = self.core.record(changed))?;
        Ok(Unmapping::announce(self.core, pin, range, changed, record))
    }

    /// Gives what is mapped in `range` another protection. A large page at an end is split.
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; nothing has changed.
    // As for `unmap`.
    #[inline(always)]
    pub fn protect(
        &self,
        pin: &CpuPin,
        range: PageRange,
        protection: Protection,
    ) -> Result<Unmapping<'_, P>, ProtectError> {
        let mut changed = Changed::NOTHING;
        let mut record = None;
        let keep = |changed: &mut Changed| record = self.core.record(changed);
        self.core.reprotect(pin, range, protection, &mut changed, keep)?;
        Ok(Unmapping::announce(self.core, pin, range, changed, record))
    }

    /// Moves what is mapped in `from` to `to`, where nothing is mapped: the same frames with the
    /// same protections, holes included. A large page at an end is split.
    ///
    /// Locks all from the one range to the other.
    ///
    /// # Errors
    ///
    /// [`RemapError`]; no translation has changed.
    pub fn remap(&self, pin: &CpuPin, from: PageRange, to: VirtAddr) -> Result<Unmapping<'_, P>, RemapError> {
        let core = self.core;
        let shootdown = core.service.shootdown();
        let (replaced, record, changed) = core.relocate(pin, from, to, |changed, new| {
            let replaced = replaced_tables(&changed, new);
            let replaced = replaced.map(|invalidation| shootdown.record(core.domain(), invalidation));
            (replaced, core.record(&changed), changed)
        })?;
        if let Some(record) = replaced {
            // The other ticket is newer, and so waits for this one, too.
            let _ = shootdown.announce(pin, record).detach();
        }
        Ok(Unmapping::announce(core, pin, from, changed, record))
    }

    /// Returns a ticket for every change of a page of `range` that was made before, by whichever CPU,
    /// announced or in an open [`Batch`]: when the ticket completes, no CPU uses a translation that
    /// such a change removed or narrowed.
    ///
    /// A caller that maps pages again whose unmapping it has not waited for waits for this ticket
    /// before it relies on the new mapping: see [*Mapping again*](AddressSpace#mapping-again).
    ///
    /// Costs a full barrier and two loads for each CPU that has the space active if nothing is
    /// pending.
    ///
    /// # Errors
    ///
    /// [`UnmapError::OutsideSpace`].
    pub fn pending(&self, pin: &CpuPin, range: PageRange) -> Result<Unmapping<'_, P>, UnmapError> {
        self.core.check(range).ok_or(UnmapError::OutsideSpace(range))?;
        Ok(Unmapping::announce(self.core, pin, range, Changed::NOTHING, None))
    }

    /// Collects changes that TLBs hear of together.
    pub fn batch<'s, 'p>(&'s self, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        Batch::new(self.core, pin)
    }

    /// What the hardware would find at `address` now. Takes no lock.
    pub fn translate(&self, pin: &CpuPin, address: VirtAddr) -> Option<Translation> {
        let service = self.core.service;
        let root = <P::Format as Format>::ROOT;
        let unused = 64 - root.address_bits();
        let canonical = ((address.as_u64() << unused) as i64 >> unused) as u64 == address.as_u64();
        let walk = service.walks().enter(pin);
        let found = self.core.table.walk(service.frames(), &walk, address.as_u64() >> 12);
        let (leaf, level) = found.filter(|_| canonical)?;
        let size = size_of_level(level);
        let offset = address.as_u64() & (size.bytes() - 1);
        Some(Translation { address: leaf.frame.start_address() + offset, size, leaf })
    }

    /// Makes the pinned CPU translate through this space. The kernel's half stays as it is.
    ///
    /// Changes that other CPUs wait for may complete in it, and what the last space was may go: the
    /// answer says whether [`MemoryService::wake_due`](crate::MemoryService::wake_due) has something
    /// to do.
    ///
    /// # Safety
    ///
    /// - The CPU is online in the service, and its page-table root changes by no other way.
    /// - Not from a context that interrupted a call of the service on the same CPU.
    pub unsafe fn activate(&self, pin: &CpuPin) -> WakersDue {
        let core = self.core;
        let load = |load| match load {
            RootLoad::Untagged => core.service.platform().load_root(core.table.root()),
            tagged => core.service.platform().load_tagged_root(core.table.root(), tagged),
        };
        let shootdown = core.service.shootdown();
        let due = match core.kind {
            // SAFETY: `load` loads this space's tables; its bookkeeping is freed only once its
            // domain is idle; the rest is the caller's promise.
            SpaceKind::User => unsafe { shootdown.activate(pin, core.domain(), load) },
            // SAFETY: the kernel's tables hold nothing of a user space.
            SpaceKind::Kernel => unsafe { shootdown.deactivate(pin, load) },
        };
        core.service.note_left(pin);
        if core.service.wake_is_due(pin) { WakersDue::Perhaps } else { due }
    }

    /// The root of its page table.
    #[must_use]
    pub fn root(&self) -> PhysFrame {
        self.core.table.root()
    }

    /// The kernel's, or a user space?
    #[must_use]
    pub fn kind(&self) -> SpaceKind {
        self.core.kind
    }

    /// The CPUs that may hold its translations, and its generation.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        self.core.domain()
    }

    /// How many 4 KiB pages are mapped through it.
    #[must_use]
    pub fn mapped_pages(&self) -> u64 {
        self.core.mapped.load(Ordering::Relaxed)
    }

    /// How many frames wait for their invalidation with nobody waiting for it.
    #[must_use]
    pub fn retired_frames(&self) -> u64 {
        self.core.retired_frames()
    }

    /// What the locks of its tables have seen.
    #[must_use]
    pub fn locks(&self) -> &LockCounters {
        self.core.table.locks()
    }
}

impl<P: Machine> Drop for AddressSpace<P> {
    fn drop(&mut self) {
        if self.core.kind == SpaceKind::User {
            // Release pairs with the Acquire in `MemoryService::reap`.
            self.core.abandoned.store(true, Ordering::Release);
            self.core.service.note_work_anywhere();
        }
    }
}

impl<P: Machine> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// The level and order of `range`'s pages, where a space can own such.
fn owned_level(range: PageRange) -> Result<(Level, Order), MapError> {
    match range.size() {
        PageSize::Size4KiB => Ok((Level::PAGE, Order::FRAME)),
        PageSize::Size2MiB => Ok((Level::HUGE, Order::HUGE)),
        PageSize::Size1GiB => Err(MapError::TooLargeToOwn(range)),
    }
}

fn aligned(frame: PhysFrame, size: PageSize) -> Result<(), MapError> {
    if frame.start_address().as_u64() % size.bytes() == 0 {
        Ok(())
    } else {
        Err(MapError::MisalignedFrame { frame, size })
    }
}

/// Returns what page walkers have to forget if leaves took the place of empty tables at `new`, the place
/// that pages were moved to.
fn replaced_tables(moved: &Changed, new: Pages) -> Option<Invalidation> {
    let replaced = !moved.retired.tables.is_empty();
    replaced.then(|| Invalidation::pages(range_of(new, Level::PAGE)).with_tables_freed())
}

/// Frames allocated for a mapping; what the mapping did not take goes back.
struct Fresh<'a, P: Machine> {
    space: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    chain: Chain,
    order: Order,
}

impl<P: Machine> Drop for Fresh<'_, P> {
    fn drop(&mut self) {
        let frames = self.space.service.frames();
        while let Some(frame) = self.chain.pop(frames) {
            // SAFETY: it was allocated for this mapping, and is mapped nowhere.
            unsafe { frame_memory::release_own(frames, self.pin, frame, self.order) };
        }
    }
}
