//! Promotion of small pages to large pages.

use topomem_percpu::CpuPin;
use topomem_shootdown::{PageRange, VirtAddr};

use crate::Machine;
use crate::address_space::layout::level_of;
use crate::address_space::{AddressSpace, PromoteError, Unmapping};
use crate::page_table::{Format, Reserve, Unfit, Unpromoted};

impl<P: Machine> AddressSpace<P> {
    /// Maps `range` with pages of its size in place of smaller pages with contiguous frames and
    /// equal protections. No address is unmapped meanwhile. Pages already as large, or larger, are
    /// not an error.
    ///
    /// The large page counts as accessed, and as dirty if it is writable: a CPU may be about to
    /// mark a small page. Frames owned by the space, allocated together or one by one, stay its
    /// own: an unmap frees them, and an unmap of a part splits the page again.
    ///
    /// Cost: a look at each of the smaller pages (two for replaced pages), with their entries
    /// claimed; and a single invalidation for all, of a range of 4 KiB pages. The replaced tables
    /// are freed when the ticket completes.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`PromoteError::OutsideSpace`] if the range leaves the part of the space allowed for
    ///   mappings.
    /// - [`PromoteError::Unsupported`] if the format or the machine has no pages of the range's
    ///   size.
    /// - [`PromoteError::NotMapped`], [`PromoteError::MisalignedFrame`],
    ///   [`PromoteError::NotContiguous`], [`PromoteError::Differs`], [`PromoteError::Shared`] or
    ///   [`PromoteError::OneSizeOnly`] names the first page unfit for a large page.
    /// - [`PromoteError::OutOfFrames`] if no frame for the regions of the large pages is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, Order, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let large = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size2MiB);
    /// let small = PageRange::new(large.start(), 512, PageSize::Size4KiB)?;
    /// let run = service.alloc(pin, &FrameRequest::order(Order::HUGE))?;
    /// // SAFETY: the run stays allocated.
    /// unsafe { space.map_borrowed(pin, small, run, Protection::USER_DATA)? };
    /// space.promote(pin, large)?.wait(pin);
    /// assert_eq!(space.translate(pin, large.start()).map(|found| found.size), Some(PageSize::Size2MiB));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn promote(&self, pin: &CpuPin, range: PageRange) -> Result<Unmapping<'_, P>, PromoteError> {
        let core = self.core;
        let pages = core.check(range).ok_or(PromoteError::OutsideSpace(range))?;
        let level = level_of(range.size());
        let paging = core.service.platform().paging();
        if level > <P::Format as Format>::LARGEST_LEAF.min(paging.largest_leaf()) {
            return Err(PromoteError::Unsupported(range.size()));
        }
        let mut reserve = Reserve::new(core.service.frames(), pin);
        let promoted = loop {
            let record = |changed| (core.record(&changed), changed);
            match core.table.promote(core.service.tables(pin), &mut reserve, pages, level, record) {
                Ok(promoted) => break Ok(promoted),
                Err(Unpromoted::Unfit(unfit)) => break Err(unfit),
                Err(Unpromoted::Tables(error)) => {
                    let refilled = core.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(PromoteError::OutOfFrames)?;
                }
            }
        };
        let promoted =
            promoted.map(|(record, changed)| Unmapping::announce(core, pin, || range, changed, record));
        promoted.map_err(|unfit| {
            let address = |page| VirtAddr::new_truncate(page << 12);
            match unfit {
                Unfit::Vacant { page } => PromoteError::NotMapped(address(page)),
                Unfit::Misaligned { page, frame } => {
                    PromoteError::MisalignedFrame { page: address(page), frame }
                }
                Unfit::Scattered { page, frame } => {
                    PromoteError::NotContiguous { page: address(page), frame }
                }
                Unfit::Differs { page } => PromoteError::Differs(address(page)),
                Unfit::Shared { page } => PromoteError::Shared(address(page)),
                Unfit::OneSize { page } => PromoteError::OneSizeOnly(address(page)),
            }
        })
    }
}
