//! The PVH start info (`hvm_start_info`, version 1): memory map, RSDP, command line, modules.

use core::ffi::CStr;
use core::fmt;
use core::slice;

use topomem::{MemoryRange, PhysAddr};

use crate::Window;

const MAGIC: u32 = 0x336e_c578;
/// Bytes of a version 2 RSDP, the longest.
const RSDP_BYTES: u64 = 36;

/// `hvm_start_info` as the loader lays it out.
#[derive(Debug)]
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

/// A file that the loader put into memory (`hvm_modlist_entry`).
#[derive(Debug)]
#[repr(C)]
struct RawModule {
    start: u64,
    bytes: u64,
    command_line: u64,
    reserved: u64,
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
    /// An entry that says `kind` of the bytes from `start` on.
    #[cfg(test)]
    pub(crate) fn new(start: u64, bytes: u64, kind: MemoryKind) -> MemoryMapEntry {
        let kind = match kind {
            MemoryKind::Usable => 1,
            MemoryKind::Reserved => 2,
            MemoryKind::AcpiTables => 3,
            MemoryKind::AcpiStorage => 4,
        };
        MemoryMapEntry { start, bytes, kind, reserved: 0 }
    }

    /// Returns the part of the range that 52-bit physical addresses name; `None` if that is nothing.
    /// Addresses beyond are left out and never cut: a cut one would name other memory.
    #[must_use]
    pub fn range(&self) -> Option<MemoryRange> {
        range(self.start, self.bytes)
    }

    /// Returns what lies there.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        match self.kind {
            1 => MemoryKind::Usable,
            3 => MemoryKind::AcpiTables,
            4 => MemoryKind::AcpiStorage,
            _ => MemoryKind::Reserved,
        }
    }
}

fn range(start: u64, bytes: u64) -> Option<MemoryRange> {
    let last = MemoryRange::EVERYTHING.end.as_u64();
    MemoryRange::from_bounds(start.min(last), start.saturating_add(bytes).min(last))
}

/// Why the start info cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartInfoError {
    /// Another number stands where the magic should: not booted by PVH.
    Magic(u32),
    /// Version 0 carries no memory map.
    NoMemoryMap {
        /// The version found.
        version: u32,
    },
    /// An address in it is no physical address.
    Address(u64),
    /// The command line is not UTF-8.
    CommandLine,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartInfoError::Magic(found) => write!(f, "start info begins with {found:#x}, not {MAGIC:#x}"),
            StartInfoError::NoMemoryMap { version } => {
                write!(f, "start info version {version} carries no memory map")
            }
            StartInfoError::Address(addr) => write!(f, "start info names {addr:#x}, no physical address"),
            StartInfoError::CommandLine => f.write_str("command line is not UTF-8"),
        }
    }
}

/// Something that the loader put into memory, and the name under which it is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Where it lies.
    pub range: MemoryRange,
    /// What it is.
    pub name: &'static str,
}

/// What the loader tells, in the loader's memory. Nothing is copied, so nothing is too long; the
/// memory stays the loader's, since [`placed`](StartInfo::placed) names it and the kernel reserves it.
#[derive(Debug, Clone, Copy)]
pub struct StartInfo {
    at: PhysAddr,
    raw: &'static Raw,
    memory_map: &'static [MemoryMapEntry],
    modules: &'static [RawModule],
    command_line: &'static str,
    window: Window,
}

impl StartInfo {
    /// Reads the start info at `at`, and what it leads to, through `window`.
    ///
    /// # Errors
    ///
    /// [`StartInfoError`].
    ///
    /// # Safety
    ///
    /// A PVH loader put a start info at `at`. The structure and what it points to are visible in
    /// `window`, and stay so and unchanged for as long as the value is used.
    pub unsafe fn read(at: PhysAddr, window: Window) -> Result<StartInfo, StartInfoError> {
        // SAFETY: the caller hands on the loader's promise.
        let raw: &'static Raw = unsafe { &*window.pointer(at) };
        if raw.magic != MAGIC {
            return Err(StartInfoError::Magic(raw.magic));
        }
        if raw.version < 1 {
            return Err(StartInfoError::NoMemoryMap { version: raw.version });
        }
        // SAFETY: as above; the loader wrote that many entries.
        let (memory_map, modules) = unsafe {
            let memory_map = slice::from_raw_parts(
                window.pointer(address(raw.memory_map)?),
                raw.memory_map_entries as usize,
            );
            let modules: &[RawModule] = match raw.module_count {
                0 => &[],
                count => slice::from_raw_parts(window.pointer(address(raw.modules)?), count as usize),
            };
            (memory_map, modules)
        };
        for module in modules {
            address(module.command_line)?;
        }
        let command_line = match raw.command_line {
            0 => "",
            // SAFETY: as above; the loader terminates the string.
            place => unsafe { CStr::from_ptr(window.pointer(address(place)?)) }
                .to_str()
                .map_err(|_| StartInfoError::CommandLine)?,
        };
        address(raw.rsdp)?;
        Ok(StartInfo { at, raw, memory_map, modules, command_line, window })
    }

