//! Small pages that become large ones.

use topomem_percpu::CpuPin;
use topomem_shootdown::{PageRange, VirtAddr};

use super::layout::level_of;
use super::{AddressSpace, PromoteError, Unmapping};
use crate::Machine;
use crate::page_table::{Format, Reserve, Unfit, Unpromoted};

impl<P: Machine> AddressSpace<P> {
    /// Maps `range` by pages of its size where smaller ones map it now, all to the same frames
    /// with the same protection. No address is unmapped meanwhile, nor is it an error that pages
    /// are that large already, or larger.
    ///
    /// The large page counts as accessed, and as dirty if it may be written: a CPU may be about to
    /// note either in a small one. Frames that the space owns stay its own, allocated one by one or
    /// not: an unmap frees them, and one of a part splits the page again.
    ///
    /// Costs a look at each of the smaller pages (two for those that are replaced), with their
    /// entries claimed; and one invalidation for all, that of a range of 4 KiB pages. The tables that are left over go with the ticket.
    ///
    /// # Errors
    ///
    /// [`PromoteError`]; nothing has changed.
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
                    let refilled = core.service.relieve(pin, error, || reserve.refill());
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
