//! The `x86_64` crate's `Mapper` and `Translate`, for code written against the crate.

mod flags;
mod page;
mod translate;

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::{ChangeRecord, PageRange, PageSize, VirtAddr};
use x86_64::structures::paging::mapper::{
    FlagUpdateError, MapToError, Mapper, MapperFlush, MapperFlushAll, Translate, TranslateError,
    TranslateResult, UnmapError,
};
use x86_64::structures::paging::page::PageSize as Size;
use x86_64::structures::paging::{self, FrameAllocator, Page, PageTableFlags, Size2MiB, Size4KiB};

use super::layout::level_of;
use super::{AddressSpace, MapError, ProtectError, Unmapping};
use crate::Machine;
use crate::page_table::{Changed, ClearPageError, Mismatch, Protection};
pub use flags::FlagsError;
use flags::{check_tables, protection_of};

/// An [`AddressSpace`] for code written against [`Mapper`], with pages of 4 KiB, 2 MiB and 1 GiB;
/// made by [`AddressSpace::mapper`].
///
/// # Coherence
///
/// A `MapperFlush` flushes a single page of a single CPU, and may be ignored; neither is enough for
/// an SMP kernel. `unmap` and `update_flags` therefore send the shootdown themselves and return
/// when its ticket is complete. No CPU has the old translation any more, and the frame returned by
/// `unmap` may be reused at once. The returned flush has nothing left to do: `flush` costs an
/// instruction, `ignore` loses nothing. A page not mapped before is in no TLB.
///
/// Each call costs a round of interrupts. [`AddressSpace::unmap`] of a range and
/// [`AddressSpace::batch`] send a single round for many pages, and need not block.
///
/// # Frames
///
/// `map_to` borrows the frame: the frame stays the caller's, as `Mapper` demands, and the service
/// never frees it. If the space owns the frame (mapped by [`AddressSpace::map`]), `unmap` frees it;
/// the returned frame is then for information only, and must not be freed again. The same applies
/// to a page with a shared frame. Tables are always the service's own frames, since their links lie
/// in its per-frame table: the `FrameAllocator` argument is never used. An `unmap` leaves empty
/// tables linked, to be reused by any mapping or freed by a wider [`AddressSpace::unmap`].
///
/// # Flags
///
/// Flags have to be a [`Protection`]: `WRITABLE` needs `NO_EXECUTE`. A user space's pages are
/// `USER_ACCESSIBLE` and the kernel's are not. The kernel's pages are global with and without
/// `GLOBAL`. `NO_CACHE` includes `WRITE_THROUGH`. Tables permit everything: table flags narrower
/// than the page's own permissions are refused, except for a missing `WRITABLE`.
/// `set_flags_p4_entry`, `set_flags_p3_entry` and `set_flags_p2_entry` always return
/// `ParentEntryHugePage`, the crate's word for an entry other than a table's.
///
/// # Errors
///
/// The crate's errors have no place for most reasons. [`SpaceMapper::refusal`] returns the exact
/// reason. `ParentEntryHugePage` from any method, and `PageNotMapped`, have the crate's meaning:
/// the mapped page has another size, or does not exist (and cannot exist outside the space). The
/// remaining errors are
/// - `FrameAllocationFailed` from `map_to`: no memory, but also refused flags or a page outside the
///   space;
/// - `ParentEntryHugePage` from `update_flags`: refused flags. From `unmap`: no frame was left to
///   list the page's share of its frame.
///
/// # Example
///
/// ```
/// use topomem::{AddressSpace, CpuPin, Machine};
/// use x86_64::structures::paging::mapper::{Mapper, UnmapError};
/// use x86_64::structures::paging::{FrameDeallocator, Page, Size4KiB};
///
/// // Written against the crate.
/// fn take_away(
///     mapper: &mut impl Mapper<Size4KiB>,
///     pool: &mut impl FrameDeallocator<Size4KiB>,
///     page: Page,
/// ) -> Result<(), UnmapError> {
///     let (frame, flush) = mapper.unmap(page)?;
///     flush.ignore(); // or `flush()`
///     // SAFETY: `page` was mapped by `map_to` to a frame of the pool, and nothing uses it.
///     unsafe { pool.deallocate_frame(frame) };
///     Ok(())
/// }
///
/// // No CPU reaches the frame when the pool gets it back.
/// fn end_of_loan<P: Machine>(
///     space: &AddressSpace<P>,
///     pin: &CpuPin,
///     pool: &mut impl FrameDeallocator<Size4KiB>,
///     page: Page,
/// ) -> Result<(), UnmapError> {
///     take_away(&mut space.mapper(pin), pool, page)
/// }
/// ```
pub struct SpaceMapper<'s, 'p, P: Machine> {
    space: &'s AddressSpace<P>,
    pin: &'p CpuPin,
    refusal: Option<Refusal>,
}

