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
    /// A table's bytes do not add up to 0, but its structure holds: it is used.
    Checksum {
        /// Which table.
        table: Table,
        /// What its bytes add up to, modulo 256.
        sum: u8,
    },
    /// The bytes of the table of tables (XSDT or RSDT) do not add up to 0: it is used.
    RootChecksum {
        /// What its bytes add up to, modulo 256.
        sum: u8,
    },
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
    /// More ranges than fit: this one, or some of it, is node 0's, or its neighbours'.
    TooManyRanges(MemoryRange),
    /// More than [`MAX_NODES`] nodes: this CXL window is node 0's.
    TooManyWindows(MemoryRange),
    /// A range that reaches the end of the 52-bit physical address space or beyond: the part below the
    /// last frame is kept.
    ClampedRange {
        /// Where it is.
        table: Table,
        /// Its first address.
        base: u64,
        /// Its bytes.
        bytes: u64,
        /// What is kept.
        kept: MemoryRange,
    },
    /// Without memory in the SRAT, a CXL window lies below 4 GiB, where boot memory is: this part of
    /// the window is node 0's.
    WindowOverBootMemory(MemoryRange),
    /// An empty range, or one outside the 52-bit physical address space: left out.
    ImpossibleRange {
        /// Where it is.
        table: Table,
        /// Its first address.
        base: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// Two domains claim memory: it goes to the one whose range is smaller, so more specific, or
    /// comes first if both are of one size.
    OverlappingRanges {
        /// The domain that has it.
        owner: u32,
        /// The domain that does not get it.
        other: u32,
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
    /// The SLIT calls all memory of other nodes unreachable from this domain: it falls back to all nodes
    /// all the same.
    ReachesNobody {
        /// The domain.
        proximity: u32,
    },
    /// The table speaks of a domain without CPUs, memory or initiators: disregarded. Said once for
    /// each domain.
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
    /// Diagnostics that are not given, since many of their kind are. It comes last.
    LeftOut {
        /// How many.
        count: u32,
    },
}

impl Diagnostic {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 20;

    /// The number of its kind, below [`Diagnostic::KINDS`].
    pub(crate) const fn kind(&self) -> usize {
        match self {
            Diagnostic::Table(_) => 0,
            Diagnostic::Checksum { .. } => 1,
            Diagnostic::RootChecksum { .. } => 2,
            Diagnostic::BootCpuMissing(_) => 3,
            Diagnostic::DuplicateCpu(_) => 4,
            Diagnostic::TooManyCpus(_) => 5,
            Diagnostic::CpuWithoutAffinity(_) => 6,
            Diagnostic::TooManyNodes { .. } => 7,
            Diagnostic::TooManyRanges(_) => 8,
            Diagnostic::TooManyWindows(_) => 9,
            Diagnostic::ClampedRange { .. } => 10,
            Diagnostic::WindowOverBootMemory(_) => 11,
            Diagnostic::ImpossibleRange { .. } => 12,
            Diagnostic::OverlappingRanges { .. } => 13,
            Diagnostic::ImpossibleDistance { .. } => 14,
            Diagnostic::NoDistances { .. } => 15,
            Diagnostic::ReachesNobody { .. } => 16,
            Diagnostic::UnknownProximity { .. } => 17,
            Diagnostic::FigureTooLarge { .. } => 18,
            Diagnostic::LeftOut { .. } => 19,
        }
    }
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
            Diagnostic::Checksum { table, sum } => {
                write!(f, "{table} has the checksum {sum:#04x}, not 0: used, since its structure holds")
            }
            Diagnostic::RootChecksum { sum } => {
                write!(f, "XSDT or RSDT has the checksum {sum:#04x}, not 0: used all the same")
            }
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
            Diagnostic::TooManyWindows(range) => {
                write!(f, "the CXL window {range} is node 0's: {MAX_NODES} nodes at most")
            }
            Diagnostic::ClampedRange { table, base, bytes, kept } => {
                write!(
                    f,
                    "{table} has a range up to the end of physical addresses or beyond, {bytes:#x} bytes at \
                     {base:#x}: {kept} is kept"
                )
            }
            Diagnostic::WindowOverBootMemory(range) => {
                write!(f, "a CXL window covers {range}, where boot memory is: it is node 0's")
            }
            Diagnostic::ImpossibleRange { table, base, bytes } => {
                write!(f, "{table} has an impossible range: {bytes:#x} bytes at {base:#x}")
            }
            Diagnostic::OverlappingRanges { owner, other, range } => {
                write!(f, "domains {owner} and {other} both claim {range}: it is {owner}'s")
            }
            Diagnostic::ImpossibleDistance { from, to, found } => {
                write!(f, "SLIT disregarded: domain {from} cannot be {found} from domain {to}")
            }
            Diagnostic::NoDistances { proximity, localities } => {
                write!(f, "SLIT has {localities} domains, so none of domain {proximity}'s distances")
            }
            Diagnostic::ReachesNobody { proximity } => {
                write!(f, "SLIT lets domain {proximity} reach no memory: it falls back to all nodes")
            }
            Diagnostic::UnknownProximity { table, proximity } => {
                write!(f, "{table} speaks of domain {proximity}, which has no CPUs, memory or initiators")
            }
            Diagnostic::FigureTooLarge { initiator, target, entry, base_unit } => {
                write!(f, "HMAT: {entry} times {base_unit} is too large, domain {initiator} to {target}")
            }
            Diagnostic::LeftOut { count } => write!(f, "and {count} more of these kinds"),
        }
    }
}

impl core::error::Error for Diagnostic {}
