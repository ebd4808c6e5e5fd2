//! Everything: frames, heap, page tables, spaces and shootdown. The kernel stays where it is, identity-mapped in the
//! lower half; programs have the part of that from [`PROGRAMS`] on, and the service maps in [`WINDOW`].

use core::arch::asm;

use topomem::Machine as Paging;
use topomem::prelude::*;
use x86_64::registers::control::{Cr3, Efer, EferFlags};

use crate::arch::{apic, cpu, interrupts};
use crate::machine::Machine;
use crate::{must, println};

/// Where the service maps: the third 512 GiB.
pub(crate) const WINDOW: u64 = 2 << 39;
/// Where programs' addresses begin: the upper half of the lower half.
pub(crate) const PROGRAMS: u64 = 128 << 39;

#[derive(Clone, Copy)]
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
    fn relax(&self) {
        SERVICE.poll_shootdown(&self.pin());
        core::hint::spin_loop();
    }
}

// SAFETY: the flushes are the library's own; the write to the interrupt controller comes after all stores, and the
// handler calls the service.
unsafe impl Tlb for Kernel {
    fn send_ipi(&self, to: &CpuSet) {
        to.iter().for_each(|cpu| apic::send(interrupts::TIER, cpu.index()));
    }
    fn on_unresponsive(&self, report: Unresponsive) {
        panic!("{report:?}");
    }
}

// SAFETY: a write to CR3 without PCID flushes what is not global.
unsafe impl Paging for Kernel {
    type Format = X64;
    fn load_root(&self, root: PhysFrame) -> SwitchFlushed {
        // SAFETY: the root maps the kernel as the former one did, and is a multiple of 4096: no flag is set.
        unsafe {
            asm!("mov cr3, {0}", in(reg) root.start_address().as_u64(), options(nostack, preserves_flags));
        };
        SwitchFlushed::Yes
    }
}

pub(crate) static SERVICE: MemoryService<Kernel> = MemoryService::new(Kernel);
#[global_allocator]
pub(crate) static HEAP: KernelHeap<Kernel> = KernelHeap::new(Kernel, &SERVICE);
static EARLY: EarlyMemory = EarlyMemory::new();

pub(crate) fn boot(machine: &Machine) {
    allow_no_execute();
    let pin = Kernel.pin();
    let mut early = must("early memory", EARLY.open().ok_or("in use"));
    for ram in machine.ram() {
        must("memory map", early.map.add_usable(MemoryRange::from_bounds(ram.start, ram.end)));
    }
    let image = machine.image();
    must("memory map", early.map.reserve(MemoryRange::from_bounds(image.start, image.end), "kernel"));
    let root = PhysFrame::containing_address(PhysAddr::new(Cr3::read().0.start_address().as_u64()));
    // SAFETY: the tables that the kernel booted with map RAM to itself, and nobody changes them.
    must("memory map", unsafe { early.map.reserve_active_page_tables(&Kernel) });
    // SAFETY: the loader's RSDP; tables lie below 4 GiB, and nobody writes to them.
    let tables = must("ACPI", unsafe { find_tables(DirectMap(&Kernel), PhysAddr::new(machine.rsdp())) });
    let service = must("boot", SERVICE.boot());
    let boot_cpu = ApicId(machine.apic_ids()[0]);
    let found = service.discover_in(&mut early.map, &tables, boot_cpu, &mut |found| println!("{found}"));
    let mut memory = BootAllocator::new(&mut early.map, found.topology());
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
    let frames = must("frames", found.frames(&pin, &mut memory, &config));
    let programs =
        must("programs", PageRange::new(VirtAddr::new_truncate(PROGRAMS), 128 << 9, PageSize::Size1GiB));
    let heap = must("programs", must("heap", frames.heap(&pin, &HEAP)).programs(programs));
    let window = must("window", PageRange::new(VirtAddr::new_truncate(WINDOW), 512, PageSize::Size1GiB));
    // SAFETY: the tables that the kernel booted with stay as they are, and the window is the service's.
    must("kernel space", unsafe { heap.kernel_space(&pin, &KernelLayout { window, inherit: Some(root) }) });
}

/// Entries of page tables may forbid execution.
fn allow_no_execute() {
    // SAFETY: every x86-64 CPU that runs this kernel has the bit.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE)) };
}

pub(crate) fn cpu_online() {
    let pin = Kernel.pin();
    if pin.cpu() != CpuId::BOOT {
        allow_no_execute();
        // SAFETY: interrupts can reach the CPU, and it touches nothing of the window yet.
        must("CPU", unsafe { SERVICE.cpu_online(&pin) });
    }
}

pub(crate) fn cpu_offline() {
    // SAFETY: from here on the CPU touches nothing whose mapping changes.
    must("CPU", unsafe { SERVICE.cpu_offline(&Kernel.pin()) });
}

pub(crate) fn interrupt() {
    // Nobody waits by a waker.
    let _ = SERVICE.on_shootdown_ipi(&Kernel.pin());
}
