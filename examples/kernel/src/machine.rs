//! What the loader and the firmware say: where RAM is, and which CPUs there are.

use core::ops::Range;
use core::ptr::{self, NonNull};

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};

use crate::arch::cpu::{self, MAX_CPUS};
use crate::must;

const MAX_RANGES: usize = 32;
/// Above, nothing is mapped.
const MAPPED: u64 = 4 << 30;
/// The start-up page of other CPUs and the firmware's own data are below.
const LOW_MEMORY: u64 = 1 << 20;

/// `hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
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

/// `hvm_memmap_table_entry`.
#[repr(C)]
struct MemoryMapEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    ranges: [Range<u64>; MAX_RANGES],
    range_count: usize,
    apic_ids: [u32; MAX_CPUS],
    cpu_count: usize,
    rsdp: u64,
}

/// Physical memory is mapped to itself.
#[derive(Debug, Clone)]
pub(crate) struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(&self, address: usize, bytes: usize) -> PhysicalMapping<Self, T> {
        let place = must("a table's address", NonNull::new(at(address as u64)).ok_or("null"));
        // SAFETY: the first 4 GiB are mapped to themselves.
        unsafe { PhysicalMapping::new(address, place, bytes, bytes, Identity) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// The byte at a physical address.
pub(crate) fn at<T>(address: u64) -> *mut T {
    ptr::with_exposed_provenance_mut(address as usize)
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

impl Machine {
    /// Reads what the loader left.
    ///
    /// # Safety
    ///
    /// `start_info` is the address that a PVH loader passed; it and what it leads to are unchanged.
    pub(crate) unsafe fn read(start_info: u64) -> Machine {
        // SAFETY: the caller's promise.
        let (info, entries) = unsafe {
            let info = &*at::<StartInfo>(start_info);
            let entries = core::slice::from_raw_parts(
                at::<MemoryMapEntry>(info.memory_map),
                info.memory_map_entries as usize,
            );
            (info, entries)
        };
        let mut machine = Machine {
            ranges: [const { 0..0 }; MAX_RANGES],
            range_count: 0,
            apic_ids: [0; MAX_CPUS],
            cpu_count: 0,
            rsdp: info.rsdp,
        };
        for entry in entries.iter().filter(|entry| entry.kind == 1) {
            let range = entry.start.max(LOW_MEMORY)..(entry.start + entry.bytes).min(MAPPED);
            if range.start < range.end && machine.range_count < MAX_RANGES {
                machine.ranges[machine.range_count] = range;
                machine.range_count += 1;
            }
        }
        machine.find_cpus();
        machine
    }

    /// The boot CPU first, the others in the order of the MADT.
    fn find_cpus(&mut self) {
        let boot = cpu::apic_id();
        (self.apic_ids[0], self.cpu_count) = (boot, 1);
        // SAFETY: the loader's RSDP.
        let tables =
            must("ACPI", unsafe { AcpiTables::from_rsdp(Identity, self.rsdp as usize) }.map_err(Text));
        let madt = must("MADT", tables.find_table::<Madt>().map_err(Text));
        for entry in madt.get().entries() {
            if let MadtEntry::LocalApic(apic) = entry {
                let (id, flags) = (u32::from(apic.apic_id), apic.flags);
                if flags & 1 != 0 && id != boot && self.cpu_count < MAX_CPUS {
                    self.apic_ids[self.cpu_count] = id;
                    self.cpu_count += 1;
                }
            }
        }
    }

    /// Returns RAM from 1 MiB to 4 GiB, the kernel's image included.
    pub(crate) fn ram(&self) -> &[Range<u64>] {
        &self.ranges[..self.range_count]
    }

    /// Returns where the kernel lies.
    #[allow(dead_code, reason = "not every tier needs it")]
    pub(crate) fn image(&self) -> Range<u64> {
        (&raw const __image_start as u64)..(&raw const __image_end as u64)
    }

    /// Returns each CPU's APIC id, by its number.
    pub(crate) fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.cpu_count]
    }

    /// Returns where the RSDP lies.
    #[allow(dead_code, reason = "not every tier needs it")]
    pub(crate) fn rsdp(&self) -> u64 {
        self.rsdp
    }
}

/// An error that can only be debugged, as a text.
struct Text<T>(T);

impl<T: core::fmt::Debug> core::fmt::Display for Text<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}
