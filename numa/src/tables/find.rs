//! From the RSDP to the tables, through the `acpi` crate.

use core::fmt;
use core::mem::{ManuallyDrop, size_of};

use acpi::rsdp::Rsdp;
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};
use x86_64::PhysAddr;

use super::FirmwareTables;

/// No table of a real machine comes near: a larger length is garbage, and is not read.
const MAX_BYTES: usize = 16 << 20;

/// Why no tables were found.
#[derive(Debug)]
pub enum FindTablesError {
    /// The RSDP is malformed.
    Rsdp(AcpiError),
    /// The RSDP states this many bytes, which no revision has.
    RsdpLength(u32),
    /// The table of tables (XSDT or RSDT) states this many bytes.
    RootLength {
        /// Where the table is.
        address: u64,
        /// The bytes.
        found: u32,
    },
    /// The table of tables is malformed.
    Root(AcpiError),
}

impl fmt::Display for FindTablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindTablesError::Rsdp(error) => write!(f, "RSDP: {error:?}"),
            FindTablesError::RsdpLength(found) => write!(f, "RSDP states {found} bytes"),
            FindTablesError::RootLength { address, found } => {
                write!(f, "XSDT or RSDT at {address:#x} states {found} bytes")
            }
            FindTablesError::Root(error) => write!(f, "XSDT or RSDT: {error:?}"),
        }
    }
}

impl core::error::Error for FindTablesError {}

/// Finds MADT, SRAT, SLIT, HMAT and CEDT from the RSDP (revision 0 or 2) through XSDT or RSDT.
///
/// Checksums of RSDP, XSDT and RSDT are verified here; those of the tables when they are parsed,
/// so that [`Topology::discover`](crate::Topology::discover) names a broken table instead of
/// missing it. Mappings of the tables are never undone.
///
/// # Errors
/// [`FindTablesError`] where RSDP, XSDT or RSDT are malformed.
///
/// # Safety
/// - `rsdp` is the address of an RSDP, and the addresses in it and in the tables that it leads to
///   are those of tables; the memory is not written to as long as the slices are used.
/// - What `handler` maps stays readable at the address it gave until it is told to unmap it.
pub unsafe fn find_tables<H: AcpiHandler>(
    handler: H,
    rsdp: PhysAddr,
) -> Result<FirmwareTables<'static>, FindTablesError> {
    // SAFETY: the caller promises an RSDP at that address.
    let tables = unsafe { root(handler, rsdp) }?;
    // SAFETY: the caller promises tables behind the root's addresses, and lasting mappings.
    unsafe {
        Ok(FirmwareTables {
            madt: table::<H, Madt>(&tables),
            srat: table::<H, Srat>(&tables),
            slit: table::<H, Slit>(&tables),
            hmat: table::<H, Hmat>(&tables),
            cedt: table::<H, Cedt>(&tables),
        })
    }
}

/// The table of tables, its length checked before `acpi` relies on it.
///
/// # Safety
/// As [`find_tables`].
unsafe fn root<H: AcpiHandler>(handler: H, rsdp: PhysAddr) -> Result<AcpiTables<H>, FindTablesError> {
    let at = rsdp.as_u64() as usize;
    // SAFETY: the caller promises an RSDP there. `acpi` reads one of revision 0 as if it had the
    // 36 bytes of revision 2 as well.
    let rsdp = unsafe { handler.map_physical_region::<Rsdp>(at, size_of::<Rsdp>()) };
    // `validate` reads as many bytes as the RSDP states: no more than are mapped, please.
    if rsdp.revision() > 0 && rsdp.length() as usize > rsdp.mapped_length() {
        return Err(FindTablesError::RsdpLength(rsdp.length()));
    }
    rsdp.validate().map_err(FindTablesError::Rsdp)?;
    let xsdt = if rsdp.revision() > 0 { rsdp.xsdt_address() } else { 0 };
    let (revision, address) =
        if xsdt != 0 { (rsdp.revision(), xsdt) } else { (0, u64::from(rsdp.rsdt_address())) };
    drop(rsdp);
    // SAFETY: the caller promises that a valid RSDP's addresses are those of tables.
    let header =
        unsafe { handler.map_physical_region::<SdtHeader>(address as usize, size_of::<SdtHeader>()) };
    let found = header.length;
    drop(header);
    if !(size_of::<SdtHeader>()..=MAX_BYTES).contains(&(found as usize)) {
        return Err(FindTablesError::RootLength { address, found });
    }
    // SAFETY: as above.
    unsafe { AcpiTables::from_rsdt(handler, revision, address as usize) }.map_err(FindTablesError::Root)
}

/// The bytes of table `T`, where there is one.
///
/// # Safety
/// As [`find_tables`].
unsafe fn table<H: AcpiHandler, T: AcpiTable>(tables: &AcpiTables<H>) -> Option<&'static [u8]> {
    let mapping: ManuallyDrop<PhysicalMapping<H, T>> = ManuallyDrop::new(tables.find_table::<T>().ok()?);
    let stated = mapping.get().header().length as usize;
    // Of a table with an impossible length only the header is given: the parser says what is wrong.
    let bytes = if stated > MAX_BYTES { size_of::<SdtHeader>() } else { stated.max(size_of::<SdtHeader>()) };
    // SAFETY: `acpi` mapped the header and the stated length; the mapping is never undone, and
    // the caller promises that nobody writes to it.
    Some(unsafe { core::slice::from_raw_parts(mapping.virtual_start().as_ptr().cast::<u8>(), bytes) })
}

/// Tables known by their signature alone: the bytes are for our own parsers.
macro_rules! tables {
    ($($name:ident: $signature:expr;)*) => {$(
        #[repr(transparent)]
        struct $name(SdtHeader);

        // SAFETY: the type is the header that every table starts with, and no more.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = $signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }

            /// The parsers verify, and say more than "missing".
            fn validate(&self) -> AcpiResult<()> {
                Ok(())
            }
        }
    )*};
}

tables! {
    Madt: Signature::MADT;
    Srat: Signature::SRAT;
    Slit: Signature::SLIT;
    // `acpi` 5.2 has no name for the HMAT, and no constructor.
    // SAFETY: `Signature` is a transparent wrapper of four bytes, any of which are valid.
    Hmat: unsafe { core::mem::transmute::<[u8; 4], Signature>(*b"HMAT") };
    Cedt: Signature::CEDT;
}
