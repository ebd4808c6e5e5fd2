//! The index of the records of a space: chains by contents, and free numbers.

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU32, Ordering};
use topomem_shootdown::Request;

use super::Record;
use super::slot::{MOST_SLOTS, Slot};
use super::table::{InternError, Records};
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::object::Conflict;
use crate::page_table::RecordNumber;
use crate::service::MemoryService;

/// Number of lists of equal hashes: a frame of them.
pub(super) const BUCKETS: usize = 1024;

type Buckets = [AtomicU32; BUCKETS];

/// The index of records and free numbers.
pub(super) struct Index {
    /// By hash, the number of the first slot; made with the first record.
    pub(super) buckets: Option<&'static Buckets>,
    /// The number of the first free slot; 0 if none.
    pub(super) free: u32,
    /// The highest number ever used.
    pub(super) used: u32,
    /// Dead slots waiting for the ticket.
    pub(super) leaving: u32,
    /// The awaited request; `None` before the ticket is taken.
    pub(super) request: Option<Request>,
}

impl Index {
    /// Returns the lists by hash, made with the first record.
    pub(super) fn buckets<P: Machine>(
        &mut self,
        service: &MemoryService<P>,
        pin: &CpuPin,
    ) -> Result<&'static Buckets, AllocError> {
        if let Some(buckets) = self.buckets {
            return Ok(buckets);
        }
        let frame = service.alloc_from_reserve(pin, &FrameRequest::frame().zeroed())?;
        let address = service.platform().phys_to_virt(frame.start_address());
        // SAFETY: the table owns the frame until `Records::free`; zeros are 1024 words, which are
        // only accessed as atomics. The callers keep the reference no longer than the lock.
        Ok(self.buckets.insert(unsafe { address.cast().as_ref() }))
    }

    /// Returns the number of a slot without an owner.
    pub(super) fn take_number<P: Machine>(
        &mut self,
        records: &Records<P>,
        service: &MemoryService<P>,
        pin: &CpuPin,
    ) -> Result<RecordNumber, InternError> {
        if let Some((free, slot)) =
            RecordNumber::new(self.free).and_then(|free| Some((free, records.slot(free)?)))
        {
            self.free = slot.next.load(Ordering::Relaxed);
            return Ok(free);
        }
        let new = RecordNumber::new(self.used + 1).filter(|new| new.get() <= MOST_SLOTS);
        let new = new.ok_or(InternError::Full)?;
        records.make_slot(service, pin, new)?;
        self.used = new.get();
        Ok(new)
    }

    /// Puts `record` into the slot `number` of `space`, which has no owner, first into the list
    /// `bucket`, and into the list of the record's object.
    ///
    /// # Errors
    ///
    /// Returns [`Conflict`] if the record's claim is refused. Nothing has changed then.
    pub(super) fn put<P: Machine>(
        &mut self,
        space: &SpaceCore<P>,
        bucket: Option<&AtomicU32>,
        number: RecordNumber,
        record: Record<P>,
    ) -> Result<(), Conflict> {
        if let (Some(slot), Some(bucket)) = (space.records.slot(number), bucket) {
            if let Some(mapped) = &record.object {
                // SAFETY: the slot had no owner. It stays in place, and the space lives, until the
                // record has left the list, in `sweep` or `forget_all`.
                unsafe { mapped.join(&slot.mapping, space, number) }?;
            }
            // SAFETY: the caller has the lock, and no page has the number.
            drop(unsafe { slot.replace(record) });
            // Relaxed: governed by the lock.
            slot.next.store(bucket.load(Ordering::Relaxed), Ordering::Relaxed);
            bucket.store(number.get(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the slot `number`, without an owner, free.
    pub(super) fn put_free<P: Machine>(&mut self, records: &Records<P>, number: RecordNumber) {
        if let Some(slot) = records.slot(number) {
            // Relaxed: governed by the lock.
            slot.next.store(self.free, Ordering::Relaxed);
            self.free = number.get();
        }
    }

    /// Makes the number `number`, of the dead slot `slot`, free. Returns the record.
    pub(super) fn forget<P: Machine>(
        &mut self,
        records: &Records<P>,
        number: RecordNumber,
        slot: &Slot<P>,
    ) -> Record<P> {
        // SAFETY: the caller has the lock, and the slot is dead: no page has its number.
        let record = unsafe { slot.replace(Record::PLAIN) };
        if let Some(buckets) = self.buckets {
            let mut link = &buckets[record.hash() as usize % BUCKETS];
            // Relaxed: governed by the lock.
            while let Some(next) = RecordNumber::new(link.load(Ordering::Relaxed)) {
                if next == number {
                    link.store(slot.next.load(Ordering::Relaxed), Ordering::Relaxed);
                    break;
                }
                let Some(next) = records.slot(next) else { break };
                link = &next.next;
            }
        }
        self.put_free(records, number);
        record
    }
}
