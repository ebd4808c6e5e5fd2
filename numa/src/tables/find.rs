//! From the RSDP to the tables. The `acpi` crate verifies the RSDP.

use core::fmt;
use core::mem::{ManuallyDrop, size_of};

use acpi::rsdp::Rsdp;
use acpi::{AcpiError, AcpiHandler};
use topomem_percpu::PhysAddr;

use super::bytes::Fields;
use super::header::{HEADER, sum};
use super::{FirmwareTables, Table};

/// The maximum length of a table. No table of a real machine comes near: a larger length is
/// garbage, and is not read.
const MAX_BYTES: usize = 16 << 20;

/// The end of the physical address space: no processor has more than 52 bits of it.
const MAX_PHYSICAL: u64 = 1 << 52;

/// An error of the search for the tables.
#[derive(Debug)]
#[non_exhaustive]
pub enum FindTablesError {
    /// The RSDP is malformed.
    Rsdp(AcpiError),
    /// The RSDP states this many bytes, a length of no revision.
    RsdpLength(u32),
    /// The RSDP has no address of a table of tables (XSDT or RSDT), or an invalid one.
    NoRoot,
    /// The table of tables states this many bytes.
    RootLength {
        /// The address of the table.
        address: u64,
        /// The bytes.
        found: u32,
    },
    /// Another table is in place of the table of tables.
    RootSignature {
        /// The address of the table.
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

/// Finds MADT, SRAT, SLIT, HMAT and CEDT from the RSDP (revision 0 or 2) through XSDT or RSDT. If
/// there are several tables of one kind, the first counts.
///
/// The RSDP's checksum must be right: it distinguishes an RSDP from other bytes. A wrong checksum
/// of XSDT or RSDT is recorded in [`FirmwareTables::root_checksum`]. Those of the tables are
/// verified when the tables are parsed, so that [`Topology::discover`](crate::Topology::discover)
/// reports a broken table instead of missing it. Entries of XSDT or RSDT without an address, or
/// with an impossible one, are skipped and never mapped. Mappings of the tables are never undone.
///
/// # Errors
///
/// - [`FindTablesError::Rsdp`] if the RSDP is malformed.
/// - [`FindTablesError::RsdpLength`] if the RSDP has an impossible length.
/// - [`FindTablesError::NoRoot`] if the RSDP has no address of XSDT or RSDT.
/// - [`FindTablesError::RootLength`] or [`FindTablesError::RootSignature`] if XSDT or RSDT is
///   malformed.
///
/// # Safety
///
/// - `rsdp` is the address of an RSDP, and the addresses in it and in its tables are those of
///   tables or 0; the memory is not written to as long as the slices are used.
/// - Memory mapped by `handler` stays readable at the returned address until `handler` is asked to
///   unmap it.
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

/// The table of tables.
struct Root {
    address: PhysAddr,
    signature: [u8; 4],
    /// Bytes in each entry.
    entry: usize,
}

/// Returns the address of the XSDT, or of the RSDT if there is no XSDT.
///
/// # Safety
///
/// As for [`find_tables`].
unsafe fn root_address<H: AcpiHandler>(handler: &H, rsdp: PhysAddr) -> Result<Root, FindTablesError> {
    let at = rsdp.as_u64() as usize;
    // SAFETY: the caller promises an RSDP there. `acpi` reads one of revision 0 as if it had the
    // 36 bytes of revision 2 as well.
    let rsdp = unsafe { handler.map_physical_region::<Rsdp>(at, size_of::<Rsdp>()) };
    // `validate` reads as many bytes as the RSDP states, which must not exceed the mapped bytes.
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

/// Returns the address, unless it is 0 or beyond the physical address space.
fn table_address(address: u64) -> Option<PhysAddr> {
    (address != 0 && address < MAX_PHYSICAL).then(|| PhysAddr::new(address))
}

/// Returns the bytes of the table at `address`, or only its header if the table states an
/// impossible length: the parser then reports the error.
///
/// # Safety
///
/// As for [`find_tables`], with a table at `address`.
unsafe fn table<H: AcpiHandler>(handler: &H, address: PhysAddr) -> &'static [u8] {
    let at = address.as_u64() as usize;
    // SAFETY: the caller promises a table there; all of them start with a header.
    let header = unsafe { handler.map_physical_region::<[u8; HEADER]>(at, HEADER) };
    let stated = Fields(&*header).u32(4) as usize;
    drop(header);
    let bytes = if (HEADER..=MAX_BYTES).contains(&stated) { stated } else { HEADER };
    // SAFETY: as above, and the table has as many bytes as its header states.
    let mapping = ManuallyDrop::new(unsafe { handler.map_physical_region::<u8>(at, bytes) });
    // SAFETY: the handler mapped that many bytes; the mapping is never undone, and the caller
    // promises that they are not written to.
    unsafe { core::slice::from_raw_parts(mapping.virtual_start().as_ptr(), bytes) }
}
