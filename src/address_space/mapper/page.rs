//! Changes of a single page of a known size.

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_shootdown::ChangeRecord;

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::page_table::{Changed, ClearPageError, Leaf, Level, Mismatch, Pages, Protection, Reserve};

impl<P: Machine> SpaceCore<P> {
    /// Clears the page `page` of `level`, adds the change to `changed`, and records it.
    pub(super) fn clear_page(
        &self,
        pin: &CpuPin,
        page: Pages,
        level: Level,
        changed: &mut Changed,
    ) -> Result<(Leaf, Option<ChangeRecord<'_>>), ClearPageError<AllocError>> {
        let (frames, access) = (self.service.frames(), self.service.tables(pin));
        let mut reserve = Reserve::new(frames, pin);
        let record = |changed: &mut Changed| self.record(changed);
        loop {
            let leave = |number, pages| self.leave_record(number, pages);
            match self.table.clear_page(access, &mut reserve, page, level, changed, leave, record) {
                Ok(cleared) => {
                    self.count_unmapped(pin, page.count());
                    return Ok(cleared);
                }
                Err(ClearPageError::Gather(error)) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(ClearPageError::Gather)?;
                }
                Err(mismatch) => return Err(mismatch),
            }
        }
    }

    /// Gives the page `page` of `level` another protection, adds the change to `changed`, and
    /// records it.
    pub(super) fn reprotect_page(
        &self,
        pin: &CpuPin,
        page: Pages,
        level: Level,
        protection: Protection,
        changed: &mut Changed,
    ) -> Result<(Leaf, Option<ChangeRecord<'_>>), Mismatch> {
        let record = |changed: &mut Changed| self.record(changed);
        self.table.reprotect_page(self.service.tables(pin), page, level, protection, changed, record)
    }
}
