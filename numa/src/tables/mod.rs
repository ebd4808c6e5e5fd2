//! Firmware tables, read in place: no copy, no heap, no panic, no read out of bounds, and no
//! endless loop, for any bytes.

mod bytes;
mod cedt;
mod diagnostic;
#[cfg(feature = "acpi")]
mod direct_map;
mod error;
#[cfg(feature = "acpi")]
mod find;
mod header;
mod hmat;
mod madt;
mod slit;
mod srat;
mod structures;

pub use cedt::{Cedt, CedtEntry};
pub use diagnostic::Diagnostic;
#[cfg(feature = "acpi")]
pub use direct_map::DirectMap;
pub use error::{Table, TableError};
#[cfg(feature = "acpi")]
pub use find::{FindTablesError, find_tables};
pub use hmat::{DataType, Figure, Hmat, HmatEntry, LatencyBandwidth};
pub use madt::{CpuState, Madt, MadtEntry};
pub use slit::Slit;
pub use srat::{MemoryAffinity, Srat, SratEntry};

/// The tables that describe topology, whole, including their headers.
///
/// Bytes beyond the length stated by a table's header are ignored.
///
/// ```
/// use topomem_numa::FirmwareTables;
///
/// let slit: &[u8] = &[]; // where firmware has mapped the table
/// let tables = FirmwareTables { slit: Some(slit), ..FirmwareTables::default() };
/// assert!(tables.srat.is_none());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct FirmwareTables<'a> {
    /// Interrupt controllers, so CPUs ("APIC").
    pub madt: Option<&'a [u8]>,
    /// The proximity domains of CPUs and memory ranges.
    pub srat: Option<&'a [u8]>,
    /// Distances.
    pub slit: Option<&'a [u8]>,
    /// Latencies, bandwidths, memory-side caches.
    pub hmat: Option<&'a [u8]>,
    /// CXL windows.
    pub cedt: Option<&'a [u8]>,
    /// The sum of the bytes of the table of tables (XSDT or RSDT), modulo 256: 0 if its checksum is
    /// right, or if the tables were found without it.
    pub root_checksum: u8,
}
