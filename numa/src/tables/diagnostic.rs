//! The faults found by discovery, and their treatment.

use core::fmt;

use topomem_percpu::MAX_CPUS;

use super::{Table, TableError};
use crate::{ApicId, MemoryRange};

/// A fault in the tables; each variant tells the treatment by discovery.
///
/// ```
/// use topomem_numa::{ApicId, FirmwareTables, Topology};
///
/// let tables = FirmwareTables { srat: Some(b"SRAT, but too short"), ..FirmwareTables::default() };
/// let mut errors = Vec::new();
/// Box::new(Topology::new()).discover(&tables, ApicId(0), &mut |error| errors.push(error.to_string()));
/// assert!(!errors.is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Diagnostic {
    /// A malformed table or structure: the unreadable part is ignored.
    Table(TableError),
    /// A table's bytes do not add up to 0, but the structures are whole: the table is used.
    Checksum {
        /// The table.
        table: Table,
        /// The sum of the table's bytes, modulo 256.
        sum: u8,
    },
    /// The bytes of the table of tables (XSDT or RSDT) do not add up to 0: the table is used.
    RootChecksum {
        /// The sum of the bytes, modulo 256.
        sum: u8,
    },
    /// No enabled CPU has the boot CPU's id: the boot CPU was added.
    BootCpuMissing(ApicId),
    /// A CPU occurs twice: the first entry counts.
    DuplicateCpu(ApicId),
    /// More than [`MAX_CPUS`] CPUs: the named CPU is left out.
    TooManyCpus(ApicId),
    /// The SRAT does not place the named CPU: the CPU is on node 0.
    CpuWithoutAffinity(ApicId),
    /// More nodes than there is room for: the domain is left out; CPUs and memory of the domain are node 0's.
    TooManyNodes {
        /// The domain.
        proximity: u32,
        /// The number of nodes that have room: at most [`MAX_NODES`](topomem_percpu::MAX_NODES), which
        /// [`Topology::discover_in`](crate::Topology::discover_in) makes room for.
        most: usize,
    },
    /// More ranges than supported: the named range, or a part of the range, belongs to node 0 or to
    /// the neighbours' nodes.
    TooManyRanges(MemoryRange),
    /// More nodes than there is room for: the CXL window is node 0's.
    TooManyWindows {
        /// The window.
        window: MemoryRange,
        /// The number of nodes that have room, as for [`Diagnostic::TooManyNodes`].
        most: usize,
    },
    /// A range reaches the end of the 52-bit physical address space or beyond: the part below the
    /// last frame is kept.
    ClampedRange {
        /// The table.
        table: Table,
        /// The first address of the range.
        base: u64,
        /// The bytes of the range.
        bytes: u64,
        /// The kept part.
        kept: MemoryRange,
    },
    /// Without memory in the SRAT, a CXL window lies below 4 GiB, where boot memory is: the named
    /// part of the window is node 0's.
    WindowOverBootMemory(MemoryRange),
    /// An empty range, or a range outside the 52-bit physical address space: left out.
    ImpossibleRange {
        /// The table.
        table: Table,
        /// The first address of the range.
        base: u64,
        /// The bytes of the range.
        bytes: u64,
    },
    /// Two domains claim memory: the domain with the smaller, more specific range gets the memory,
    /// or the first domain if both ranges have the same size.
    OverlappingRanges {
        /// The domain with the memory.
        owner: u32,
        /// The domain without the memory.
        other: u32,
        /// The memory claimed by both.
        range: MemoryRange,
    },
    /// An impossible SLIT value: the whole SLIT is replaced by 10 and 20.
    ImpossibleDistance {
        /// The domain of the row.
        from: u32,
        /// The domain of the column.
        to: u32,
        /// The value.
        found: u8,
    },
    /// The SLIT lacks the domain: all distances of the domain are 20.
    NoDistances {
        /// The domain.
        proximity: u32,
        /// The number of the SLIT's domains, numbered from 0.
        localities: usize,
    },
    /// The SLIT calls all memory of other nodes unreachable from the domain: the domain still falls
    /// back to all nodes.
    ReachesNobody {
        /// The domain.
        proximity: u32,
    },
    /// The table names a domain without CPUs, memory or initiators: ignored. Reported once for each
    /// domain.
    UnknownProximity {
        /// The table.
        table: Table,
        /// The domain.
        proximity: u32,
    },
    /// An HMAT figure beyond 32 bits of the unit: ignored.
    FigureTooLarge {
        /// The initiator's domain.
        initiator: u32,
        /// The target's domain.
        target: u32,
        /// The matrix entry.
        entry: u16,
        /// The unit of the entry.
        base_unit: u64,
    },
    /// The number of diagnostics omitted as too many of a kind. Reported last.
    LeftOut {
        /// The number.
        count: u32,
    },
}

impl Diagnostic {
    /// The number of kinds.
    pub(crate) const KINDS: usize = 20;

    /// Returns the number of the kind, below [`Diagnostic::KINDS`].
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
            Diagnostic::TooManyWindows { .. } => 9,
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
            Diagnostic::TooManyNodes { proximity, most } => {
                write!(f, "domain {proximity} is left out: {most} nodes at most")
            }
            Diagnostic::TooManyRanges(range) => write!(f, "no room for the range {range}"),
            Diagnostic::TooManyWindows { window, most } => {
                write!(f, "the CXL window {window} is node 0's: {most} nodes at most")
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

impl core::error::Error for Diagnostic {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Diagnostic::Table(error) => Some(error),
            _ => None,
        }
    }
}
