//! Sharing pages: the same frames in several places, of the same space or of several.

use topomem_percpu::CpuPin;
use topomem_shootdown::{PageRange, PageSize, VirtAddr};

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::address_space::layout::{level_of, size_of_level};
use crate::address_space::{AddressSpace, MapError, ShareError};
use crate::budget::Budget;
use crate::page_table::{Chain, Gather, Level, Listed, Ownership, Pages, Protection, Reserve, Unshared};
use crate::retire::drop_shares;
use crate::service::memory::frame_memory;

impl<P: Machine> AddressSpace<P> {
    /// Maps the frames of `from` at `to` in the space `into` as well, with `protection`. Both
    /// places share the frames afterwards: each frame counts the leaves holding it, and is freed
    /// when the last is unmapped and the unmapping's ticket is complete.
    ///
    /// All of `from` has to be mapped, with pages of its size, 4 KiB or 2 MiB, to frames owned or
    /// shared by the space. `into` may be the same space. Neither the protection of `from` nor its
    /// translations in TLBs change, so the function returns no ticket. The place at `to` is used as
    /// after [`AddressSpace::map`].
    ///
    /// The two places are locked one after the other. Pages of `from` unmapped meanwhile are shared
    /// or left out.
    ///
    /// A frame counts up to 2^20 leaves. A 2 MiB run of frames counts leaves of 2 MiB as 512 each,
    /// since any of them may be split later: up to 2048 leaves of 2 MiB.
    ///
    /// Cost: three looks at each page of `from`, an atomic operation for each frame, and an entry
    /// for each page at `to`. Unmapping pages with shared frames takes a further frame for each
    /// 1018 pages, until the ticket is complete.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`ShareError::OtherService`] if the spaces belong to different services.
    /// - [`ShareError::OutsideSpace`] or [`ShareError::Target`] if a range does not fit its space.
    /// - [`ShareError::TooLarge`] if `from` has pages of 1 GiB.
    /// - [`ShareError::NotMapped`], [`ShareError::OtherSize`], [`ShareError::Borrowed`] or
    ///   [`ShareError::Full`] names the first page of `from` whose frame cannot be shared.
    /// - [`ShareError::Map`] if the pages at `to` cannot be mapped, or no frame to list the shares
    ///   is left.
    ///
    /// # Example
    ///
    /// ```
    /// use topomem::address_space::ShareError;
    /// use topomem::{AddressSpace, CpuPin, Machine, PageRange, Protection};
    ///
    /// /// Lets `reader` see the message that `writer` has in `pages`, at the same address.
    /// fn show<P: Machine>(
    ///     writer: &AddressSpace<P>,
    ///     reader: &AddressSpace<P>,
    ///     pin: &CpuPin,
    ///     pages: PageRange,
    /// ) -> Result<(), ShareError> {
    ///     writer.share(pin, pages, reader, pages.start(), Protection::USER_READ_ONLY)
    /// }
    /// ```
    pub fn share(
        &self,
        pin: &CpuPin,
        from: PageRange,
        into: &AddressSpace<P>,
        to: VirtAddr,
        protection: Protection,
    ) -> Result<(), ShareError> {
        let (source, target) = (self.core, into.core);
        if !core::ptr::eq(source.service, target.service) {
            return Err(ShareError::OtherService);
        }
        if from.size() == PageSize::Size1GiB {
            return Err(ShareError::TooLarge(from));
        }
        let range = PageRange::new(to, from.pages(), from.size()).map_err(ShareError::Target)?;
        let pages = source.check(from).ok_or(ShareError::OutsideSpace(from))?;
        let new = into.check_mapping(range, protection).map_err(ShareError::Map)?;
        let level = level_of(from.size());
        let mut shares = Shares { space: source, pin, list: Gather::EMPTY, spent: Chain::EMPTY };
        let shared = source.share_into(pin, pages, level, &mut shares.list).and_then(|()| {
            let mut backing = Listed {
                memory: source.service.frames(),
                level,
                shares: &mut shares.list,
                spent: &mut shares.spent,
                attributes: into.attributes(protection, Ownership::Shared),
            };
            target.table.note_shared();
            into.fill(pin, new, &mut backing).map_err(ShareError::Map)
        });
        drop(shares);
        if shared.is_err() {
            source.table.reown(source.service.tables(pin), pages, level);
        }
        shared
    }
}

impl<P: Machine> SpaceCore<P> {
    /// Counts a further holder of each frame of `pages`, and adds the shares to `list`.
    fn share_into(
        &self,
        pin: &CpuPin,
        pages: Pages,
        level: Level,
        list: &mut Gather,
    ) -> Result<(), ShareError> {
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let address = |page| VirtAddr::new_truncate(page << 12);
        loop {
            let error = match self.table.share(self.service.tables(pin), &mut reserve, pages, level, list) {
                Ok(()) => return Ok(()),
                Err(Unshared::Gather(error)) => error,
                Err(Unshared::Vacant { page }) => return Err(ShareError::NotMapped(address(page))),
                Err(Unshared::Borrowed { page }) => return Err(ShareError::Borrowed(address(page))),
                Err(Unshared::Full { page }) => return Err(ShareError::Full(address(page))),
                Err(Unshared::OtherLevel { page, level }) => {
                    return Err(ShareError::OtherSize { page: address(page), size: size_of_level(level) });
                }
            };
            let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
            refilled.map_err(|error| ShareError::Map(MapError::OutOfFrames(error)))?;
        }
    }
}

/// Shares to be mapped. Unused shares are dropped on drop.
struct Shares<'a, P: Machine> {
    space: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    list: Gather,
    /// Emptied pages of the list.
    spent: Chain,
}

impl<P: Machine> Drop for Shares<'_, P> {
    fn drop(&mut self) {
        let frames = self.space.service.frames();
        // SAFETY: no leaf was made for these shares.
        unsafe { drop_shares(&mut self.list, frames, self.pin, &mut Budget::unlimited()) };
        while let Some((first, count)) = self.spent.pop_run(frames) {
            // SAFETY: the frames were pages of the list, owned by the list alone.
            unsafe { frame_memory::release_tables(frames, self.pin, first, count) };
        }
    }
}
