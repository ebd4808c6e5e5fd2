//! CEDT: CXL host bridges and the address windows of their memory. CXL 3.0, section 9.17.1.

use super::header::{HEADER, Verified};
use super::structures::{Layout, Structure, Structures};
use super::{Table, TableError};

/// A verified CEDT.
#[derive(Debug, Clone, Copy)]
pub struct Cedt<'a>(Verified<'a>);

/// A structure of the CEDT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CedtEntry {
    /// A host bridge's registers (CHBS, type 0).
    HostBridge {
        /// The number of its object in the AML namespace.
        uid: u32,
        /// The address of the registers.
        base: u64,
        /// The bytes of the registers.
        bytes: u64,
    },
    /// A fixed memory window (CFMWS, type 1).
    Window {
        /// The first address.
        base: u64,
        /// The bytes of the window.
        bytes: u64,
        /// The memory that may be bound to it: bit 2 volatile, bit 3 persistent memory.
        restrictions: u16,
    },
    /// Another structure, by its type.
    Other(u16),
}

impl<'a> Cedt<'a> {
    /// Verifies the header. A wrong checksum is accepted if every structure is whole.
    ///
    /// # Errors
    ///
    /// Returns [`TableError`] if the signature or the length is wrong, or if the checksum is wrong
    /// and a structure is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Cedt<'a>, TableError> {
        let table = Cedt(Verified::new(Table::Cedt, bytes, HEADER)?);
        table.0.accept(Table::Cedt, || table.entries().all(|entry| entry.is_ok()))?;
        Ok(table)
    }

    /// Returns the sum of the table's bytes, modulo 256: 0 if its checksum is right.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.0.sum
    }

    /// Returns the structures, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = Result<CedtEntry, TableError>> + use<'a> {
        Structures::new(Table::Cedt, Layout::Cedt, self.0.bytes, HEADER).map(|structure| entry(&structure?))
    }
}

fn entry(structure: &Structure<'_>) -> Result<CedtEntry, TableError> {
    match structure.kind {
        0 => {
            let fields = structure.fields(32)?;
            Ok(CedtEntry::HostBridge { uid: fields.u32(4), base: fields.u64(16), bytes: fields.u64(24) })
        }
        1 => {
            let fields = structure.fields(36)?;
            Ok(CedtEntry::Window { base: fields.u64(8), bytes: fields.u64(16), restrictions: fields.u16(32) })
        }
        other => Ok(CedtEntry::Other(other)),
    }
}
