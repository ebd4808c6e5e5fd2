//! MADT: the interrupt controllers, one per CPU. ACPI 6.5, section 5.2.12.

use super::bytes::Fields;
use super::header::{HEADER, Verified};
use super::structures::{Layout, Structure, Structures};
use super::{Table, TableError};
use crate::ApicId;

/// A verified MADT.
///
/// ```
/// use topomem_numa::tables::Madt;
///
/// assert!(Madt::parse(b"no table").is_err());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Madt<'a>(Verified<'a>);

/// Whether a CPU may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CpuState {
    /// Present, and ready to be started.
    Enabled,
    /// Absent; may be plugged in.
    OnlineCapable,
    /// Absent, or broken.
    Disabled,
}

impl CpuState {
    fn from_flags(flags: u32) -> CpuState {
        match flags & 3 {
            0 => CpuState::Disabled,
            2 => CpuState::OnlineCapable,
            _ => CpuState::Enabled,
        }
    }
}

/// A structure of the MADT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadtEntry {
    /// A CPU by its local APIC (type 0), x2APIC (type 9) or local SAPIC (type 7).
    Cpu {
        /// How interrupts reach it. Of a local SAPIC, the id above 8 bits of extended id, as SGI's UV machines
        /// number their CPUs.
        apic_id: ApicId,
        /// The number of its object in the AML namespace.
        processor_uid: u32,
        /// Whether it may be started.
        state: CpuState,
    },
    /// The address of the local APICs' registers, in place of [`Madt::local_apic_address`] (type
    /// 5).
    LocalApicAddress(u64),
    /// Another structure, by its type.
    Other(u16),
}

impl<'a> Madt<'a> {
    const FIXED: usize = HEADER + 8;

    /// Verifies the header. A wrong checksum is accepted if every structure is whole.
    ///
    /// # Errors
    ///
    /// Returns [`TableError`] if the signature or the length is wrong, or if the checksum is wrong
    /// and a structure is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Madt<'a>, TableError> {
        let table = Madt(Verified::new(Table::Madt, bytes, Madt::FIXED)?);
        table.0.accept(Table::Madt, || table.entries().all(|entry| entry.is_ok()))?;
        Ok(table)
    }

    /// Returns the sum of the table's bytes, modulo 256: 0 if its checksum is right.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.0.sum
    }

    /// Returns the address of the local APICs' registers, from the fixed part; an entry may
    /// override it.
    #[must_use]
    pub fn local_apic_address(&self) -> u32 {
        Fields(self.0.bytes).u32(36)
    }

    /// Returns true if the machine also has 8259 interrupt controllers, which must be masked.
    #[must_use]
    pub fn has_8259(&self) -> bool {
        Fields(self.0.bytes).u32(40) & 1 != 0
    }

    /// Does an enabled CPU have a local SAPIC? Then SRAT names local APICs by an extended id, too
    /// ([`Srat::proximity_of_sapic`](super::Srat::proximity_of_sapic)). Cost: linear in the table.
    #[must_use]
    pub fn has_sapics(&self) -> bool {
        let structures = Structures::new(Table::Madt, Layout::Short, self.0.bytes, Madt::FIXED);
        let is_enabled = |structure: &Structure<'_>| {
            structure.kind == 7 && structure.fields(12).is_ok_and(|fields| fields.u32(8) & 1 != 0)
        };
        structures.flatten().any(|structure| is_enabled(&structure))
    }

    /// The structures, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = Result<MadtEntry, TableError>> + use<'a> {
        Structures::new(Table::Madt, Layout::Short, self.0.bytes, Madt::FIXED)
            .map(|structure| entry(&structure?))
    }
}

/// Returns the number that addresses a CPU, of its local SAPIC's id and extended id.
pub(super) fn sapic_id(id: u8, extended: u8) -> ApicId {
    ApicId(u32::from(id) << 8 | u32::from(extended))
}

fn entry(structure: &Structure<'_>) -> Result<MadtEntry, TableError> {
    match structure.kind {
        0 => {
            let fields = structure.fields(8)?;
            let id = fields.u8(3);
            // 255 addresses all local APICs, so no single one: firmware marks absent CPUs with it.
            let state = if id == u8::MAX { CpuState::Disabled } else { CpuState::from_flags(fields.u32(4)) };
            Ok(MadtEntry::Cpu {
                apic_id: ApicId(u32::from(id)),
                processor_uid: u32::from(fields.u8(2)),
                state,
            })
        }
        5 => Ok(MadtEntry::LocalApicAddress(structure.fields(12)?.u64(4))),
        7 => {
            let fields = structure.fields(12)?;
            let id = sapic_id(fields.u8(3), fields.u8(4));
            // As 255 above.
            let state = if id.0 == 0xffff { CpuState::Disabled } else { CpuState::from_flags(fields.u32(8)) };
            // Before ACPI 3.0 there was no longer one.
            let uid = structure.fields(16).map_or(u32::from(fields.u8(2)), |fields| fields.u32(12));
            Ok(MadtEntry::Cpu { apic_id: id, processor_uid: uid, state })
        }
        9 => {
            let fields = structure.fields(16)?;
            let id = fields.u32(4);
            // As 255 above.
            let state = if id == u32::MAX { CpuState::Disabled } else { CpuState::from_flags(fields.u32(8)) };
            Ok(MadtEntry::Cpu { apic_id: ApicId(id), processor_uid: fields.u32(12), state })
        }
        other => Ok(MadtEntry::Other(other)),
    }
}
