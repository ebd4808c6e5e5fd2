//! HMAT: latency, bandwidth and memory-side caches. ACPI 6.5, section 5.2.28.

use super::bytes::Fields;
use super::header::{HEADER, Verified};
use super::structures::{Layout, Structure, Structures};
use super::{Table, TableError};
use crate::{CacheAssociativity, CacheWritePolicy, MegabytesPerSecond, MemorySideCache, Picoseconds};

/// A verified HMAT.
#[derive(Debug, Clone, Copy)]
pub struct Hmat<'a>(Verified<'a>);

/// The content of a latency/bandwidth matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Latency, read and write alike.
    AccessLatency,
    /// Latency of reads.
    ReadLatency,
    /// Latency of writes.
    WriteLatency,
    /// Bandwidth, read and write alike.
    AccessBandwidth,
    /// Bandwidth of reads.
    ReadBandwidth,
    /// Bandwidth of writes.
    WriteBandwidth,
    /// A type that the specification reserves.
    Reserved(u8),
}

/// A structure of the HMAT.
#[derive(Debug, Clone, Copy)]
pub enum HmatEntry<'a> {
    /// The domain of the initiators attached to a domain's memory (type 0).
    ProximityAttributes {
        /// The domain of the CPUs or devices, if firmware gives one.
        initiator: Option<u32>,
        /// The domain of the memory.
        memory: u32,
    },
    /// Figures for pairs of domains (type 1).
    LatencyBandwidth(LatencyBandwidth<'a>),
    /// A cache in front of a domain's memory (type 2).
    MemorySideCache {
        /// The domain of the memory.
        memory: u32,
        /// The cache.
        cache: MemorySideCache,
    },
    /// Another structure, by its type.
    Other(u16),
}

impl<'a> Hmat<'a> {
    const FIXED: usize = HEADER + 4;

    /// Verifies the header. A wrong checksum is accepted if every structure is whole.
    ///
    /// # Errors
    ///
    /// Returns [`TableError`] if the signature or the length is wrong, or if the checksum is wrong
    /// and a structure is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Hmat<'a>, TableError> {
        let table = Hmat(Verified::new(Table::Hmat, bytes, Hmat::FIXED)?);
        table.0.accept(Table::Hmat, || table.entries().all(|entry| entry.is_ok()))?;
        Ok(table)
    }

    /// Returns the sum of the table's bytes, modulo 256: 0 if its checksum is right.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.0.sum
    }

    /// Returns the structures, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = Result<HmatEntry<'a>, TableError>> + use<'a> {
        let revision = self.0.revision;
        Structures::new(Table::Hmat, Layout::Hmat, self.0.bytes, Hmat::FIXED)
            .map(move |structure| entry(&structure?, revision))
    }

    /// Returns every proximity domain named by a structure, possibly repeated. Malformed structures
    /// are left out.
    pub fn domains(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.entries().filter_map(Result::ok).flat_map(|entry| {
            let (some, matrix) = match entry {
                HmatEntry::ProximityAttributes { initiator, memory } => ([initiator, Some(memory)], None),
                HmatEntry::LatencyBandwidth(matrix) => ([None; 2], Some(matrix)),
                HmatEntry::MemorySideCache { memory, .. } => ([Some(memory), None], None),
                HmatEntry::Other(_) => ([None; 2], None),
            };
            some.into_iter().flatten().chain(matrix.into_iter().flat_map(|matrix| matrix.domains()))
        })
    }
}

fn entry<'a>(structure: &Structure<'a>, revision: u8) -> Result<HmatEntry<'a>, TableError> {
    match structure.kind {
        0 => {
            let fields = structure.fields(40)?;
            Ok(HmatEntry::ProximityAttributes {
                initiator: (fields.u16(8) & 1 != 0).then(|| fields.u32(12)),
                memory: fields.u32(16),
            })
        }
        1 => LatencyBandwidth::parse(structure, revision).map(HmatEntry::LatencyBandwidth),
        2 => {
            let fields = structure.fields(32)?;
            Ok(HmatEntry::MemorySideCache { memory: fields.u32(8), cache: cache(fields) })
        }
        other => Ok(HmatEntry::Other(other)),
    }
}

fn cache(fields: Fields<'_>) -> MemorySideCache {
    let attributes = fields.u32(24);
    let nibble = |shift: u32| (attributes >> shift & 0xf) as u8;
    MemorySideCache {
        bytes: fields.u64(16),
        line_bytes: (attributes >> 16) as u16,
        level: nibble(4),
        levels: nibble(0),
        associativity: match nibble(8) {
            1 => CacheAssociativity::DirectMapped,
            2 => CacheAssociativity::Complex,
            _ => CacheAssociativity::Unknown,
        },
        write_policy: match nibble(12) {
            1 => CacheWritePolicy::WriteBack,
            2 => CacheWritePolicy::WriteThrough,
            _ => CacheWritePolicy::Unknown,
        },
    }
}

