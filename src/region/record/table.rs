//! The records of a space, by number.
//!
//! Equal records have the same number: neighbours with equal records are a single region. A record
//! counts the pages of address space with its number, mapped or not. Changes of regions add and
//! subtract whole spans, under the claims of the changed entries; faults change nothing.
//!
//! # The end of a record
//!
//! When no page has the number any more, the record is *dead*: no page gets the number, but it
//! keeps its meaning. CPUs may still use translations of its former pages, and a pass through the
//! pages mapping an object has to wait for them. The subtraction of the last page puts the number
//! on a list, and [`Records::sweep`] frees the number in two steps. First each CPU has to be seen
//! outside a walk once: changes subtracting pages are announced walks until they are recorded in
//! the space's domain, so from then on all of them are recorded. Then a ticket for all changes of
//! the domain has to be complete.

use core::fmt;
use core::ptr::NonNull;

use topomem_numa::frames::AllocError;
use topomem_percpu::sync::atomic::{AtomicU32, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::Request;

use super::Record;
use super::index::{BUCKETS, Index};
use super::slot::{Slot, Slots};
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::budget::Budget;
use crate::object::Conflict;
use crate::page_table::RecordNumber;
use crate::service::MemoryService;
use crate::service::memory::frame_memory;
use crate::spin_lock::{SpinGuard, SpinLock};

/// The reason why a record got no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InternError {
    /// No frame for the record.
    OutOfFrames(AllocError),
    /// All numbers are taken.
    Full,
    /// The object's frames would be writable and executable at the same time.
    WriteExecute,
}

impl From<Conflict> for InternError {
    fn from(_: Conflict) -> InternError {
        InternError::WriteExecute
    }
}

impl From<AllocError> for InternError {
    fn from(error: AllocError) -> InternError {
        InternError::OutOfFrames(error)
    }
}

/// The records of a space.
pub(crate) struct Records<P: Machine> {
    slots: Slots<P>,
    /// The newest of the slots without pages; 0 if none.
    dead: AtomicU32,
    index: SpinLock<Index>,
}

impl<P: Machine> Records<P> {
    pub(crate) fn new() -> Records<P> {
        let index = Index { buckets: None, free: 0, used: 0, leaving: 0, request: None };
        Records { slots: Slots::new(), dead: AtomicU32::new(0), index: SpinLock::new(index) }
    }

    pub(super) fn slot(&self, number: RecordNumber) -> Option<&Slot<P>> {
        let slot = self.slots.get(number.get());
        debug_assert!(slot.is_some(), "no record has the number {number:?}");
        slot
    }

    /// Returns the record with the given number, the number of a page whose entry the caller has
    /// claimed.
    pub(crate) fn get(&self, number: RecordNumber) -> Record<P> {
        // SAFETY: the page keeps the number, as long as its entry is claimed.
        self.slot(number).map_or(Record::PLAIN, |slot| unsafe { slot.record() }.clone())
    }

    /// Calls `see` with the record with the given number, like [`Records::get`], without further
    /// holds of the record's objects.
    pub(crate) fn with<T>(
        &self,
        number: RecordNumber,
        see: impl FnOnce(&Record<P>) -> Option<T>,
    ) -> Option<T> {
        // SAFETY: as in `get`.
        self.slot(number).and_then(|slot| see(unsafe { slot.record() }))
    }

