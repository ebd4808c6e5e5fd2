//! Making user spaces.

use topomem_percpu::{CpuPin, Order};

use super::MemoryService;
use super::memory::frame_memory;
use crate::Machine;
use crate::address_space::{AddressSpace, CreateError, SpaceCore, SpaceKind, user_bounds};
use crate::page_table::{PageTable, RootEntries};
use crate::region::SpaceLayout;

impl<P: Machine> MemoryService<P> {
    /// Creates a user space: programs' addresses, empty, and the kernel's as they are. Programs have the lower half
    /// unless [`WithHeap::programs`](crate::WithHeap::programs) said otherwise.
    ///
    /// Cost: two allocations, and the copying of half a table.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`CreateError::NoKernelSpace`] if boot is not complete.
    /// - [`CreateError::OutOfFrames`] if no frame for the root or for the bookkeeping is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// // SAFETY: the CPU is online, and no call of the service is interrupted.
    /// unsafe { space.activate(pin) };
    /// assert!(space.domain().cpus().contains(pin.cpu()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn create_space(&'static self, pin: &CpuPin) -> Result<AddressSpace<P>, CreateError> {
        self.create_randomized_space(pin, 0)
    }

    /// Creates a user space like [`MemoryService::create_space`], with regions placed according to
    /// `seed`. The low [`SpaceLayout::ENTROPY_BITS`] bits are the number of pages by which regions
    /// without a fixed place lie lower.
    ///
    /// # Errors
    ///
    /// As for [`MemoryService::create_space`].
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let random = 0x5eed; // from the kernel's random numbers
    /// let space = service.create_randomized_space(pin, random)?;
    /// assert_eq!(space.mapped_pages(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn create_randomized_space(
        &'static self,
        pin: &CpuPin,
        seed: u64,
    ) -> Result<AddressSpace<P>, CreateError> {
        self.create(pin, SpaceLayout::below(user_bounds(self.programs())).randomized(seed))
    }

    /// Creates a user space with regions placed as in `other`.
    pub(crate) fn create_space_like(
        &'static self,
        pin: &CpuPin,
        other: &SpaceCore<P>,
    ) -> Result<AddressSpace<P>, CreateError> {
        self.create(pin, other.layout)
    }

    fn create(&'static self, pin: &CpuPin, layout: SpaceLayout) -> Result<AddressSpace<P>, CreateError> {
        let kernel = self.kernel_core().ok_or(CreateError::NoKernelSpace)?;
        let new = || PageTable::new(&self.frames, pin, RootEntries::Own);
        let table = new()
            .or_else(|error| self.reclaim_and_retry(pin, error, new))
            .map_err(CreateError::OutOfFrames)?;
        // SAFETY: the table is new; the kernel's root entries and the tables below stay for good.
        unsafe { table.share_from(&self.frames, kernel.table.root(), self.programs()) };
        let bounds = user_bounds(self.programs());
        match SpaceCore::place(self, pin, table, SpaceKind::User, bounds, layout) {
            Ok(core) => {
                self.spaces.lock(&self.platform).add(core);
                Ok(AddressSpace::of(core))
            }
            Err((error, table)) => {
                // SAFETY: the root was never used.
                unsafe { frame_memory::release_own(&self.frames, pin, table.root(), Order::FRAME) };
                Err(CreateError::OutOfFrames(error))
            }
        }
    }
}
