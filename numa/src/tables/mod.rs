//! Firmware tables, read in place.

/// The tables that describe topology, whole, header included.
#[derive(Debug, Clone, Copy, Default)]
pub struct FirmwareTables<'a> {
    /// Interrupt controllers, so CPUs ("APIC").
    pub madt: Option<&'a [u8]>,
    /// Which CPUs and memory ranges are in which proximity domain.
    pub srat: Option<&'a [u8]>,
    /// Distances.
    pub slit: Option<&'a [u8]>,
    /// Latencies, bandwidths, memory-side caches.
    pub hmat: Option<&'a [u8]>,
    /// CXL windows.
    pub cedt: Option<&'a [u8]>,
}

/// Something in the tables was wrong, and what was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostic {}