    /// Adds `pages` to a record. Some pages have the record, with their entries claimed by the
    /// caller, or the caller holds the record.
    pub(crate) fn add(&self, number: RecordNumber, pages: u64) {
        if let Some(slot) = self.slot(number) {
            // Relaxed: the count does not come from 0.
            slot.pages.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Returns whether a page has the number of a record, or a context holds it.
    pub(crate) fn is_alive(&self, number: RecordNumber) -> bool {
        self.pages_of(number) > 0
    }

    /// Returns the number of pages with the number of a record, and of holds.
    pub(crate) fn pages_of(&self, number: RecordNumber) -> u64 {
        // Acquire pairs with the Release in `subtract`: a reader of a dead record's count knows of
        // the walks during the removal of its pages.
        self.slot(number).map_or(0, |slot| slot.pages.load(Ordering::Acquire))
    }

    /// Adds `pages` to a record, unless the record is dead.
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    pub(super) fn try_add(&self, number: RecordNumber, pages: u64) -> bool {
        self.slot(number).is_some_and(|slot| {
            let more = |now: u64| (now > 0).then_some(now + pages);
            // Relaxed, as in `add`.
            slot.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        })
    }

    /// Takes `pages` from a record, and returns whether the record is dead afterwards. The service
    /// task then has work.
    ///
    /// If the pages were mapped, the caller is in an announced walk, which ends after the change is
    /// recorded.
    #[must_use]
    pub(crate) fn subtract(&self, number: RecordNumber, pages: u64) -> bool {
        let Some(slot) = self.slot(number) else {
            return false;
        };
        // Release pairs with the Acquire in `pages_of`: a reader of a dead record's count knows of
        // the walks announced before. Acquire: so does the context taking the last pages.
        if slot.pages.fetch_sub(pages, Ordering::AcqRel) != pages {
            return false;
        }
        self.add_dead(number.get(), slot);
        true
    }

    fn add_dead(&self, number: u32, slot: &Slot<P>) {
        let mut first = self.dead.load(Ordering::Relaxed);
        loop {
            slot.next_dead.store(first, Ordering::Relaxed);
            // Release pairs with the Acquire in `sweep`. All are taken at once, which rules out
            // ABA.
            match self.dead.compare_exchange_weak(first, number, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    pub(super) fn lock(&self, service: &MemoryService<P>) -> SpinGuard<'_, Index> {
        self.index.lock(service.platform())
    }

    /// Returns the number of `record`, with `pages` added to its pages.
    ///
    /// # Errors
    ///
    /// Returns [`InternError`] if no frame or number is left, or the record's claim is refused.
    /// Nothing has changed then.
    pub(crate) fn intern(
        &self,
        space: &SpaceCore<P>,
        pin: &CpuPin,
        record: &Record<P>,
        pages: u64,
    ) -> Result<RecordNumber, InternError> {
        let service = space.service;
        let mut index = self.lock(service);
        let buckets = index.buckets(service, pin)?;
        let bucket = &buckets[record.hash() as usize % BUCKETS];
        // Relaxed, here and below: governed by the lock.
        let mut number = bucket.load(Ordering::Relaxed);
        while let Some(found) = RecordNumber::new(number)
            && let Some(slot) = self.slot(found)
        {
            // Dead records are skipped first: a program mapping and unmapping the same object again
            // and again leaves many of them.
            let is_alive = slot.pages.load(Ordering::Relaxed) > 0;
            // SAFETY: the caller has the lock.
            if is_alive && unsafe { slot.record() } == record && self.try_add(found, pages) {
                return Ok(found);
            }
            number = slot.next.load(Ordering::Relaxed);
        }
        let found = index.take_number(self, service, pin)?;
        // Before other contexts find the record through the object: none takes it for dead.
        self.add(found, pages);
        if let Err(conflict) = index.put(space, Some(bucket), found, record.clone()) {
            self.forget_hold(found);
            index.put_free(self, found);
            return Err(conflict.into());
        }
        Ok(found)
    }

    /// Forgets the pages counted for a slot without an owner.
    pub(super) fn forget_hold(&self, number: RecordNumber) {
        if let Some(slot) = self.slot(number) {
            // Relaxed: governed by the lock.
            slot.pages.store(0, Ordering::Relaxed);
        }
    }

    /// Ensures the slot `number` exists. The caller has the lock.
    pub(super) fn make_slot(
        &self,
        service: &MemoryService<P>,
        pin: &CpuPin,
        number: RecordNumber,
    ) -> Result<(), AllocError> {
        self.slots.grow_to(service, pin, number.get())
    }

    /// Ends the holds of a copied space's records: records without pages are dead.
    pub(super) fn end_holds(&self, service: &MemoryService<P>) {
        let index = self.lock(service);
        self.for_each(&index, |number, slot| {
            // SAFETY: the caller has the lock.
            if !unsafe { slot.record() }.is_plain() {
                // The space is not used yet; dead records are freed later.
                let _ = self.subtract(number, 1);
            }
        });
    }

    /// Frees numbers without pages whose former pages no CPU can use any more. Issues tickets
    /// without waiting. `outside` returns whether every CPU has been seen outside a walk, `issue`
    /// returns a request for all changes of the space, and `is_done` returns whether a request is
    /// complete.
    ///
    /// Returns whether some number has to wait. Also for contexts in the middle of an interrupted
    /// use.
    pub(crate) fn sweep(
        &self,
        budget: &mut Budget,
        outside: impl FnOnce() -> bool,
        issue: impl FnOnce() -> Request,
        is_done: impl FnOnce(Request) -> bool,
    ) -> bool {
        let Some(mut index) = self.index.try_lock() else {
            return true;
        };
        if index.leaving == 0 {
            // Relaxed: a hint. Acquire below pairs with the Release in `add_dead`.
            if self.dead.load(Ordering::Relaxed) == 0 {
                return false;
            }
            index.leaving = self.dead.swap(0, Ordering::Acquire);
        }
        let request = match index.request {
            Some(request) => request,
            None if outside() => *index.request.insert(issue()),
            None => return true,
        };
        if !is_done(request) {
            return true;
        }
        while !budget.is_spent() && index.leaving != 0 {
            budget.spend(1);
            let Some(number) = RecordNumber::new(index.leaving) else { break };
            let Some(slot) = self.slot(number) else { break };
            // SAFETY: the caller has the lock.
            if !leaves(unsafe { slot.record() }, slot) {
                return true;
            }
            index.leaving = slot.next_dead.load(Ordering::Relaxed);
            let record = index.forget(self, number, slot);
            drop(index);
            // After the release of the lock: the record may have the last references to its
            // objects.
            drop(record);
            match self.index.try_lock() {
                Some(again) => index = again,
                None => return true,
            }
        }
        if index.leaving == 0 {
            index.request = None;
        }
        index.leaving != 0 || self.dead.load(Ordering::Relaxed) != 0
    }

    /// Forgets all records of an ended space, as far as `budget` allows, and returns whether more
    /// are left. No page has a number any more, and no CPU can use a former page.
    pub(crate) fn forget_all(&self, budget: &mut Budget) -> bool {
        let Some(mut index) = self.index.try_lock() else {
            return true;
        };
        while index.used > 0 && !budget.is_spent() {
            budget.spend(1);
            let Some(slot) = self.slots.get(index.used) else { break };
            // SAFETY: the caller has the lock.
            if !leaves(unsafe { slot.record() }, slot) {
                return true;
            }
            index.used -= 1;
            // SAFETY: the caller has the lock, and the caller's promise.
            let record = unsafe { slot.replace(Record::PLAIN) };
            drop(index);
            drop(record);
            match self.index.try_lock() {
                Some(again) => index = again,
                None => return true,
            }
        }
        index.used > 0
    }

    /// Frees the memory of the table.
    ///
    /// # Safety
    ///
    /// [`Records::forget_all`] has left nothing, and nothing uses the table any more.
    pub(crate) unsafe fn free(&self, service: &MemoryService<P>, pin: &CpuPin) {
        // SAFETY: the caller's promise.
        unsafe { self.slots.free(service, pin) };
        if let Some(buckets) = self.lock(service).buckets.take() {
            let address = service.platform().virt_to_phys(NonNull::from(buckets).cast());
            // SAFETY: `Index::buckets` allocated the frame, and nothing uses it any more.
            unsafe {
                let frame = PhysFrame::containing_address(address);
                frame_memory::release_own(service.frames(), pin, frame, Order::FRAME);
            }
        }
    }

    /// Calls `look` with each number, its record and its pages. The caller has `index`, the lock of
    /// the table.
    pub(super) fn for_each(&self, index: &Index, mut look: impl FnMut(RecordNumber, &Slot<P>)) {
        for number in 1..=index.used {
            if let (Some(found), Some(slot)) = (RecordNumber::new(number), self.slots.get(number)) {
                look(found, slot);
            }
        }
    }
}

/// Removes `record`, in `slot`, from the list of its object. Returns false if the record has to
/// stay for now.
fn leaves<P: Machine>(record: &Record<P>, slot: &Slot<P>) -> bool {
    record.object.as_ref().is_none_or(|mapped| mapped.try_leave(&slot.mapping))
}

impl<P: Machine> fmt::Debug for Records<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}
