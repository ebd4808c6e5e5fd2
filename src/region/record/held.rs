//! Pages counted for a record before they have its number.

use topomem_percpu::CpuPin;

use super::table::InternError;
use super::{Record, Records};
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::budget::Budget;
use crate::object::Claim;
use crate::page_table::RecordNumber;
use crate::region::Region;

/// Pages counted by a record and about to get its number: the record cannot end meanwhile. They are
/// subtracted on drop.
pub(crate) struct HeldPages<P: Machine> {
    core: &'static SpaceCore<P>,
    number: Option<RecordNumber>,
    pages: u64,
}

impl<P: Machine> HeldPages<P> {
    /// Holds `pages` of `record`, which gets a number unless it is plain. If the record maps an
    /// object, waits until no CPU can use pages with an incompatible claim. The caller is in no
    /// walk, and holds no lock.
    pub(crate) fn of(
        core: &'static SpaceCore<P>,
        pin: &CpuPin,
        record: &Record<P>,
        pages: u64,
    ) -> Result<HeldPages<P>, InternError> {
        let mut number = None;
        if !record.is_plain() {
            core.table.note_records();
            number = Some(core.records.intern(core, pin, record, pages)?);
        }
        if let Some(mapped) = &record.object
            && mapped.claim != Claim::NOTHING
        {
            mapped.object.core().wait_for_opposed(pin, mapped.claim);
        }
        Ok(HeldPages { core, number, pages })
    }

    /// Holds `pages` more of the record of `region`. Returns `None` if the record is dead: no page
    /// is then in the region.
    pub(crate) fn more(core: &'static SpaceCore<P>, region: Region, pages: u64) -> Option<HeldPages<P>> {
        let number = region.record();
        let alive = number.is_none_or(|number| core.records.try_add(number, pages));
        // Made only if the pages were added: its drop subtracts them.
        alive.then(|| HeldPages { core, number, pages })
    }

    /// Returns the record's number, or `None` for a plain record.
    pub(crate) fn number(&self) -> Option<RecordNumber> {
        self.number
    }

    /// Keeps the pages counted: they have the number.
    pub(crate) fn keep(mut self) {
        self.number = None;
    }
}

impl<P: Machine> Drop for HeldPages<P> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.core.leave_record(number, self.pages);
        }
    }
}

impl<P: Machine> SpaceCore<P> {
    /// Takes `pages` from a record like [`Records::subtract`].
    pub(crate) fn leave_record(&self, number: RecordNumber, pages: u64) {
        if self.records.subtract(number, pages) {
            self.service.note_work_anywhere();
        }
    }

    /// Takes `pages` from the record `old`, and adds them to the record `new`, which is held.
    pub(crate) fn exchange_records(&self, old: Option<RecordNumber>, new: Option<RecordNumber>, pages: u64) {
        if let Some(new) = new {
            self.records.add(new, pages);
        }
        if let Some(old) = old {
            self.leave_record(old, pages);
        }
    }

    /// Frees the numbers of dead records, as far as `budget` allows. Returns whether some have to
    /// wait.
    pub(crate) fn sweep_records(&self, pin: &CpuPin, budget: &mut Budget) -> bool {
        if !self.table.has_records() {
            return false;
        }
        let (service, domain) = (self.service, self.domain());
        let outside = || service.walks().wait_for_others(pin, || service.platform().relax());
        let issue = || service.shootdown().pending(pin, domain).detach();
        let is_done = |request| service.shootdown().is_done(domain, request);
        Records::sweep(&self.records, budget, outside, issue, is_done)
    }
}
