//! From QEMU's `-kernel` to every CPU running: the PVH entry, what the loader tells, the
//! kernel's own tables, the topology, an area and stacks for each CPU on its node.

pub(crate) mod command_line;
mod early;
mod error;
pub(crate) mod pvh;

use core::arch::asm;
use core::fmt;

use arrayvec::ArrayVec;
use topomem::{
    ApicId, BootAllocator, CpuId, Discovered, FirmwareTables, MemoryMap, MemoryRange, PhysAddr, Topology,
};
use topomem_boot::{EarlyFrames, Leaves, Placed, StartInfo, StartUpPage, memory_map};
#[cfg(feature = "fault-injection")]
use topomem_stress::Break;

use crate::arch::interrupt::{apic, pic};
use crate::arch::paging::KernelTables;
use crate::arch::{clock, features, paging, serial, tlb, user};
use crate::log::Json;
use crate::memory::bring_up::bring_up;
use crate::memory::firmware;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::per_cpu::{self, MAX_CPUS, PerCpu};
use crate::{log, record, smp};
#[cfg(feature = "fault-injection")]
use crate::{memory::distort, scenario::broken};
use command_line::CommandLine;
use early::NodeFrames;
use error::{BootError, fail};

/// Every CPU's area, the boot CPU's first.
pub(crate) type Areas = ArrayVec<&'static PerCpu, MAX_CPUS>;

/// What the boot CPU's two halves pass on: from the boot stack, which nobody uses again, to its
/// own.
#[derive(Debug)]
struct PreparedBoot {
    start_info: StartInfo,
    tables: KernelTables,
    discovered: Discovered<Kernel>,
    memory: BootAllocator<'static>,
    areas: Areas,
    start_up_page: StartUpPage,
    leaves: Leaves,
    /// The machine as it is; `None` where the service was told the truth.
    truth: Option<&'static Topology>,
}

/// What boot leaves: the service works on this CPU, and the others can be started.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The loader's words.
    pub start_info: StartInfo,
    /// Where other CPUs are started.
    pub start_up_page: StartUpPage,
    /// What the first page tables have, the direct map above all.
    pub leaves: Leaves,
    /// Every CPU's area, the boot CPU's first.
    pub areas: Areas,
    /// The machine as it is, whatever the service was told.
    pub topology: &'static Topology,
    /// Usable memory, with what boot took reserved.
    pub memory_map: &'static MemoryMap,
}

/// Too large for the boot stack.
static MEMORY_MAP: spin::Mutex<MemoryMap> = spin::Mutex::new(MemoryMap::new());

/// Takes the boot CPU from the entry to [`crate::kernel_main`], on its own stack.
///
/// # Safety
///
/// Called once, by the entry, with the start info's address.
pub(crate) unsafe fn start(start_info: PhysAddr) -> ! {
    // SAFETY: the first thing this CPU does, and no other CPU runs.
    unsafe { early::set_up() };
    serial::init();
    clock::start();
    pic::disable();
    // SAFETY: the address is the loader's.
    let mut prepared = unsafe { prepare(start_info) }.unwrap_or_else(|error| fail(&error));
    match prepared.areas.first().map(|area| area.stacks.work.as_u64()) {
        // SAFETY: the area's stack is mapped and unused; `prepared` stays where it is, since
        // this frame is never left.
        Some(stack) => unsafe { switch_stack(&mut prepared, stack) },
        None => fail(&BootError::NoCpus),
    }
}

