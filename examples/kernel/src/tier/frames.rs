//! Frames: all RAM belongs to topomem's frame allocator.

use core::ptr::NonNull;

use topomem_numa::frames::{Frames, FramesConfig};
use topomem_numa::{
    ApicId, BootAllocator, CpuId, MemoryMap, MemoryRange, PhysAddr, Platform, Saved, Topology, find_tables,
};

use crate::arch::cpu;
use crate::lock::Lock;
use crate::machine::{Identity, Machine, at};
use crate::{must, println};

pub struct Kernel;

// SAFETY: CPUs have dense numbers of their own; with preemption off only interrupt handlers come between; RAM is
// mapped to itself.
unsafe impl Platform for Kernel {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(cpu::index()).unwrap_or(CpuId::BOOT)
    }
    fn phys_to_virt(&self, address: PhysAddr) -> NonNull<u8> {
        NonNull::new(at(address.as_u64())).unwrap_or(NonNull::dangling())
    }
    fn disable_migration(&self) -> Saved {
        cpu::preemption_off();
        Saved::default()
    }
    fn enable_migration(&self, _: Saved) {
        cpu::preemption_on();
    }
}

pub static FRAMES: Frames<Kernel> = Frames::new(Kernel);
static FIRMWARE: Lock<(MemoryMap, Topology)> = Lock::new((MemoryMap::new(), Topology::new()));

pub fn boot(machine: &Machine) {
    FIRMWARE.with(|(map, topology)| init(machine, map, topology));
}

fn init(machine: &Machine, map: &mut MemoryMap, topology: &mut Topology) {
    for range in machine.ram().iter().filter_map(|ram| MemoryRange::from_bounds(ram.start, ram.end)) {
        must("memory map", map.add_usable(range));
    }
    if let Some(image) = MemoryRange::from_bounds(machine.image().start, machine.image().end) {
        must("memory map", map.reserve(image, "kernel"));
    }
    // SAFETY: the loader's RSDP; tables lie below 4 GiB, and nobody writes to them.
    let tables = must("ACPI", unsafe { find_tables(Identity, PhysAddr::new(machine.rsdp())) });
    let boot = ApicId(machine.apic_ids()[0]);
    topology.discover(&tables, boot, &mut |diagnostic| println!("{diagnostic}"));
    must("frames", FRAMES.init(&mut BootAllocator::new(map, topology), &FramesConfig::default()));
}

pub fn cpu_online() {
    must("frames", FRAMES.cpu_online(&Kernel.pin()));
}

pub fn cpu_offline() {
    FRAMES.cpu_offline(&Kernel.pin());
}

pub fn interrupt() {}
