//! The operations of a log, as data.
//!
//! An operation names addresses by [`At`], so that the same log runs on systems that place their
//! windows, heaps and chosen mappings differently. [`Call`] is generic over the form of an
//! address: `Call<At>` stands in a log, `Call<u64>` is what a system is asked.

use serde::{Deserialize, Serialize};

pub use crate::log::at::{At, Place};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The offsets within a page that operations read and write. All other bytes stay zero.
///
/// At least seven zeros follow the first one, so that its byte can be executed.
pub const OFFSETS: [u64; 8] = [0, 64, 100, 2047, 2048, 4000, 4088, 4095];

/// The values that operations write: at offset 0 of a page, each one followed by zeros is an x86
/// instruction that does no harm.
pub const VALUES: [u8; 20] = [
    0x90, 0x91, 0x92, 0x93, 0x95, 0x98, 0x99, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb8, 0xb9, 0xba,
    0xf5, 0xf8, 0xf9,
];

/// Names one of [`OFFSETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sample(pub u8);

impl Sample {
    /// Returns the offset within the page, in bytes.
    pub fn offset(self) -> u64 {
        OFFSETS[usize::from(self.0) % OFFSETS.len()]
    }
}

/// Names a process of the log; process 0 is there from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u8);

impl ProcessId {
    /// The process that every log starts with.
    pub const FIRST: ProcessId = ProcessId(0);
}

/// What accesses a mapping permits: a set of bits with Linux's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Protection(pub u32);

impl Protection {
    /// Permits nothing.
    pub const NONE: Protection = Protection(0);
    /// Permits reads.
    pub const READ: Protection = Protection(1);
    /// Permits writes, and on x86 reads.
    pub const WRITE: Protection = Protection(2);
    /// Permits reads and writes.
    pub const READ_WRITE: Protection = Protection(3);
    /// Permits instruction fetches.
    pub const EXECUTE: Protection = Protection(4);

    /// Tells whether all of `bits` are set.
    pub fn has(self, bits: Protection) -> bool {
        self.0 & bits.0 == bits.0
    }
}

/// An access of one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Reads the byte.
    Read,
    /// Stores this value.
    Write(u8),
    /// Fetches the byte as an instruction. Only the first [`Sample`] can be executed.
    Execute,
}

/// Who sees the writes to a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// `MAP_PRIVATE`: the process alone.
    Private,
    /// `MAP_SHARED`: every process that maps the object.
    Shared,
    /// Neither flag, which is an error.
    Neither,
}

/// A descriptor that every log can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// The first file, for reading and writing.
    First,
    /// The first file, for reading alone.
    FirstReadOnly,
    /// The first file, for writing alone.
    FirstWriteOnly,
    /// The second file, for reading and writing.
    Second,
    /// The reading end of a pipe.
    Pipe,
    /// A directory.
    Directory,
    /// A number that is no descriptor.
    Closed,
}

/// What a mapping shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Zeros at first.
    Anonymous,
    /// A file.
    File(Descriptor),
}

/// Where `mmap` puts a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement<A> {
    /// Where the system likes.
    Anywhere,
    /// There if it is free.
    Hint(A),
    /// `MAP_FIXED`: there, in place of what is mapped there.
    Fixed(A),
    /// `MAP_FIXED_NOREPLACE`: there if it is free, else an error.
    Unoccupied(A),
}

/// The arguments of `mmap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map<A> {
    /// Where.
    pub placement: Placement<A>,
    /// Bytes.
    pub length: u64,
    /// Accesses.
    pub protection: Protection,
    /// Private or shared.
    pub sharing: Sharing,
    /// Anonymous or a file.
    pub source: Source,
    /// Bytes into the source.
    #[serde(default)]
    pub offset: u64,
    /// `MAP_GROWSDOWN`.
    #[serde(default)]
    pub grows_down: bool,
    /// `MAP_POPULATE`.
    #[serde(default)]
    pub populate: bool,
    /// The slot that remembers the address, if the system chooses it.
    #[serde(default)]
    pub slot: u8,
}

/// Values of the third argument of `madvise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of Linux's constants")]
pub enum Advice {
    DontNeed,
    DontNeedLocked,
    Free,
    Remove,
    DontFork,
    DoFork,
    WipeOnFork,
    KeepOnFork,
    HugePage,
    NoHugePage,
    PopulateRead,
    PopulateWrite,
    GuardInstall,
    GuardRemove,
    /// A number that names no advice.
    Unknown,
}

