//! Frames: all RAM belongs to topomem's frame allocator, but for the kernel and the page tables it booted with.

use topomem_numa::prelude::*;

use crate::machine::Machine;
use crate::{arch::cpu, must, println, work};

pub(crate) struct Kernel;

// SAFETY: CPUs have dense numbers of their own; with preemption off only interrupt handlers come between; RAM is
// mapped to itself, as topomem takes it to be.
unsafe impl Platform for Kernel {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(cpu::index()).unwrap_or(CpuId::BOOT)
    }
    fn disable_migration(&self) -> Saved {
        cpu::preemption_off();
        Saved::default()
    }
    fn enable_migration(&self, _: Saved) {
        cpu::preemption_on();
    }
}

pub(crate) static FRAMES: Frames<Kernel> = Frames::new(Kernel);
static EARLY: EarlyMemory = EarlyMemory::new();

pub(crate) fn boot(machine: &Machine) {
    let mut early = must("early memory", EARLY.open().ok_or("in use"));
    for ram in machine.ram() {
        must("memory map", early.map.add_usable(MemoryRange::from_bounds(ram.start, ram.end)));
    }
    let image = machine.image();
    must("memory map", early.map.reserve(MemoryRange::from_bounds(image.start, image.end), "kernel"));
    // SAFETY: the tables that the kernel booted with map RAM to itself, and nobody changes them.
    must("memory map", unsafe { early.map.reserve_active_page_tables(&Kernel) });
    work::early(&mut early.allocator());
    // SAFETY: the loader's RSDP; tables lie below 4 GiB, and nobody writes to them.
    let tables = must("ACPI", unsafe { find_tables(DirectMap(&Kernel), PhysAddr::new(machine.rsdp())) });
    early.discover(&Kernel, &tables, ApicId(machine.apic_ids()[0]), &mut |found| println!("{found}"));
    must("frames", FRAMES.init(&mut early.allocator(), &FramesConfig::default()));
}

pub(crate) fn cpu_online() {
    must("frames", FRAMES.cpu_online(&Kernel.pin()));
}

pub(crate) fn cpu_offline() {
    FRAMES.cpu_offline(&Kernel.pin());
}

pub(crate) fn interrupt() {}
