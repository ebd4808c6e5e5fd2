//! The machine of the CPUs that take turns, as the memory service sees it.

use std::error::Error;
use std::ptr::NonNull;

use topomem::sim::Sim;
use topomem::{
    BootAllocator, CpuId, CpuPin, CpuSet, FramesConfig, KernelLayout, Machine, MemoryService, PageRange,
    PageSize, PerFrameTable, Platform, SwitchFlushed, Ticks, Tlb, VirtAddr, X64,
};
use topomem_percpu::{PhysAddr, PhysFrame};

use super::super::machine;
use super::super::subjects::NODES;

/// Bytes of memory on all nodes.
const MEMORY: u64 = 128 << 20;

/// The machine: a simulated one's memory and tables, with CPUs that take turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns(&'static Sim);

// SAFETY: the machine's coroutine that runs is the CPU that it plays, and ends before another plays it; the
// direct map is the simulated machine's.
unsafe impl Platform for Turns {
    fn current_cpu(&self) -> CpuId {
        machine::running().and_then(CpuId::new).unwrap_or(CpuId::BOOT)
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        self.0.phys_to_virt(addr)
    }

    fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
        self.0.virt_to_phys(address)
    }
}

// SAFETY: no CPU translates anything: no TLB has anything to flush.
unsafe impl Tlb for Turns {
    fn flush_page(&self, _: VirtAddr, _: PageSize) {}

    fn flush_non_global(&self) {}

    fn flush_all(&self) {}

    fn send_ipi(&self, _: &CpuSet) {
        panic!("no CPU runs in the space");
    }

    fn now(&self) -> Ticks {
        Ticks(0)
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(u64::MAX)
    }

    fn on_unresponsive(&self, _: topomem::shootdown::Unresponsive) {}
}

// SAFETY: no CPU translates anything; the direct map is the simulated machine's.
unsafe impl Machine for Turns {
    type Format = X64;

    fn load_root(&self, _: PhysFrame) -> SwitchFlushed {
        SwitchFlushed::Yes
    }
}

/// The CPU `cpu`, which the caller plays.
pub(super) fn pin(cpu: usize) -> CpuPin {
    // SAFETY: in each case one coroutine at a time plays a CPU.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap_or(CpuId::BOOT)) }
}

/// Boots a service on `cpus` CPUs. It is there as long as the process.
///
/// # Panics
///
/// If the service refuses something: a defect of this module.
pub(super) fn boot(cpus: usize) -> &'static MemoryService<Turns> {
    try_boot(cpus).unwrap_or_else(|error| panic!("topomem: {error}"))
}

fn try_boot(cpus: usize) -> Result<&'static MemoryService<Turns>, Box<dyn Error>> {
    let machine = Sim::builder().nodes(NODES).cpus(cpus).memory(MEMORY).build()?;
    let service: &'static MemoryService<Turns> = Box::leak(Box::new(MemoryService::new(Turns(machine))));
    let boot_cpu = pin(0);
    let tables = machine.tables();
    let discovered = service.boot()?.discover(&tables.as_firmware(), Sim::BOOT_APIC, &mut |_| {});
    let mut map = machine.memory_map()?;
    let mut boot_memory = BootAllocator::new(&mut map, discovered.topology());
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() };
    let frames = discovered.frames(&boot_cpu, &mut boot_memory, &config)?;
    let window = PageRange::new(Sim::WINDOW, 512, PageSize::Size1GiB)?;
    let layout = KernelLayout { window, inherit: None };
    // SAFETY: nothing is inherited, and no CPU translates anything.
    unsafe { frames.no_heap().kernel_space(&boot_cpu, &layout) }?;
    for cpu in 1..cpus {
        // SAFETY: no CPU translates anything, or is ever interrupted.
        unsafe { service.cpu_online(&pin(cpu)) }?;
    }
    Ok(service)
}
