//! The memory of records: slots by number, in runs of frames growing without moving.

use core::cell::UnsafeCell;
use core::ptr;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame};

use super::Record;
use crate::Machine;
use crate::object::MappingNode;
use crate::page_table::RecordNumber;
use crate::service::MemoryService;
use crate::service::memory::frame_memory;

/// A record, and its references.
pub(super) struct Slot<P: Machine> {
    /// Number of pages of address space with the number, and holds ([`super::HeldPages`]).
    pub pages: AtomicU64,
    /// The number of the next slot with the same hash, or of the next free slot; 0 at the end.
    /// Governed by the lock of the table.
    pub next: AtomicU32,
    /// The number of the next slot without pages; 0 at the end.
    pub next_dead: AtomicU32,
    /// The place in the list of the mapped object.
    pub mapping: MappingNode<P>,
    record: UnsafeCell<Record<P>>,
}

// SAFETY: a record is written by the holder of the table's lock, while no page has its number and
// no CPU reads it (see `Records`); the rest is atomic.
unsafe impl<P: Machine> Sync for Slot<P> {}

impl<P: Machine> Slot<P> {
    fn new() -> Slot<P> {
        Slot {
            pages: AtomicU64::new(0),
            next: AtomicU32::new(0),
            next_dead: AtomicU32::new(0),
            mapping: MappingNode::new(),
            record: UnsafeCell::new(Record::PLAIN),
        }
    }

    /// Returns the record.
    ///
    /// # Safety
    ///
    /// Nothing replaces the record while the reference lives: a page has its number and the caller
    /// has the claim of the page, or the caller holds a page of it, or the lock of the table.
    pub(super) unsafe fn record(&self) -> &Record<P> {
        // SAFETY: the caller's promise.
        unsafe { &*self.record.get() }
    }

    /// Replaces the record, and returns the former record.
    ///
    /// # Safety
    ///
    /// The caller has the lock of the table, and no page has the number.
    pub(super) unsafe fn replace(&self, record: Record<P>) -> Record<P> {
        // SAFETY: the caller's promise.
        unsafe { self.record.get().replace(record) }
    }
}

/// Number of slots of a frame.
const PER_FRAME: u32 = 8;

/// Number of runs of frames. Run `k` has 2^k frames.
const RUNS: usize = (RecordNumber::MAX / PER_FRAME + 1).ilog2() as usize;

const _: () = assert!(MOST_SLOTS <= RecordNumber::MAX);

/// Slots by number, from 1 on.
pub(super) struct Slots<P: Machine> {
    runs: [AtomicPtr<Slot<P>>; RUNS],
}

/// The highest number of a slot.
pub(super) const MOST_SLOTS: u32 = PER_FRAME * ((1 << RUNS) - 1);

/// Returns the run of the slot `number`, and its index in the run.
fn place(number: u32) -> (usize, usize) {
    let index = number - 1 + PER_FRAME;
    let run = index.ilog2() - PER_FRAME.ilog2();
    (run as usize, (index - (PER_FRAME << run)) as usize)
}

fn order(run: usize) -> Order {
    Order::new(run as u8).unwrap_or(Order::FRAME)
}

impl<P: Machine> Slots<P> {
    pub(super) fn new() -> Slots<P> {
        const { assert!(size_of::<Slot<P>>() * PER_FRAME as usize <= 4096) };
        Slots { runs: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// Returns the slot `number`, or `None` without memory for it yet.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Slot<P>> {
        let (run, place) = place(number);
        // Acquire pairs with the Release in `grow_to`: a reader of the run's address sees its
        // slots.
        let slots = self.runs.get(run)?.load(Ordering::Acquire);
        // SAFETY: run `k` has 2^k frames of slots, until `free`, after which no slot is used.
        (!slots.is_null()).then(|| unsafe { &*slots.add(place) })
    }

    /// Ensures the slot `number` exists. The caller has the lock of the table.
    pub(super) fn grow_to(
        &self,
        service: &MemoryService<P>,
        pin: &CpuPin,
        number: u32,
    ) -> Result<(), AllocError> {
        let (run, _) = place(number);
        // Relaxed: the lock orders the load.
        if !self.runs[run].load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let frame = service.alloc_from_reserve(pin, &FrameRequest::order(order(run)))?;
        let slots = service.platform().phys_to_virt(frame.start_address()).cast::<Slot<P>>();
        for place in 0..(PER_FRAME as usize) << run {
            // SAFETY: the caller owns the run of frames, which is aligned, and has room for the
            // slots.
            unsafe { slots.add(place).write(Slot::new()) };
        }
        // Release pairs with the Acquire in `get`.
        self.runs[run].store(slots.as_ptr(), Ordering::Release);
        Ok(())
    }

    /// Frees all runs.
    ///
    /// # Safety
    ///
    /// Nothing uses a slot any more, and all records are plain.
    pub(super) unsafe fn free(&self, service: &MemoryService<P>, pin: &CpuPin) {
        for (run, slots) in self.runs.iter().enumerate() {
            // Relaxed: nothing else uses the runs.
            if let Some(slots) = ptr::NonNull::new(slots.swap(ptr::null_mut(), Ordering::Relaxed)) {
                let frame = PhysFrame::containing_address(service.platform().virt_to_phys(slots.cast()));
                // SAFETY: `grow_to` allocated the run with this order; nothing uses it any more.
                unsafe { frame_memory::release_own(service.frames(), pin, frame, order(run)) };
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "half a million numbers take minutes; safe code")]
    fn places_are_dense() {
        let mut expected = (0, 0);
        for number in 1..=MOST_SLOTS {
            assert_eq!(place(number), expected);
            expected.1 += 1;
            if expected.1 == (PER_FRAME as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(expected, (RUNS, 0));
    }
}