/// The exact reason for a refusal by [`SpaceMapper`], if the `x86_64` crate's error says less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The flags are not a valid protection.
    Flags(FlagsError),
    /// A page was not mapped.
    Map(MapError),
    /// A page's flags were not changed.
    Protect(ProtectError),
    /// A page with a shared frame was not unmapped, since no frame was left to list the share.
    OutOfFrames(AllocError),
    /// Tables have no flags of their own.
    TableFlags,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Flags(error) => error.fmt(f),
            Refusal::Map(error) => error.fmt(f),
            Refusal::Protect(error) => error.fmt(f),
            Refusal::OutOfFrames(error) => error.fmt(f),
            Refusal::TableFlags => f.write_str("tables have no flags of their own"),
        }
    }
}

impl core::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Refusal::Flags(error) => Some(error),
            Refusal::Map(error) => Some(error),
            Refusal::Protect(error) => Some(error),
            Refusal::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the space as the `x86_64` crate's [`Mapper`], for use on the pinned CPU.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    /// use x86_64::structures::paging::Translate;
    ///
    /// let space = service.create_space(pin)?;
    /// let mapper = space.mapper(pin);
    /// assert_eq!(mapper.translate_addr(x86_64::VirtAddr::new(0x40_0000)), None);
    /// # let _: Option<VirtAddr> = None;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn mapper<'s, 'p>(&'s self, pin: &'p CpuPin) -> SpaceMapper<'s, 'p, P> {
        SpaceMapper { space: self, pin, refusal: None }
    }
}

fn size_of<S: Size>() -> PageSize {
    match S::SIZE {
        Size4KiB::SIZE => PageSize::Size4KiB,
        Size2MiB::SIZE => PageSize::Size2MiB,
        _ => PageSize::Size1GiB,
    }
}

/// Returns the crate's frame of `S` bytes that starts with `first`. The crate's addresses hold 52 bits, as
/// entries of page tables of x86-64 do.
fn frame_of_crate<S: Size>(first: PhysFrame) -> paging::PhysFrame<S> {
    paging::PhysFrame::containing_address(x86_64::PhysAddr::new_truncate(first.start_address().as_u64()))
}

fn range_of<S: Size>(page: Page<S>) -> PageRange {
    PageRange::page(VirtAddr::from(page.start_address()), size_of::<S>())
}

impl<P: Machine> SpaceMapper<'_, '_, P> {
    /// Returns the exact reason for the refusal of the last change, or `None` if it succeeded or
    /// the crate's error says everything.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    fn protection<S: Size>(&self, flags: PageTableFlags) -> Result<Protection, FlagsError> {
        protection_of(flags, size_of::<S>(), self.space.kind())
    }

    /// Announces a change of the page `page` to all CPUs, and waits for them.
    fn complete(&self, page: PageRange, changed: Changed, record: Option<ChangeRecord<'_>>) {
        Unmapping::announce(self.space.core, self.pin, || page, changed, record).wait(self.pin);
    }

    fn refused_update(&mut self, refusal: Refusal) -> FlagUpdateError {
        self.refusal = Some(refusal);
        FlagUpdateError::ParentEntryHugePage
    }

    fn refused_map<S: Size>(&mut self, page: Page<S>, refusal: Refusal) -> MapToError<S> {
        self.refusal = Some(refusal);
        let Refusal::Map(MapError::AlreadyMapped { frame, .. }) = refusal else {
            return MapToError::FrameAllocationFailed;
        };
        let found = self.space.translate(self.pin, page.start_address().into());
        if found.is_some_and(|found| found.size > size_of::<S>()) {
            MapToError::ParentEntryHugePage
        } else {
            MapToError::PageAlreadyMapped(frame_of_crate(frame))
        }
    }
}