    /// Returns where it lies.
    #[must_use]
    pub fn at(&self) -> PhysAddr {
        self.at
    }

    /// Returns the firmware's memory map, in its order.
    #[must_use]
    pub fn memory_map(&self) -> &'static [MemoryMapEntry] {
        self.memory_map
    }

    /// Returns the words of QEMU's `-append`.
    #[must_use]
    pub fn command_line(&self) -> &'static str {
        self.command_line
    }

    /// Returns where the RSDP lies; `None` if the loader found none.
    #[must_use]
    pub fn rsdp(&self) -> Option<PhysAddr> {
        (self.raw.rsdp != 0).then(|| PhysAddr::new(self.raw.rsdp))
    }

    /// Returns where each module lies (QEMU's `-initrd` is one), in the loader's order.
    pub fn modules(&self) -> impl Iterator<Item = MemoryRange> + use<> {
        self.modules.iter().filter_map(|module| range(module.start, module.bytes))
    }

    /// Returns everything that the loader put into memory: what is not reserved in time is lost.
    pub fn placed(&self) -> impl Iterator<Item = Placed> + Clone + use<> {
        let StartInfo { at, raw, memory_map, modules, command_line, window } = *self;
        let tables = [
            ("start info", at.as_u64(), size_of::<Raw>() as u64),
            ("start info memory map", raw.memory_map, size_of_val(memory_map) as u64),
            ("start info modules", raw.modules, size_of_val(modules) as u64),
            ("command line", raw.command_line, text_bytes(raw.command_line, command_line.len())),
            ("RSDP", raw.rsdp, if raw.rsdp == 0 { 0 } else { RSDP_BYTES }),
        ];
        let contents = modules.iter().map(|module| ("module", module.start, module.bytes));
        let words = modules.iter().filter(|module| module.command_line != 0).map(move |module| {
            let place = PhysAddr::new(module.command_line);
            // SAFETY: `read`'s caller vouches for the loader's strings, and `read` has looked at the
            // address.
            let text = unsafe { CStr::from_ptr(window.pointer(place)) };
            ("module command line", module.command_line, text_bytes(module.command_line, text.count_bytes()))
        });
        let all = tables.into_iter().chain(contents).chain(words);
        all.filter_map(|(name, start, bytes)| Some(Placed { range: range(start, bytes)?, name }))
    }
}

/// Bytes of a text of `length`, with the zero at its end; none if it is nowhere.
fn text_bytes(place: u64, length: usize) -> u64 {
    if place == 0 { 0 } else { length as u64 + 1 }
}

