//! From QEMU's `-kernel` to every CPU running: the PVH entry, what the loader tells, the
//! kernel's own tables, the topology, an area and stacks for each CPU on its node.

pub mod command_line;
mod early;
mod error;
mod pvh;
pub mod start_info;

use core::arch::asm;

use arrayvec::ArrayVec;
use spin::Mutex;
use topomem_numa::{ApicId, BootAllocator, MemoryMap, Topology};
use topomem_percpu::MAX_CPUS;
use x86_64::PhysAddr;

use crate::arch::paging::KernelTables;
use crate::arch::{apic, clock, features, paging, pic, serial};
use crate::memory::{firmware, map};
use crate::per_cpu::{self, PerCpu};
use crate::{log, smp};
use early::{EarlyFrames, NodeFrames};
use error::{BootError, fail};
use start_info::StartInfo;

/// What the boot CPU's second half starts from; it outlives the boot stack it lies on, which
/// nobody uses again.
#[derive(Debug)]
pub struct Booted {
    /// The loader's words.
    pub start_info: StartInfo,
    /// The kernel's page tables.
    pub tables: KernelTables,
    /// The machine.
    pub topology: &'static Topology,
    /// Usable memory, with what boot took reserved.
    pub memory_map: &'static MemoryMap,
    /// Every CPU's area, the boot CPU's first.
    pub areas: ArrayVec<*mut PerCpu, MAX_CPUS>,
}

// Both are too large for the boot stack.
static TOPOLOGY: Mutex<Topology> = Mutex::new(Topology::new());
static MEMORY_MAP: Mutex<MemoryMap> = Mutex::new(MemoryMap::new());

/// Takes the boot CPU from the entry to [`crate::kernel_main`], on its own stack.
///
/// # Safety
///
/// Called once, by the entry, with the start info's address.
pub unsafe fn start(start_info: PhysAddr) -> ! {
    // SAFETY: the first thing this CPU does, and no other CPU runs.
    unsafe { early::set_up() };
    serial::init();
    clock::start();
    pic::disable();
    // SAFETY: the address is the loader's.
    match unsafe { prepare(start_info) } {
        Ok(mut booted) => {
            let area = booted.areas.first().copied();
            match area {
                // SAFETY: the area's stack is mapped and unused; `booted` stays where it is, since
                // this frame is never left.
                Some(area) => unsafe { switch_stack(&mut booted, (*area).stacks.work.as_u64()) },
                None => fail(BootError::NoCpus),
            }
        }
        Err(error) => fail(error),
    }
}

/// # Safety
///
/// As for [`start`].
unsafe fn prepare(start_info: PhysAddr) -> Result<Booted, BootError> {
    // SAFETY: the caller's promise, and the entry's tables are active.
    let start_info = unsafe { StartInfo::read(start_info) }.map_err(BootError::StartInfo)?;
    let mut early_frames = EarlyFrames::new();
    let mut tables =
        KernelTables::build(&start_info.memory_map, &mut early_frames).map_err(BootError::Map)?;
    // SAFETY: the boot stack lies in the image, which the new tables map.
    unsafe {
        tables.activate();
        features::enable();
    }
    if let Some(page) = apic::register_page() {
        let registers = tables.map_device(page, &mut early_frames).map_err(BootError::Map)?;
        apic::map(registers.as_u64());
    }

    let topology = spin::MutexGuard::leak(TOPOLOGY.lock());
    let firmware_tables = firmware::tables(start_info.rsdp);
    topology.discover(&firmware_tables, ApicId(features::apic_id()), &mut |diagnostic| {
        log!("firmware tables: {diagnostic}");
    });
    let topology: &'static Topology = topology;

    let memory_map = spin::MutexGuard::leak(MEMORY_MAP.lock());
    map::fill(memory_map, &start_info.memory_map).map_err(BootError::MapFull)?;
    let mut boot_allocator = BootAllocator::new(memory_map, topology);
    let mut areas = ArrayVec::new();
    if topology.cpus().len() <= 8 {
        apic::use_flat_logical();
    }
    for entry in topology.cpus() {
        let bytes = per_cpu::AREA_BYTES + per_cpu::stacks::BYTES;
        let memory = boot_allocator.alloc(bytes, 4096, entry.node).map_err(BootError::Memory)?;
        let mut frames = NodeFrames::new(&mut boot_allocator, entry.node);
        let stacks = per_cpu::stacks::map(entry.cpu, memory + per_cpu::AREA_BYTES, &mut tables, &mut frames)
            .map_err(BootError::Map)?;
        let area = paging::direct_map(memory).cast::<PerCpu>().as_ptr();
        // SAFETY: fresh memory of sufficient size, aligned to a frame, for this CPU alone.
        unsafe { area.write(PerCpu::new(entry.cpu, apic::ApicId(entry.apic_id.0), stacks)) };
        areas.push(area);
    }
    Ok(Booted { start_info, tables, topology, memory_map: boot_allocator.finish(), areas })
}

/// # Safety
///
/// `stack` is the top of a mapped stack that nothing uses; `booted` is valid for good.
unsafe fn switch_stack(booted: *mut Booted, stack: u64) -> ! {
    // SAFETY: nothing on the old stack is returned to; a zero frame pointer ends backtraces.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {main}",
            "ud2",
            stack = in(reg) stack,
            main = sym second_half,
            in("rdi") booted,
            options(noreturn),
        );
    }
}

extern "sysv64" fn second_half(booted: *mut Booted) -> ! {
    // SAFETY: `switch_stack` hands on the only pointer to it.
    let booted = unsafe { &mut *booted };
    if let Some(&area) = booted.areas.first() {
        // SAFETY: the boot CPU's area, not installed yet; the kernel's tables are active.
        if let Err(error) = unsafe { smp::start::set_up_cpu(area) } {
            fail(BootError::Apic(error));
        }
    }
    if !apic::calibrate_timer() {
        log!("the PIT is silent: times assume a TSC of 1 GHz");
    }
    crate::kernel_main(booted)
}
