//! Address spaces: the kernel's, and user spaces that share its half.

mod batch;
mod close;
mod core;
mod dump;
mod error;
mod flags;
mod layout;
mod map;
mod mapper;
mod promote;
mod reclaim;
mod share;
mod translate;
mod unmapping;
mod writable_code;

use ::core::fmt;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::{Domain, Invalidation, PageRange, PageSize, RootLoad, VirtAddr, WakersDue};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

pub use batch::Batch;
pub(crate) use batch::record_change;
pub use close::Closing;
pub(crate) use core::{Collected, SpaceCore, Unmoved, invalidation_of};
pub use dump::TableDump;
pub use error::{CreateError, MapError, PromoteError, ProtectError, RemapError, ShareError, UnmapError};
pub use flags::FlagsError;
pub use layout::SpaceKind;
pub(crate) use layout::{lower_half, pages_of, range_of_pages, size_of_level, user_bounds};
pub use mapper::{Refusal, SpaceMapper};
pub use unmapping::{Unmapped, Unmapping};
pub use writable_code::WritableCode;

pub use crate::retire::Callback;

use crate::Machine;
use crate::fault::{Fault, FaultCell};
use crate::page_table::{Changed, Format, Leaf, Level, LockCounters, MovedRegions, Pages, Protection};
use layout::range_of;

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
    pub(crate) fn core(&self) -> &'static SpaceCore<P> {
        self.core
    }

    pub(crate) fn of(core: &'static SpaceCore<P>) -> AddressSpace<P> {
        AddressSpace { core }
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
        Ok(Unmapping::announce(self.core, pin, || range, changed, record))
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
        Ok(Unmapping::announce(self.core, pin, || range, changed, record))
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
        let moved = self.remap_leaving(pin, from, to, MovedRegions::default());
        moved.map_err(|unmoved| unmoved.refused(from))
    }

    /// As [`AddressSpace::remap`]. `transfer` says what becomes of regions.
    pub(crate) fn remap_leaving(
        &self,
        pin: &CpuPin,
        from: PageRange,
        to: VirtAddr,
        transfer: MovedRegions<'_>,
    ) -> Result<Unmapping<'_, P>, Unmoved> {
        let core = self.core;
        let shootdown = core.service.shootdown();
        let late = core.service.broken(Fault::MremapFlushLate);
        let (replaced, record, changed) = core.relocate(pin, from, to, transfer, |changed, new| {
            let replaced = replaced_tables(&changed, new);
            let replaced = replaced.map(|invalidation| shootdown.record(core.domain(), invalidation));
            (replaced, (!late).then(|| core.record(&changed)), changed)
        })?;
        let record = record.unwrap_or_else(|| {
            FaultCell::gap(core.service.platform());
            core.record(&changed)
        });
        if let Some(record) = replaced {
            // The other ticket is newer, and so waits for this one, too.
            let _ = shootdown.announce(pin, record).detach();
        }
        Ok(Unmapping::announce(core, pin, || from, changed, record))
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
        Ok(Unmapping::announce(self.core, pin, || range, Changed::NOTHING, None))
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
        self.core.mapped()
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

/// Returns what page walkers have to forget if leaves took the place of empty tables at `new`, the place
/// that pages were moved to.
fn replaced_tables(moved: &Changed, new: Pages) -> Option<Invalidation> {
    let replaced = !moved.retired.tables.is_empty();
    replaced.then(|| Invalidation::pages(range_of(new, Level::PAGE)).with_tables_freed())
}
