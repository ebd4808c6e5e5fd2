//! An address space to measure in.

extern crate alloc;

use alloc::sync::Arc;

use topomem::{AddressSpace, FrameRequest, PageRange, PageSize, Protection, VirtAddr};

use super::MeasureError;
use crate::arch::probe;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;

/// Where its first page is: the start of 2 MiB.
const BASE: u64 = 0x4000_0000;

/// A user space, and how the measured pages of it come and go.
#[derive(Clone)]
pub(super) struct Measured {
    pub space: Arc<AddressSpace<Kernel>>,
}

impl Measured {
    /// A new space with nothing mapped.
    pub(super) fn new() -> Result<Measured, MeasureError> {
        Ok(Measured { space: Arc::new(SERVICE.create_space(&pin())?) })
    }

    /// Makes the executing CPU use it.
    pub(super) fn activate(&self) {
        // SAFETY: measuring tasks are the only ones that switch spaces, and no handler does.
        unsafe { self.space.activate(&pin()) };
    }

    /// Maps the first `count` pages that lie apart, as [`Measured::map`] does.
    pub(super) fn map_apart(&self, count: u64) -> Result<(), MeasureError> {
        (0..count).try_for_each(|number| self.map(apart(number)))
    }

    /// Maps `range` to fresh frames and touches each page, so that the TLB has it.
    pub(super) fn map(&self, range: PageRange) -> Result<(), MeasureError> {
        self.space.map(&pin(), range, FrameRequest::frame(), Protection::USER_DATA)?;
        touch(range)
    }
}

/// Takes the executing CPU out of whatever space it uses.
pub(super) fn leave() {
    if let Some(kernel) = SERVICE.kernel_space() {
        // SAFETY: as in `activate`.
        unsafe { kernel.activate(&pin()) };
    }
}

/// `count` pages from the one numbered `first`.
pub(super) fn pages(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new_truncate(BASE + first * 4096);
    PageRange::new(start, count, PageSize::Size4KiB).unwrap_or(PageRange::page(start, PageSize::Size4KiB))
}

/// The page numbered `number` of those that are changed one by one: every second one of 2 MiB, with
/// nothing mapped between them.
pub(super) fn apart(number: u64) -> PageRange {
    pages(512 + 2 * number, 1)
}

/// Writes to each page of `range` in the active space.
pub(super) fn touch(range: PageRange) -> Result<(), MeasureError> {
    range.iter().try_for_each(|page| {
        // SAFETY: the pages are this measurement's own.
        let stored = unsafe { probe::store(page.as_u64(), 1) };
        stored.map_err(|fault| MeasureError::Inaccessible(fault.addr))
    })
}
