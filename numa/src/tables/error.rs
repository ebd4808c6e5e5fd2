//! Errors in a table's bytes.

use core::fmt;

/// The tables that describe topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Multiple APIC Description Table, "APIC".
    Madt,
    /// System Resource Affinity Table.
    Srat,
    /// System Locality Information Table.
    Slit,
    /// Heterogeneous Memory Attribute Table.
    Hmat,
    /// CXL Early Discovery Table.
    Cedt,
}

impl Table {
    /// Returns the first four bytes of the table.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::tables::Table;
    /// assert_eq!(Table::from_signature(Table::Srat.signature()), Some(Table::Srat));
    /// ```
    #[must_use]
    pub const fn signature(self) -> [u8; 4] {
        match self {
            Table::Madt => *b"APIC",
            Table::Srat => *b"SRAT",
            Table::Slit => *b"SLIT",
            Table::Hmat => *b"HMAT",
            Table::Cedt => *b"CEDT",
        }
    }

    /// Returns the table whose first four bytes are `signature`.
    #[must_use]
    pub fn from_signature(signature: [u8; 4]) -> Option<Table> {
        let all = [Table::Madt, Table::Srat, Table::Slit, Table::Hmat, Table::Cedt];
        all.into_iter().find(|table| table.signature() == signature)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Madt => "MADT",
            Table::Srat => "SRAT",
            Table::Slit => "SLIT",
            Table::Hmat => "HMAT",
            Table::Cedt => "CEDT",
        })
    }
}

/// A table, or a structure in it, is malformed. Offsets count bytes from the table's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableError {
    /// The table has fewer bytes than its fixed part.
    Truncated {
        /// The table.
        table: Table,
        /// Its bytes.
        found: usize,
        /// The bytes of its fixed part.
        needed: usize,
    },
    /// The bytes are another table.
    Signature {
        /// The expected table.
        table: Table,
        /// The signature found.
        found: [u8; 4],
    },
    /// The header states more bytes than available.
    Length {
        /// The table.
        table: Table,
        /// The bytes stated by its header.
        stated: u32,
        /// The available bytes.
        available: usize,
    },
    /// The bytes do not add up to 0, and the structures are not whole either.
    Checksum {
        /// The table.
        table: Table,
        /// The sum of the bytes, modulo 256.
        sum: u8,
    },
    /// A structure has fewer bytes than its type needs. A structure shorter than its own header,
    /// including length 0, ends the reading of the table.
    StructureTooShort {
        /// The table.
        table: Table,
        /// The start of the structure.
        offset: usize,
        /// Its type.
        kind: u16,
        /// The bytes stated by the structure.
        found: usize,
        /// The bytes needed by its type.
        needed: usize,
    },
    /// A structure reaches beyond the table, which ends the reading of the table.
    StructureOverrun {
        /// The table.
        table: Table,
        /// The start of the structure.
        offset: usize,
        /// The bytes stated by the structure.
        stated: usize,
        /// The bytes left in the table.
        available: usize,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Truncated { table, found, needed } => {
                write!(f, "{table} has {found} bytes, its fixed part {needed}")
            }
            TableError::Signature { table, found } => {
                write!(f, "{table} has the signature {:?}", found.escape_ascii())
            }
            TableError::Length { table, stated, available } => {
                write!(f, "{table} states {stated} bytes, {available} are there")
            }
            TableError::Checksum { table, sum } => write!(f, "{table} has the checksum {sum:#04x}, not 0"),
            TableError::StructureTooShort { table, offset, kind, found, needed } => {
                write!(
                    f,
                    "{table} at {offset:#x}: a structure of type {kind} has {found} bytes, not {needed}"
                )
            }
            TableError::StructureOverrun { table, offset, stated, available } => {
                write!(f, "{table} at {offset:#x}: a structure of {stated} bytes, {available} are left")
            }
        }
    }
}

impl core::error::Error for TableError {}
