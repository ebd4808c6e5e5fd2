//! SRAT: which CPUs, memory and devices are in which proximity domain. ACPI 6.5, section 5.2.16.

use super::header::{HEADER, Verified};
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
    /// How many bytes; QEMU writes spare entries without any.
    pub bytes: u64,
    /// Is the entry to be used?
    pub enabled: bool,
    /// May memory be plugged in and out here?
    pub hot_pluggable: bool,
    /// Does it keep its contents without power?
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
        /// Is the entry to be used?
        enabled: bool,
    },
    /// Memory (type 1).
    Memory(MemoryAffinity),
    /// A device that accesses memory by itself (type 5).
    GenericInitiator {
        /// The proximity domain.
        proximity: u32,
        /// Is the entry to be used?
        enabled: bool,
    },
    /// Some other structure, by its type.
    Other(u16),
}

impl<'a> Srat<'a> {
    const FIXED: usize = HEADER + 12;

    /// Verifies the header.
    ///
    /// # Errors
    /// [`TableError`] on a wrong signature, length or checksum.
    pub fn parse(bytes: &'a [u8]) -> Result<Srat<'a>, TableError> {
        Verified::new(Table::Srat, bytes, Srat::FIXED).map(Srat)
    }

    /// The structures, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = Result<SratEntry, TableError>> + use<'a> {
        // Before revision 2 (ACPI 3.0) a proximity domain had 8 bits, with junk above them.
        let mask = if self.0.revision < 2 { 0xff } else { u32::MAX };
        Structures::new(Table::Srat, Layout::Short, self.0.bytes, Srat::FIXED)
            .map(move |structure| entry(&structure?, mask))
    }

    /// The domain of a CPU, by its first enabled entry. Cost: linear in the table.
    #[must_use]
    pub fn proximity_of_cpu(&self, wanted: ApicId) -> Option<u32> {
        self.entries().find_map(|entry| match entry {
            Ok(SratEntry::Cpu { proximity, apic_id, enabled: true }) if apic_id == wanted => Some(proximity),
            _ => None,
        })
    }
}

fn entry(structure: &Structure<'_>, mask: u32) -> Result<SratEntry, TableError> {
    match structure.kind {
        0 => {
            let fields = structure.fields(16)?;
            let low = u32::from(fields.u8(2));
            // The upper three bytes came later, and apart from the lowest.
            let high = fields.u32(8) & 0xffff_ff00;
            Ok(SratEntry::Cpu {
                proximity: (low | high) & mask,
                apic_id: ApicId(u32::from(fields.u8(3))),
                enabled: fields.u32(4) & 1 != 0,
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
            Ok(SratEntry::Cpu {
                proximity: fields.u32(4),
                apic_id: ApicId(fields.u32(8)),
                enabled: fields.u32(12) & 1 != 0,
            })
        }
        5 => {
            let fields = structure.fields(32)?;
            Ok(SratEntry::GenericInitiator { proximity: fields.u32(4), enabled: fields.u32(24) & 1 != 0 })
        }
        other => Ok(SratEntry::Other(other)),
    }
}
