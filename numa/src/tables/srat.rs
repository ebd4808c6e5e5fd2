//! SRAT: the proximity domains of CPUs, memory and devices. ACPI 6.5, section 5.2.16.

use super::bytes::Fields;
use super::header::{HEADER, Verified};
use super::madt::sapic_id;
use super::structures::{Layout, Structure, Structures};
use super::{Table, TableError};
use crate::ApicId;

/// A verified SRAT.
///
/// ```
/// use topomem_numa::tables::{Srat, Table, TableError};
///
/// let cut_off = Srat::parse(b"SRAT");
/// let error = TableError::Truncated { table: Table::Srat, found: 4, needed: 36 };
/// assert_eq!(cut_off.unwrap_err(), error);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Srat<'a>(Verified<'a>);

/// A memory affinity structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryAffinity {
    /// The proximity domain.
    pub proximity: u32,
    /// The first address.
    pub base: u64,
    /// The number of bytes; QEMU writes spare entries without any.
    pub bytes: u64,
    /// Whether the entry is to be used.
    pub enabled: bool,
    /// Whether memory may be plugged in and out here.
    pub hot_pluggable: bool,
    /// Whether it keeps its contents without power.
    pub non_volatile: bool,
}

/// A structure of the SRAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SratEntry {
    /// A CPU (types 0 and 2).
    Cpu {
        /// The proximity domain.
        proximity: u32,
        /// The CPU.
        apic_id: ApicId,
        /// The CPU, if MADT has local SAPICs; `None` by type 2.
        sapic_id: Option<ApicId>,
        /// Is the entry to be used?
        enabled: bool,
    },
    /// Memory (type 1).
    Memory(MemoryAffinity),
    /// A device that accesses memory by itself (type 5).
    GenericInitiator {
        /// The proximity domain.
        proximity: u32,
        /// Whether the entry is to be used.
        enabled: bool,
    },
    /// Another structure, by its type.
    Other(u16),
}

impl<'a> Srat<'a> {
    const FIXED: usize = HEADER + 12;

    /// Verifies the header. A wrong checksum is accepted if every structure is whole.
    ///
    /// # Errors
    ///
    /// Returns [`TableError`] if the signature or the length is wrong, or if the checksum is wrong
    /// and a structure is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Srat<'a>, TableError> {
        let table = Srat(Verified::new(Table::Srat, bytes, Srat::FIXED)?);
        table.0.accept(Table::Srat, || table.entries().all(|entry| entry.is_ok()))?;
        Ok(table)
    }

    /// Returns the sum of the table's bytes, modulo 256: 0 if its checksum is right.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.0.sum
    }

    /// Returns the structures, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = Result<SratEntry, TableError>> + use<'a> {
        let mask = self.domain_mask();
        Structures::new(Table::Srat, Layout::Short, self.0.bytes, Srat::FIXED)
            .map(move |structure| entry(&structure?, mask))
    }

    /// Returns every proximity domain named by a structure of any kind, enabled or not, possibly
    /// repeated. Structures that are too short are left out.
    pub fn domains(&self) -> impl Iterator<Item = u32> + use<'a> {
        let mask = self.domain_mask();
        Structures::new(Table::Srat, Layout::Short, self.0.bytes, Srat::FIXED)
            .filter_map(move |structure| domain(&structure.ok()?, mask))
    }

    /// Returns the bits of a proximity domain: before revision 2 (ACPI 3.0) it had 8, with junk
    /// above them.
    fn domain_mask(&self) -> u32 {
        if self.0.revision < 2 { 0xff } else { u32::MAX }
    }

    /// Returns the domain of a CPU, by its first enabled entry. Cost: linear in the table.
    #[must_use]
    pub fn proximity_of_cpu(&self, wanted: ApicId) -> Option<u32> {
        self.entries().find_map(|entry| match entry {
            Ok(SratEntry::Cpu { proximity, apic_id, enabled: true, .. }) if apic_id == wanted => {
                Some(proximity)
            }
            _ => None,
        })
    }

    /// The domain of a CPU of a machine with local SAPICs ([`Madt::has_sapics`](super::Madt::has_sapics)), by its
    /// first enabled entry. Cost: linear in the table.
    #[must_use]
    pub fn proximity_of_sapic(&self, wanted: ApicId) -> Option<u32> {
        self.entries().find_map(|entry| match entry {
            Ok(SratEntry::Cpu { proximity, apic_id, sapic_id, enabled: true })
                if sapic_id.unwrap_or(apic_id) == wanted =>
            {
                Some(proximity)
            }
            _ => None,
        })
    }
}

fn entry(structure: &Structure<'_>, mask: u32) -> Result<SratEntry, TableError> {
    match structure.kind {
        0 => {
            let fields = structure.fields(16)?;
            let id = fields.u8(3);
            Ok(SratEntry::Cpu {
                proximity: split_domain(fields) & mask,
                apic_id: ApicId(u32::from(id)),
                sapic_id: Some(sapic_id(id, fields.u8(8))),
                // 255 addresses all local APICs, so no single one.
                enabled: fields.u32(4) & 1 != 0 && id != u8::MAX,
            })
        }
        1 => {
            let fields = structure.fields(40)?;
            let flags = fields.u32(28);
            Ok(SratEntry::Memory(MemoryAffinity {
                proximity: fields.u32(2) & mask,
                base: fields.u64(8),
                bytes: fields.u64(16),
                enabled: flags & 1 != 0,
                hot_pluggable: flags & 2 != 0,
                non_volatile: flags & 4 != 0,
            }))
        }
        2 => {
            let fields = structure.fields(24)?;
            let id = fields.u32(8);
            Ok(SratEntry::Cpu {
                proximity: fields.u32(4),
                apic_id: ApicId(id),
                sapic_id: None,
                // As 255 above.
                enabled: fields.u32(12) & 1 != 0 && id != u32::MAX,
            })
        }
        5 => {
            let fields = structure.fields(32)?;
            Ok(SratEntry::GenericInitiator { proximity: fields.u32(4), enabled: fields.u32(24) & 1 != 0 })
        }
        other => Ok(SratEntry::Other(other)),
    }
}

/// Returns the domain of a structure of type 0, whose upper three bytes were added later, and apart
/// from the lowest.
fn split_domain(fields: Fields<'_>) -> u32 {
    u32::from(fields.u8(2)) | fields.u32(8) & 0xffff_ff00
}

/// Returns the domain named by a structure. Types 3, 4 and 7 belong to other architectures (GICC,
/// ITS and RINTC), and type 6 is a generic port: devices behind it are found later.
fn domain(structure: &Structure<'_>, mask: u32) -> Option<u32> {
    match structure.kind {
        0 => Some(split_domain(structure.fields(16).ok()?) & mask),
        1 => Some(structure.fields(40).ok()?.u32(2) & mask),
        3 | 4 => Some(structure.fields(6).ok()?.u32(2)),
        2 | 5 | 6 | 7 => Some(structure.fields(8).ok()?.u32(4)),
        _ => None,
    }
}