fn address(addr: u64) -> Result<PhysAddr, StartInfoError> {
    // No machine has more physical addresses.
    if addr < 1 << 52 { Ok(PhysAddr::new(addr)) } else { Err(StartInfoError::Address(addr)) }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    /// Memory as a loader leaves it; never freed.
    struct Machine {
        bytes: &'static mut [u64],
    }

    impl Machine {
        fn new() -> Machine {
            Machine { bytes: Box::leak(Box::new([0; 2048])) }
        }

        fn window(&mut self) -> Window {
            Window::at(self.bytes.as_mut_ptr().expose_provenance())
        }

        fn put<T>(&mut self, at: u64, value: T) {
            // SAFETY: the arena is large enough for the tests' places, which are multiples of 8.
            unsafe { self.window().pointer::<T>(PhysAddr::new(at)).write(value) };
        }

        fn start_info(&mut self, raw: Raw) -> Result<StartInfo, StartInfoError> {
            self.put(0x100, raw);
            // SAFETY: the tests lay out what they name; the arena is never freed.
            unsafe { StartInfo::read(PhysAddr::new(0x100), self.window()) }
        }
    }

    fn raw() -> Raw {
        Raw {
            magic: MAGIC,
            version: 1,
            flags: 0,
            module_count: 2,
            modules: 0x200,
            command_line: 0x300,
            rsdp: 0xf_5000,
            memory_map: 0x1000,
            memory_map_entries: 2,
            reserved: 0,
        }
    }

    fn machine() -> Machine {
        let mut machine = Machine::new();
        machine.put(0x200, RawModule { start: 0x40_0000, bytes: 0x1234, command_line: 0x400, reserved: 0 });
        machine.put(0x220, RawModule { start: 0x80_0000, bytes: 1, command_line: 0, reserved: 0 });
        machine.put(0x300, *b"a=1 b\0");
        machine.put(0x400, *b"word\0");
        machine
    }

    fn bounds(start: u64, end: u64) -> MemoryRange {
        MemoryRange::from_bounds(start, end).unwrap()
    }

    #[test]
    fn names_all_that_the_loader_put_into_memory() {
        let start_info = machine().start_info(raw()).unwrap();
        assert_eq!(start_info.command_line(), "a=1 b");
        assert_eq!(start_info.rsdp(), Some(PhysAddr::new(0xf_5000)));
        let placed: Vec<_> = start_info.placed().map(|placed| (placed.name, placed.range)).collect();
        assert_eq!(
            placed,
            [
                ("start info", bounds(0x100, 0x138)),
                ("start info memory map", bounds(0x1000, 0x1030)),
                ("start info modules", bounds(0x200, 0x240)),
                ("command line", bounds(0x300, 0x306)),
                ("RSDP", bounds(0xf_5000, 0xf_5024)),
                ("module", bounds(0x40_0000, 0x40_1234)),
                ("module", bounds(0x80_0000, 0x80_0001)),
                ("module command line", bounds(0x400, 0x405)),
            ]
        );
        assert_eq!(start_info.modules().count(), 2);
    }

    #[test]
    fn what_is_not_there_is_not_named() {
        let bare = Raw { module_count: 0, modules: 0, command_line: 0, rsdp: 0, ..raw() };
        let start_info = machine().start_info(bare).unwrap();
        let names: Vec<_> = start_info.placed().map(|placed| placed.name).collect();
        assert_eq!(names, ["start info", "start info memory map"]);
        assert_eq!((start_info.command_line(), start_info.rsdp()), ("", None));
    }

    #[test]
    fn refuses_what_is_no_start_info() {
        let refused = |raw| machine().start_info(raw).unwrap_err();
        assert_eq!(refused(Raw { magic: 1, ..raw() }), StartInfoError::Magic(1));
        assert_eq!(refused(Raw { version: 0, ..raw() }), StartInfoError::NoMemoryMap { version: 0 });
        let beyond = 1 << 52;
        assert_eq!(refused(Raw { rsdp: beyond, ..raw() }), StartInfoError::Address(beyond));
        assert_eq!(refused(Raw { memory_map: beyond, ..raw() }), StartInfoError::Address(beyond));
    }

    #[test]
    fn a_long_command_line_and_a_long_memory_map_are_read_whole() {
        let mut machine = machine();
        machine.put(0x2000, [b'x'; 3000]);
        for index in 0..100 {
            let entry = MemoryMapEntry::new(index << 24, 1 << 20, MemoryKind::Usable);
            machine.put(0x1000 + 24 * index, entry);
        }
        let start_info =
            machine.start_info(Raw { command_line: 0x2000, memory_map_entries: 100, ..raw() }).unwrap();
        assert_eq!(start_info.command_line().len(), 3000);
        assert_eq!(start_info.memory_map().len(), 100);
        assert_eq!(start_info.memory_map()[99].range(), Some(bounds(99 << 24, (99 << 24) + (1 << 20))));
    }

    #[test]
    fn addresses_beyond_52_bits_are_left_out_and_not_cut() {
        let entry = |start, bytes| MemoryMapEntry::new(start, bytes, MemoryKind::Usable).range();
        assert_eq!(entry((1 << 52) + 0x10_0000, 1 << 30), None);
        assert_eq!(entry(u64::MAX, u64::MAX), None);
        let last = MemoryRange::EVERYTHING.end.as_u64();
        assert_eq!(entry(1 << 51, u64::MAX), Some(bounds(1 << 51, last)));
        assert_eq!(entry(0x1000, 0), None);
    }
}
