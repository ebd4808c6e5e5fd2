//! The records of a copied space.

use core::ops::ControlFlow;

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::index::{BUCKETS, Index};
use super::table::Records;
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::page_table::{Found, Pages, RegionId};
use crate::service::MemoryService;
use crate::spin_lock::SpinGuard;

/// The parent's records during the copy of its space: none is added or removed.
pub(crate) struct StillRecords<'a, P: Machine> {
    records: &'a Records<P>,
    index: SpinGuard<'a, Index>,
}

impl<P: Machine> Records<P> {
    /// Lets no record be added or removed until the result is dropped.
    pub(crate) fn still(&self, service: &MemoryService<P>) -> StillRecords<'_, P> {
        StillRecords { records: self, index: self.lock(service) }
    }
}

impl<P: Machine> StillRecords<'_, P> {
    /// Gives `child`, which has no records, the same records with the same numbers, each with a
    /// single hold ([`SpaceCore::count_record_pages`] ends it). No page has them yet.
    pub(crate) fn copy_to(&self, pin: &CpuPin, child: &SpaceCore<P>) -> Result<(), AllocError> {
        let mut index = child.records.lock(child.service);
        let buckets = index.buckets(child.service, pin)?;
        let mut outcome = Ok(());
        self.records.for_each(&self.index, |number, slot| {
            if outcome.is_err() {
                return;
            }
            if let Err(error) = child.records.make_slot(child.service, pin, number) {
                outcome = Err(error);
                return;
            }
            index.used = number.get();
            // Relaxed, here and below: governed by the lock, and a count.
            if slot.pages.load(Ordering::Relaxed) > 0 {
                // SAFETY: the caller has the lock of the parent's records.
                let mut record = unsafe { slot.record() }.clone();
                if let Some(faults) = &mut record.faults {
                    match faults.for_copy(pin) {
                        Ok(own) => *faults = own,
                        Err(error) => {
                            outcome = Err(error);
                            return;
                        }
                    }
                }
                child.records.add(number, 1);
                let bucket = buckets.get(record.hash() as usize % BUCKETS);
                if index.put(child, bucket, number, record).is_ok() {
                    return;
                }
                // While the parent's record is in use, no other opposes it. The record has
                // therefore died meanwhile, and no page with it will be copied.
                child.records.forget_hold(number);
            }
            index.put_free(&child.records, number);
        });
        outcome
    }
}

impl<P: Machine> SpaceCore<P> {
    /// Counts the pages of each record of a space just copied and not used yet, and ends the holds
    /// of the records. Records without pages are dead.
    pub(crate) fn count_record_pages(&self, pin: &CpuPin) {
        let visit = |part: Pages, found: Found| {
            if let Some(number) = found.region().and_then(RegionId::record) {
                self.records.add(number, part.count());
            }
            ControlFlow::Continue(())
        };
        self.table.visit(self.service.tables(pin), self.bounds, visit);
        self.records.end_holds(self.service);
    }
}
