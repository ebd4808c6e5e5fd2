//! The PVH start info (`hvm_start_info`, version 1): memory map, RSDP, command line.

use core::ffi::CStr;
use core::fmt;
use core::slice;

use arrayvec::{ArrayString, ArrayVec};
use x86_64::PhysAddr;

use crate::arch::paging;

const MAGIC: u32 = 0x336e_c578;
/// How many memory map entries are kept; what comes after is memory lost.
pub const MAX_ENTRIES: usize = 128;
/// How many bytes of the command line are kept.
pub const MAX_COMMAND_LINE: usize = 512;

/// `hvm_start_info` as the loader lays it out.
#[repr(C)]
struct Raw {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// One entry of the firmware's memory map (`hvm_memmap_table_entry`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MemoryMapEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// What the firmware says about a range; numbered as in E820.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Memory for the kernel to use.
    Usable,
    /// ACPI tables: readable memory, usable once the tables have been read.
    AcpiTables,
    /// Memory that the firmware keeps for itself.
    AcpiStorage,
    /// Anything else: devices, ROM, firmware memory, also tables on some machines.
    Reserved,
}

impl MemoryMapEntry {
    /// The first byte's address.
    pub fn start(&self) -> PhysAddr {
        PhysAddr::new_truncate(self.start)
    }

    /// The address after the last byte.
    pub fn end(&self) -> PhysAddr {
        PhysAddr::new_truncate(self.start.saturating_add(self.bytes))
    }

    /// What lies there.
    pub fn kind(&self) -> MemoryKind {
        match self.kind {
            1 => MemoryKind::Usable,
            3 => MemoryKind::AcpiTables,
            4 => MemoryKind::AcpiStorage,
            _ => MemoryKind::Reserved,
        }
    }
}

/// Why the start info cannot be used.
#[derive(Debug, Clone, Copy)]
pub enum StartInfoError {
    /// Another number stands where the magic should: not booted by PVH.
    Magic(u32),
    /// Version 0 carries no memory map.
    NoMemoryMap {
        /// The version found.
        version: u32,
    },
    /// The command line is longer than [`MAX_COMMAND_LINE`] or not UTF-8.
    CommandLine,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartInfoError::Magic(found) => write!(f, "start info begins with {found:#x}, not {MAGIC:#x}"),
            StartInfoError::NoMemoryMap { version } => {
                write!(f, "start info version {version} carries no memory map")
            }
            StartInfoError::CommandLine => {
                write!(f, "command line is not UTF-8, or longer than {MAX_COMMAND_LINE} bytes")
            }
        }
    }
}

/// What the loader tells, copied: the original lies in memory that is not the kernel's.
#[derive(Debug)]
pub struct StartInfo {
    /// The firmware's memory map, in its order.
    pub memory_map: ArrayVec<MemoryMapEntry, MAX_ENTRIES>,
    /// Where the RSDP lies; `None` where the loader found none.
    pub rsdp: Option<PhysAddr>,
    /// The words of `-append`.
    pub command_line: ArrayString<MAX_COMMAND_LINE>,
}

impl StartInfo {
    /// Copies the start info at `addr`.
    ///
    /// # Errors
    ///
    /// [`StartInfoError`].
    ///
    /// # Safety
    ///
    /// `addr` is what EBX held at the PVH entry; the structure and what it points to lie in the
    /// first GiB, and the entry's page tables are active.
    pub unsafe fn read(addr: PhysAddr) -> Result<StartInfo, StartInfoError> {
        // SAFETY: the caller hands on the loader's promise.
        let raw = unsafe { &*paging::image_window(addr).cast::<Raw>() };
        if raw.magic != MAGIC {
            return Err(StartInfoError::Magic(raw.magic));
        }
        if raw.version < 1 {
            return Err(StartInfoError::NoMemoryMap { version: raw.version });
        }
        // SAFETY: as above; the loader wrote that many entries.
        let entries = unsafe {
            slice::from_raw_parts(
                paging::image_window(PhysAddr::new_truncate(raw.memory_map)).cast::<MemoryMapEntry>(),
                raw.memory_map_entries as usize,
            )
        };
        let memory_map = entries.iter().copied().take(MAX_ENTRIES).collect();
        let mut command_line = ArrayString::new();
        if raw.command_line != 0 {
            let text = paging::image_window(PhysAddr::new_truncate(raw.command_line)).cast();
            // SAFETY: as above; the loader terminates the string.
            let text = unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| StartInfoError::CommandLine)?;
            command_line.try_push_str(text).map_err(|_| StartInfoError::CommandLine)?;
        }
        let rsdp = (raw.rsdp != 0).then(|| PhysAddr::new_truncate(raw.rsdp));
        Ok(StartInfo { memory_map, rsdp, command_line })
    }
}
