//! The firmware's tables, read through the direct map.

use core::fmt::Write;
use core::ptr::NonNull;

use acpi::{AcpiHandler, PhysicalMapping};
use arrayvec::ArrayString;
use topomem::numa::find_tables;
use topomem::{FirmwareTables, PhysAddr};

use crate::arch::paging;
use crate::{log, record};

/// Bytes in one record of a dump; twice as many hexadecimal digits.
const DUMP: usize = 256;

/// Maps nothing: the direct map covers whatever the firmware's memory map lists below 4 GiB,
/// and all memory above.
#[derive(Debug, Clone, Copy)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, addr: usize, bytes: usize) -> PhysicalMapping<DirectMap, T> {
        let virt: NonNull<T> = paging::direct_map(PhysAddr::new(addr as u64)).cast();
        // SAFETY: the direct map lasts for good.
        unsafe { PhysicalMapping::new(addr, virt, bytes, bytes, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<DirectMap, T>) {}
}

/// The tables that the RSDP at `rsdp` leads to; none where there is no usable RSDP.
pub(crate) fn tables(rsdp: Option<PhysAddr>) -> FirmwareTables<'static> {
    let Some(rsdp) = rsdp else {
        log!("no RSDP");
        return FirmwareTables::default();
    };
    // SAFETY: the loader found the RSDP there; the tables lie in memory that the firmware's map
    // keeps from the kernel, and the direct map covers it.
    unsafe { find_tables(DirectMap, rsdp) }.unwrap_or_else(|error| {
        log!("firmware tables: {error}");
        FirmwareTables::default()
    })
}

/// Writes the tables as records, for files that tests read.
pub(crate) fn dump(tables: &FirmwareTables<'_>) {
    let all = [tables.madt, tables.srat, tables.slit, tables.hmat, tables.cedt];
    for table in all.into_iter().flatten() {
        let signature = table.get(..4).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("????");
        for (index, bytes) in table.chunks(DUMP).enumerate() {
            let mut hex = ArrayString::<{ 2 * DUMP }>::new();
            for byte in bytes {
                // The string has room for every chunk.
                let _ = write!(hex, "{byte:02x}");
            }
            record!(
                "{{\"t\":\"table\",\"signature\":\"{signature}\",\"offset\":{},\"hex\":\"{hex}\"}}",
                index * DUMP
            );
        }
    }
}
