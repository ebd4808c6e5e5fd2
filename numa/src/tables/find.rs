//! From the RSDP to the tables. The `acpi` crate verifies the RSDP.

use core::fmt;
use core::mem::{ManuallyDrop, size_of};

use acpi::rsdp::Rsdp;
use acpi::{AcpiError, AcpiHandler};
use x86_64::PhysAddr;

use super::bytes::Fields;
use super::header::{HEADER, sum};
use super::{FirmwareTables, Table};

/// No table of a real machine comes near: a larger length is garbage, and is not read.
const MAX_BYTES: usize = 16 << 20;

/// Why no tables were found.
#[derive(Debug)]
pub enum FindTablesError {
    /// The RSDP is malformed.
    Rsdp(AcpiError),
    /// The RSDP states this many bytes, which no revision has.
    RsdpLength(u32),
    /// The RSDP names no table of tables (XSDT or RSDT), or an address that is none.
    NoRoot,
    /// The table of tables states this many bytes.
    RootLength {
        /// Where the table is.
        address: u64,
        /// The bytes.
        found: u32,
    },
    /// There is another table where the table of tables should be.
    RootSignature {
        /// Where the table is.
        address: u64,
        /// The signature found.
        found: [u8; 4],
    },
}

impl fmt::Display for FindTablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindTablesError::Rsdp(error) => write!(f, "RSDP: {error:?}"),
            FindTablesError::RsdpLength(found) => write!(f, "RSDP states {found} bytes"),
            FindTablesError::NoRoot => f.write_str("RSDP names neither XSDT nor RSDT"),
            FindTablesError::RootLength { address, found } => {
                write!(f, "XSDT or RSDT at {address:#x} states {found} bytes")
            }
            FindTablesError::RootSignature { address, found } => {
                write!(f, "no XSDT or RSDT at {address:#x}, but {:?}", found.escape_ascii())
            }
        }
    }
}

impl core::error::Error for FindTablesError {}

/// Finds MADT, SRAT, SLIT, HMAT and CEDT from the RSDP (revision 0 or 2) through XSDT or RSDT. Of
/// several tables of one kind the first counts.
///
/// The RSDP's checksum must be right: it is what tells an RSDP from other bytes. A wrong checksum of
/// XSDT or RSDT is noted in [`FirmwareTables::root_checksum`]; those of the tables are verified when the
/// tables are parsed, so that [`Topology::discover`](crate::Topology::discover) names a broken table
/// instead of missing it. Entries of XSDT or RSDT without an address, or with an impossible one, are
/// skipped and never mapped. Mappings of the tables are never undone.
///
/// # Errors
/// [`FindTablesError`] where RSDP, XSDT or RSDT are malformed.
///
/// # Safety
/// - `rsdp` is the address of an RSDP, and the addresses in it and in the tables that it leads to
///   are those of tables or 0; the memory is not written to as long as the slices are used.
/// - What `handler` maps stays readable at the address it gave until it is told to unmap it.
pub unsafe fn find_tables<H: AcpiHandler>(
    handler: H,
    rsdp: PhysAddr,
) -> Result<FirmwareTables<'static>, FindTablesError> {
    // SAFETY: the caller promises an RSDP at that address.
    let root = unsafe { root_address(&handler, rsdp) }?;
    // SAFETY: the caller promises that a valid RSDP's addresses are those of tables.
    let bytes = unsafe { table(&handler, root.address) };
    let fields = Fields(bytes);
    let (address, found) = (root.address.as_u64(), fields.u32(0).to_le_bytes());
    if found != root.signature {
        return Err(FindTablesError::RootSignature { address, found });
    }
    if fields.u32(4) as usize != bytes.len() {
        return Err(FindTablesError::RootLength { address, found: fields.u32(4) });
    }
    let mut tables = FirmwareTables { root_checksum: sum(bytes), ..FirmwareTables::default() };
    for entry in bytes[HEADER..].chunks_exact(root.entry) {
        let address = if root.entry == 4 { u64::from(Fields(entry).u32(0)) } else { Fields(entry).u64(0) };
        let Some(address) = table_address(address) else { continue };
        // SAFETY: the caller promises a table there; all of them start with a header.
        let header =
            unsafe { handler.map_physical_region::<[u8; HEADER]>(address.as_u64() as usize, HEADER) };
        let signature = Fields(&*header).u32(0).to_le_bytes();
        drop(header);
        let place = match Table::from_signature(signature) {
            Some(Table::Madt) => &mut tables.madt,
            Some(Table::Srat) => &mut tables.srat,
            Some(Table::Slit) => &mut tables.slit,
            Some(Table::Hmat) => &mut tables.hmat,
            Some(Table::Cedt) => &mut tables.cedt,
            None => continue,
        };
        if place.is_none() {
            // SAFETY: as above.
            *place = Some(unsafe { table(&handler, address) });
        }
    }
    Ok(tables)
}

/// Where the table of tables is.
struct Root {
    address: PhysAddr,
    signature: [u8; 4],
    /// Bytes in each entry.
    entry: usize,
}

/// The address of the XSDT, or of the RSDT where there is no XSDT.
///
/// # Safety
/// As [`find_tables`].
unsafe fn root_address<H: AcpiHandler>(handler: &H, rsdp: PhysAddr) -> Result<Root, FindTablesError> {
    let at = rsdp.as_u64() as usize;
    // SAFETY: the caller promises an RSDP there. `acpi` reads one of revision 0 as if it had the
    // 36 bytes of revision 2 as well.
    let rsdp = unsafe { handler.map_physical_region::<Rsdp>(at, size_of::<Rsdp>()) };
    // `validate` reads as many bytes as the RSDP states: no more than are mapped, please.
    if rsdp.revision() > 0 && rsdp.length() as usize > rsdp.mapped_length() {
        return Err(FindTablesError::RsdpLength(rsdp.length()));
    }
    rsdp.validate().map_err(FindTablesError::Rsdp)?;
    let xsdt = if rsdp.revision() > 0 { table_address(rsdp.xsdt_address()) } else { None };
    if let Some(address) = xsdt {
        return Ok(Root { address, signature: *b"XSDT", entry: 8 });
    }
    let address = table_address(u64::from(rsdp.rsdt_address())).ok_or(FindTablesError::NoRoot)?;
    Ok(Root { address, signature: *b"RSDT", entry: 4 })
}

/// The address, unless it is 0 or beyond the physical address space.
fn table_address(address: u64) -> Option<PhysAddr> {
    PhysAddr::try_new(address).ok().filter(|address| !address.is_null())
}

/// The bytes of the table at `address`, or only its header if the table states an impossible length:
/// the parser says what is wrong.
///
/// # Safety
/// As [`find_tables`], with a table at `address`.
unsafe fn table<H: AcpiHandler>(handler: &H, address: PhysAddr) -> &'static [u8] {
    let at = address.as_u64() as usize;
    // SAFETY: the caller promises a table there; all of them start with a header.
    let header = unsafe { handler.map_physical_region::<[u8; HEADER]>(at, HEADER) };
    let stated = Fields(&*header).u32(4) as usize;
    drop(header);
    let bytes = if (HEADER..=MAX_BYTES).contains(&stated) { stated } else { HEADER };
    // SAFETY: as above, and the table has as many bytes as its header states.
    let mapping = ManuallyDrop::new(unsafe { handler.map_physical_region::<u8>(at, bytes) });
    // SAFETY: the handler mapped that many bytes; the mapping is never undone, and the caller promises
    // that nobody writes to them.
    unsafe { core::slice::from_raw_parts(mapping.virtual_start().as_ptr(), bytes) }
}