/// # Safety
///
/// As for [`start`].
unsafe fn prepare(start_info: PhysAddr) -> Result<PreparedBoot, BootError> {
    let at = start_info;
    // SAFETY: the caller's promise; the entry's tables are active, and show the first GiB.
    let start_info = unsafe { StartInfo::read(at, paging::BOOT_WINDOW) }.map_err(BootError::StartInfo)?;
    let words = CommandLine(start_info.command_line());
    tlb::choose(words.value("tlb"));
    user::choose_access_prevention(words.value("smap"));
    let placed = start_info.placed().chain(image());
    let entries = start_info.memory_map();
    let mut early_frames =
        EarlyFrames::find(entries, placed.clone().map(|placed| placed.range), paging::BOOT_WINDOW_END)
            .map_err(BootError::EarlyMemory)?;
    let start_up_page = memory_map::start_up_page(entries, placed).ok_or(BootError::NoStartUpPage)?;
    // SAFETY: the entry's tables are active, and the frames lie where they show memory.
    let mut tables =
        unsafe { KernelTables::build(&start_info, &mut early_frames) }.map_err(BootError::Map)?;
    // SAFETY: the boot stack lies in the image, which the new tables map.
    unsafe {
        tables.activate();
        features::enable();
    }
    // SAFETY: as before; the direct map shows it, and it is reserved from here on.
    let start_info = unsafe { StartInfo::read(at, paging::DIRECT_WINDOW) }.map_err(BootError::StartInfo)?;
    if let Some(page) = apic::register_page() {
        let registers = tables.map_device(page, &mut early_frames).map_err(BootError::Map)?;
        apic::map(registers.as_u64());
    }

    log!("TLB: {}", tlb::features());
    let boot_cpu = ApicId(features::apic_id());
    let (firmware_tables, truth) = told(&start_info, boot_cpu)?;
    let leaves = tables.leaves();
    log!(
        "first page tables: {}, with {} leaves of 1 GiB, {} of 2 MiB and {} of 4 KiB",
        leaves.tables,
        leaves.huge,
        leaves.large,
        leaves.small
    );
    let memory_map = spin::MutexGuard::leak(MEMORY_MAP.lock());
    let tables_taken = early_frames.handed_out().map(|range| Placed { range, name: "page tables" });
    let placed = start_info.placed().chain(image()).chain(tables_taken);
    let limit = paging::memory_limit();
    let bytes = memory_map::fill(memory_map, &Kernel, start_info.memory_map(), limit, placed)
        .map_err(BootError::MapFull)?;
    if bytes != 0 {
        left_out(
            format_args!("{} MiB of memory", bytes >> 20),
            format_args!("at or above {:#x}", limit.as_u64()),
        );
    }
    let service = SERVICE.boot().map_err(BootError::Service)?;
    let discovered = service.discover_in(memory_map, &firmware_tables, boot_cpu, &mut |diagnostic| {
        log!("firmware tables: {diagnostic}");
    });
    let topology = discovered.topology();
    apic::choose_logical(topology.cpus().len());
    let mut memory = BootAllocator::new(memory_map, topology);
    let mut areas = Areas::new();
    for entry in topology.cpus() {
        if entry.cpu.index() >= MAX_CPUS {
            left_out(format_args!("{}", entry.cpu), format_args!("this kernel starts {MAX_CPUS} CPUs"));
            continue;
        }
        let apic_id = match apic::mode().address(entry.apic_id.0) {
            Ok(apic_id) => apic_id,
            Err(error) if entry.cpu == CpuId::BOOT => return Err(BootError::Unreachable(error)),
            Err(error) => {
                left_out(format_args!("{}", entry.cpu), format_args!("{error}"));
                continue;
            }
        };
        let bytes = per_cpu::AREA_BYTES + per_cpu::stacks::BYTES;
        let start = memory.alloc(bytes, 4096, entry.node).map_err(BootError::Memory)?;
        let mut frames = NodeFrames::new(&mut memory, entry.node);
        let stacks = per_cpu::stacks::map(entry.cpu, start + per_cpu::AREA_BYTES, &mut tables, &mut frames)
            .map_err(BootError::Map)?;
        let place = paging::direct_map(start).cast::<PerCpu>();
        // SAFETY: fresh memory of sufficient size, aligned to a frame, for this CPU alone.
        areas.push(unsafe { PerCpu::place(place, entry.cpu, apic_id, stacks) });
    }
    Ok(PreparedBoot { start_info, tables, discovered, memory, areas, start_up_page, leaves, truth })
}

/// The kernel's own place in memory.
fn image() -> Option<Placed> {
    let (start, end) = paging::image();
    MemoryRange::new(start, end).map(|range| Placed { range, name: "kernel image" })
}

/// Says what part of the machine is not used, and why.
fn left_out(what: fmt::Arguments<'_>, why: fmt::Arguments<'_>) {
    log!("left out: {what}: {why}");
    record!("{{\"t\":\"left_out\",\"what\":{},\"why\":{}}}", Json(what), Json(why));
}

/// The tables that the service is told, and the true topology where they lie (`break=distance`).
fn told(
    start_info: &StartInfo,
    boot_cpu: ApicId,
) -> Result<(FirmwareTables<'static>, Option<&'static Topology>), BootError> {
    let tables = firmware::tables(start_info.rsdp());
    #[cfg(feature = "fault-injection")]
    if let Ok(Some(Break::Distance)) = broken::requested(CommandLine(start_info.command_line())) {
        let (tables, truth) = distort::distances(&tables, boot_cpu).map_err(BootError::Distort)?;
        return Ok((tables, Some(truth)));
    }
    let _ = boot_cpu;
    Ok((tables, None))
}

/// # Safety
///
/// `stack` is the top of a mapped stack that nothing uses; `prepared` is valid, and nobody uses it
/// afterwards.
unsafe fn switch_stack(prepared: *mut PreparedBoot, stack: u64) -> ! {
    // SAFETY: nothing on the old stack is returned to; a zero frame pointer ends backtraces.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {second}",
            "ud2",
            stack = in(reg) stack,
            second = sym second_half,
            in("rdi") prepared,
            options(noreturn),
        );
    }
}

extern "sysv64" fn second_half(prepared: *mut PreparedBoot) -> ! {
    // SAFETY: `switch_stack` hands on the only pointer to it.
    let PreparedBoot { start_info, tables, discovered, mut memory, areas, start_up_page, leaves, truth } =
        unsafe { prepared.read() };
    if let Some(area) = areas.first() {
        // SAFETY: the boot CPU's area, not installed yet; the kernel's tables are active.
        unsafe { smp::start::set_up_cpu(area) }.unwrap_or_else(|error| fail(&BootError::Apic(error)));
    }
    if !apic::calibrate_timer() {
        log!("the PIT is silent: times assume a TSC of 1 GHz");
    }
    let topology = discovered.topology();
    // SAFETY: no one changes the tables from here on, and the area is installed.
    unsafe { bring_up(discovered, &mut memory, tables.root().into()) }
        .unwrap_or_else(|error| fail(&BootError::BringUp(error)));
    // What the service has taken over, and what it has made: no frame is writable and executable.
    if let Some(found) = SERVICE.kernel_space().and_then(|space| space.find_writable_code(&pin())) {
        fail(&BootError::WritableCode(found));
    }
    let topology = truth.unwrap_or(topology);
    let memory_map = memory.finish();
    crate::kernel_main(&Booted { start_info, start_up_page, leaves, areas, topology, memory_map })
}
