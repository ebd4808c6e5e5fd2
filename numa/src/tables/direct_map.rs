//! Firmware's tables through a platform's direct map.

use core::ptr::NonNull;

use acpi::{AcpiHandler, PhysicalMapping};
use topomem_percpu::{PhysAddr, Platform};

/// A handler for [`find_tables`](super::find_tables) that reads firmware's tables where the platform's direct map
/// shows them: [`Platform::phys_to_virt`]. A kernel whose direct map lacks them has a handler of its own.
///
/// ```no_run
/// # use core::ptr::NonNull;
/// # use topomem_numa::{CpuId, DirectMap, Platform, find_tables};
/// # use topomem_numa::PhysAddr;
/// # struct Kernel;
/// # unsafe impl Platform for Kernel {
/// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
/// #     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> { NonNull::dangling() }
/// # }
/// let rsdp = PhysAddr::new(0xf_5a40);
/// // SAFETY: the loader's RSDP, which the direct map shows with all tables; nobody writes to them.
/// let tables = unsafe { find_tables(DirectMap(&Kernel), rsdp)? };
/// # Ok::<(), topomem_numa::FindTablesError>(())
/// ```
#[derive(Debug)]
pub struct DirectMap<'p, P>(pub &'p P);

impl<P> Clone for DirectMap<'_, P> {
    fn clone(&self) -> Self {
        DirectMap(self.0)
    }
}

impl<P: Platform> AcpiHandler for DirectMap<'_, P> {
    unsafe fn map_physical_region<T>(&self, address: usize, bytes: usize) -> PhysicalMapping<Self, T> {
        let place: NonNull<T> = self.0.phys_to_virt(PhysAddr::new(address as u64)).cast();
        // SAFETY: the direct map shows the tables for good (the promise of the caller of `find_tables`).
        unsafe { PhysicalMapping::new(address, place, bytes, bytes, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}