impl<S: Size, P: Machine> Mapper<S> for SpaceMapper<'_, '_, P> {
    unsafe fn map_to_with_table_flags<A>(
        &mut self,
        page: Page<S>,
        frame: paging::PhysFrame<S>,
        flags: PageTableFlags,
        parent_table_flags: PageTableFlags,
        _: &mut A,
    ) -> Result<MapperFlush<S>, MapToError<S>>
    where
        A: FrameAllocator<Size4KiB> + ?Sized,
    {
        self.refusal = None;
        let protection = check_tables(flags, parent_table_flags).and_then(|()| self.protection::<S>(flags));
        let protection = protection.map_err(|error| self.refused_map(page, Refusal::Flags(error)))?;
        if level_of(size_of::<S>()) > self.space.core.service.platform().paging().largest_leaf() {
            return Err(self.refused_map(page, Refusal::Map(MapError::Unsupported(size_of::<S>()))));
        }
        let first = PhysFrame::containing_address(frame.start_address().into());
        // SAFETY: the caller promises the frame may be accessed through this mapping.
        let mapped = unsafe { self.space.map_borrowed(self.pin, range_of(page), first, protection) };
        mapped.map_err(|error| self.refused_map(page, Refusal::Map(error)))?;
        Ok(MapperFlush::new(page))
    }

    fn unmap(&mut self, page: Page<S>) -> Result<(paging::PhysFrame<S>, MapperFlush<S>), UnmapError> {
        self.refusal = None;
        let core = self.space.core;
        let pages = core.check(range_of(page)).ok_or(UnmapError::PageNotMapped)?;
        let mut changed = Changed::NOTHING;
        let cleared = core.clear_page(self.pin, pages, level_of(size_of::<S>()), &mut changed);
        let (leaf, record) = cleared.map_err(|error| match error {
            ClearPageError::Mismatch(Mismatch::Empty) => UnmapError::PageNotMapped,
            ClearPageError::Mismatch(Mismatch::OtherSize) => UnmapError::ParentEntryHugePage,
            ClearPageError::Gather(error) => {
                self.refusal = Some(Refusal::OutOfFrames(error));
                UnmapError::ParentEntryHugePage
            }
        })?;
        self.complete(range_of(page), changed, record);
        Ok((frame_of_crate(leaf.frame), MapperFlush::new(page)))
    }

    unsafe fn update_flags(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlush<S>, FlagUpdateError> {
        self.refusal = None;
        let core = self.space.core;
        let pages = core.check(range_of(page)).ok_or(FlagUpdateError::PageNotMapped)?;
        let protection = self.protection::<S>(flags);
        let protection = protection.map_err(|error| self.refused_update(Refusal::Flags(error)))?;
        if !core.kind.permits(protection) {
            return Err(self.refused_update(Refusal::Protect(ProtectError::WrongPrivilege)));
        }
        let mut changed = Changed::NOTHING;
        let updated =
            core.reprotect_page(self.pin, pages, level_of(size_of::<S>()), protection, &mut changed);
        let (_, record) = updated.map_err(|mismatch| match mismatch {
            Mismatch::Empty => FlagUpdateError::PageNotMapped,
            Mismatch::OtherSize => FlagUpdateError::ParentEntryHugePage,
        })?;
        self.complete(range_of(page), changed, record);
        Ok(MapperFlush::new(page))
    }

    unsafe fn set_flags_p4_entry(
        &mut self,
        _: Page<S>,
        _: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        Err(self.refused_update(Refusal::TableFlags))
    }

    unsafe fn set_flags_p3_entry(
        &mut self,
        _: Page<S>,
        _: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        Err(self.refused_update(Refusal::TableFlags))
    }

    unsafe fn set_flags_p2_entry(
        &mut self,
        _: Page<S>,
        _: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        Err(self.refused_update(Refusal::TableFlags))
    }

    fn translate_page(&self, page: Page<S>) -> Result<paging::PhysFrame<S>, TranslateError> {
        let found = self.space.translate(self.pin, page.start_address().into());
        let found = found.ok_or(TranslateError::PageNotMapped)?;
        if found.size != size_of::<S>() {
            return Err(TranslateError::ParentEntryHugePage);
        }
        Ok(frame_of_crate(PhysFrame::containing_address(found.address)))
    }
}

impl<P: Machine> Translate for SpaceMapper<'_, '_, P> {
    fn translate(&self, address: x86_64::VirtAddr) -> TranslateResult {
        Translate::translate(self.space, address)
    }
}

impl<P: Machine> fmt::Debug for SpaceMapper<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceMapper")
            .field("space", self.space)
            .field("refusal", &self.refusal)
            .finish_non_exhaustive()
    }
}