/// A matrix of figures by initiator domain and target domain.
#[derive(Debug, Clone, Copy)]
pub struct LatencyBandwidth<'a> {
    /// The level: 0 is the memory itself, above it the levels of memory-side caches.
    pub hierarchy: u8,
    /// The type of the figures.
    pub data_type: DataType,
    /// The factor of each entry.
    base_unit: u64,
    revision: u8,
    initiators: &'a [u8],
    targets: &'a [u8],
    /// Initiators times targets, two bytes each, a row per initiator.
    matrix: &'a [u8],
}

/// A figure of a [`LatencyBandwidth`] matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// A latency.
    Latency(Picoseconds),
    /// A bandwidth.
    Bandwidth(MegabytesPerSecond),
    /// Firmware gives no figure.
    None,
    /// The initiator does not reach the target.
    Unreachable,
    /// More than 32 bits of picoseconds or megabytes per second.
    TooLarge {
        /// The entry.
        entry: u16,
        /// The table's unit.
        base_unit: u64,
    },
}

impl<'a> LatencyBandwidth<'a> {
    const FIXED: usize = 32;

    fn parse(structure: &Structure<'a>, revision: u8) -> Result<LatencyBandwidth<'a>, TableError> {
        let fields = structure.fields(LatencyBandwidth::FIXED)?;
        let count = |offset| usize::try_from(fields.u32(offset)).unwrap_or(usize::MAX);
        let (initiators, targets) = (count(12), count(16));
        let targets_at = initiators.saturating_mul(4).saturating_add(LatencyBandwidth::FIXED);
        let matrix_at = targets.saturating_mul(4).saturating_add(targets_at);
        let end = initiators.saturating_mul(targets).saturating_mul(2).saturating_add(matrix_at);
        let part =
            |from: usize, to: usize| structure.bytes.get(from..to).ok_or_else(|| structure.too_short(end));
        Ok(LatencyBandwidth {
            hierarchy: fields.u8(8) & 0xf,
            data_type: match fields.u8(9) {
                0 => DataType::AccessLatency,
                1 => DataType::ReadLatency,
                2 => DataType::WriteLatency,
                3 => DataType::AccessBandwidth,
                4 => DataType::ReadBandwidth,
                5 => DataType::WriteBandwidth,
                other => DataType::Reserved(other),
            },
            base_unit: fields.u64(24),
            revision,
            initiators: part(LatencyBandwidth::FIXED, targets_at)?,
            targets: part(targets_at, matrix_at)?,
            matrix: part(matrix_at, end)?,
        })
    }

    /// Returns the domains of the initiators, then those of the targets.
    pub fn domains(&self) -> impl Iterator<Item = u32> + use<'a> {
        let domains = self.initiators.chunks_exact(4).chain(self.targets.chunks_exact(4));
        domains.map(|domain| Fields(domain).u32(0))
    }

    /// Returns all figures with the proximity domains of initiator and target, row by row.
    pub fn figures(&self) -> impl Iterator<Item = (u32, u32, Figure)> + use<'a> {
        let this = *self;
        let row_bytes = (this.targets.len() / 2).max(1);
        let rows = this.initiators.chunks_exact(4).zip(this.matrix.chunks_exact(row_bytes));
        rows.flat_map(move |(initiator, row)| {
            let columns = this.targets.chunks_exact(4).zip(row.chunks_exact(2));
            columns.map(move |(target, entry)| {
                (Fields(initiator).u32(0), Fields(target).u32(0), this.figure(Fields(entry).u16(0)))
            })
        })
    }

    fn figure(&self, entry: u16) -> Figure {
        match entry {
            0 => return Figure::None,
            u16::MAX => return Figure::Unreachable,
            _ => {}
        }
        let base_unit = self.base_unit;
        let too_large = Figure::TooLarge { entry, base_unit };
        let Some(product) = base_unit.checked_mul(u64::from(entry)) else { return too_large };
        // Revision 1 (ACPI 6.2) counts tenths of nanoseconds and of megabytes per second;
        // revision 2 (ACPI 6.3) picoseconds and megabytes per second.
        let (latency, bandwidth) = if self.revision < 2 {
            (product.checked_mul(100), product.div_ceil(10))
        } else {
            (Some(product), product)
        };
        let figure = match self.data_type {
            DataType::AccessLatency | DataType::ReadLatency | DataType::WriteLatency => latency
                .and_then(|value| u32::try_from(value).ok())
                .map(|value| Figure::Latency(Picoseconds(value))),
            DataType::AccessBandwidth | DataType::ReadBandwidth | DataType::WriteBandwidth => {
                u32::try_from(bandwidth).ok().map(|value| Figure::Bandwidth(MegabytesPerSecond(value)))
            }
            DataType::Reserved(_) => Some(Figure::None),
        };
        figure.unwrap_or(too_large)
    }
}
