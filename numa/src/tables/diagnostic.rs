//! What discovery found wrong, and what it made of it.

use core::fmt;

use topomem_percpu::{MAX_CPUS, MAX_NODES};

use super::{Table, TableError};
use crate::{ApicId, MemoryRange};

/// Something in the tables was wrong; each variant says what discovery did instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostic {
    /// A malformed table or structure: what could not be read is as if it were not there.
    Table(TableError),
    /// No enabled CPU has the boot CPU's id: it was added.
    BootCpuMissing(ApicId),
    /// A CPU came twice: the first counts.
    DuplicateCpu(ApicId),
    /// More than [`MAX_CPUS`] CPUs: this one is left out.
    TooManyCpus(ApicId),
    /// The SRAT does not place this CPU: it is on node 0.
    CpuWithoutAffinity(ApicId),
    /// More than [`MAX_NODES`] nodes: this domain is left out, its CPUs and memory are node 0's.
    TooManyNodes {
        /// The domain.
        proximity: u32,
    },
    /// More ranges than fit: this one, or some of it, is node 0's.
    TooManyRanges(MemoryRange),
    /// An empty range, or one that leaves the 52-bit physical address space: left out.
    ImpossibleRange {
        /// Where it is.
        table: Table,
        /// Its first address.
        base: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// Two domains claim memory: it is the first's.
    OverlappingRanges {
        /// The domain that keeps it.
        first: u32,
        /// The domain that does not get it.
        second: u32,
        /// What they both claim.
        range: MemoryRange,
    },
    /// A SLIT value that cannot be: the whole SLIT is disregarded for 10 and 20.
    ImpossibleDistance {
        /// The domain of the row.
        from: u32,
        /// The domain of the column.
        to: u32,
        /// The value.
        found: u8,
    },
    /// The SLIT lacks this domain: its distances are 20.
    NoDistances {
        /// The domain.
        proximity: u32,
        /// The domains that the SLIT has, from 0.
        localities: usize,
    },
    /// The table speaks of a domain without CPUs, memory or initiators: disregarded.
    UnknownProximity {
        /// Which table.
        table: Table,
        /// The domain.
        proximity: u32,
    },
    /// An HMAT figure that does not fit 32 bits of its unit: disregarded.
    FigureTooLarge {
        /// The initiator's domain.
        initiator: u32,
        /// The target's domain.
        target: u32,
        /// The matrix entry.
        entry: u16,
        /// The unit that it counts.
        base_unit: u64,
    },
}

impl From<TableError> for Diagnostic {
    fn from(error: TableError) -> Diagnostic {
        Diagnostic::Table(error)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Diagnostic::Table(error) => error.fmt(f),
            Diagnostic::BootCpuMissing(apic) => write!(f, "no enabled CPU is the boot CPU, {apic}"),
            Diagnostic::DuplicateCpu(apic) => write!(f, "{apic} comes twice"),
            Diagnostic::TooManyCpus(apic) => write!(f, "{apic} is left out: {MAX_CPUS} CPUs at most"),
            Diagnostic::CpuWithoutAffinity(apic) => {
                write!(f, "{apic} has no proximity domain: taken for node 0's")
            }
            Diagnostic::TooManyNodes { proximity } => {
                write!(f, "domain {proximity} is left out: {MAX_NODES} nodes at most")
            }
            Diagnostic::TooManyRanges(range) => write!(f, "no room for the range {range}"),
            Diagnostic::ImpossibleRange { table, base, bytes } => {
                write!(f, "{table} has an impossible range: {bytes:#x} bytes at {base:#x}")
            }
            Diagnostic::OverlappingRanges { first, second, range } => {
                write!(f, "domains {first} and {second} both claim {range}: it is {first}'s")
            }
            Diagnostic::ImpossibleDistance { from, to, found } => {
                write!(f, "SLIT disregarded: domain {from} cannot be {found} from domain {to}")
            }
            Diagnostic::NoDistances { proximity, localities } => {
                write!(f, "SLIT has {localities} domains, so none of domain {proximity}'s distances")
            }
            Diagnostic::UnknownProximity { table, proximity } => {
                write!(f, "{table} speaks of domain {proximity}, which has nothing")
            }
            Diagnostic::FigureTooLarge { initiator, target, entry, base_unit } => {
                write!(f, "HMAT: {entry} times {base_unit} is too large, domain {initiator} to {target}")
            }
        }
    }
}

impl core::error::Error for Diagnostic {}