impl Advice {
    /// Returns Linux's number.
    pub fn number(self) -> i32 {
        match self {
            Advice::DontNeed => 4,
            Advice::Free => 8,
            Advice::Remove => 9,
            Advice::DontFork => 10,
            Advice::DoFork => 11,
            Advice::HugePage => 14,
            Advice::NoHugePage => 15,
            Advice::WipeOnFork => 18,
            Advice::KeepOnFork => 19,
            Advice::PopulateRead => 22,
            Advice::PopulateWrite => 23,
            Advice::DontNeedLocked => 24,
            Advice::GuardInstall => 102,
            Advice::GuardRemove => 103,
            Advice::Unknown => 12345,
        }
    }
}

/// Flags of `mremap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RemapFlags {
    /// `MREMAP_MAYMOVE`.
    #[serde(default)]
    pub may_move: bool,
    /// `MREMAP_DONTUNMAP`.
    #[serde(default)]
    pub keep_source: bool,
    /// A flag that does not exist.
    #[serde(default)]
    pub unknown: bool,
}

/// Flags of `msync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of Linux's constants")]
pub struct SyncFlags {
    #[serde(default)]
    pub asynchronous: bool,
    #[serde(default)]
    pub synchronous: bool,
    #[serde(default)]
    pub invalidate: bool,
}

/// Where `mincore` is to put its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vector {
    /// In memory of the process.
    Good,
    /// At address 0, where nothing is mapped.
    Bad,
}

/// Where `brk` is to put the end of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Break {
    /// These bytes above the heap's start.
    Above(u64),
    /// At address 1, below every heap.
    Below,
    /// Above what any system has.
    TooHigh,
}

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the arguments of the calls")]
pub enum Call<A> {
    /// `mmap`
    Map(Map<A>),
    /// `munmap`
    Unmap { at: A, length: u64 },
    /// `mprotect`
    Protect { at: A, length: u64, protection: Protection },
    /// `mremap`; with `to`, `MREMAP_FIXED` is set. The slot remembers an address that the system chooses.
    Remap { at: A, old: u64, new: u64, flags: RemapFlags, to: Option<A>, slot: u8 },
    /// `madvise`
    Advise { at: A, length: u64, advice: Advice },
    /// `brk`; its answer is the break, as the distance from the heap's start.
    Break(Break),
    /// `msync`
    Sync { at: A, length: u64, flags: SyncFlags },
    /// `mincore`; what it says of residence is not compared.
    Resident { at: A, length: u64, vector: Vector },
    /// `mlock`
    Lock { at: A, length: u64 },
    /// `munlock`
    Unlock { at: A, length: u64 },
    /// `pwrite` of one byte.
    WriteFile { file: Descriptor, position: u64, value: u8 },
    /// `pread` of one byte; the answer is the byte, or 256 at the end of the file.
    ReadFile { file: Descriptor, position: u64 },
    /// `ftruncate`
    Truncate { file: Descriptor, length: u64 },
}

impl<A> Call<A> {
    /// Returns the name of the system call.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Map(_) => "mmap",
            Call::Unmap { .. } => "munmap",
            Call::Protect { .. } => "mprotect",
            Call::Remap { .. } => "mremap",
            Call::Advise { .. } => "madvise",
            Call::Break(_) => "brk",
            Call::Sync { .. } => "msync",
            Call::Resident { .. } => "mincore",
            Call::Lock { .. } => "mlock",
            Call::Unlock { .. } => "munlock",
            Call::WriteFile { .. } => "pwrite",
            Call::ReadFile { .. } => "pread",
            Call::Truncate { .. } => "ftruncate",
        }
    }
}

/// One step of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Calls the system.
    Call(Call<At>),
    /// Accesses one byte.
    Touch {
        /// The page.
        at: At,
        /// The byte within the page.
        sample: Sample,
        /// What is done there.
        access: Access,
    },
    /// Lists the mappings of the window, the heap and the slots, and reads every page of them.
    Inspect,
    /// Forks; the new process runs the operations that name it.
    Fork(ProcessId),
    /// Ends the process.
    Exit,
}
