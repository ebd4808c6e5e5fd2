//! What each CPU keeps for itself, reached through the GS base; on the CPU's own node, save the
//! boot CPU's first area, which serves until the nodes are known.

pub(crate) mod stacks;

use core::cell::UnsafeCell;
use core::hint;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use topomem::CpuId;
use topomem_boot::{Admission, ApicAddress};
use x2apic::lapic::LocalApic;
use x86_64::registers::model_specific::Msr;

use crate::arch::gdt::Segments;
use crate::arch::user::UserMode;
use crate::memory::service;
use stacks::StackTops;

/// IA32_GS_BASE.
const GS_BASE: u32 = 0xc000_0101;

/// Bytes that an area takes, in whole frames.
pub(crate) const AREA_BYTES: u64 = (size_of::<PerCpu>() as u64).next_multiple_of(4096);

/// One CPU's area. Only the fields that say so are touched by other CPUs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct PerCpu {
    /// The area's own address, what `gs:0` reads.
    this: *const PerCpu,
    /// The dense number.
    pub cpu: CpuId,
    /// The interrupt hardware's number.
    pub apic_id: ApicAddress,
    /// Where its stacks begin.
    pub stacks: StackTops,
    /// Descriptor table and task state; the owner's alone, reached by raw pointer since the
    /// CPU itself reads and writes them.
    pub segments: UnsafeCell<Segments>,
    /// The local APIC; the owner's alone, with interrupts off.
    pub apic: UnsafeCell<Option<LocalApic>>,
    /// Whether the CPU takes part: decided once, when it starts or is given up.
    pub admission: Admission,
    /// True from before the last look at the queue until the CPU has left HLT, or user mode. Others
    /// read it: if a CPU has made work visible and then reads true, it must send an interrupt.
    pub halted: AtomicBool,
    /// Where the CPU was when another panicked; 0 unless it was stopped so.
    pub stopped_at: AtomicU64,
    /// What entering user mode and leaving it needs; the owner's alone.
    pub user: UserMode,
    /// What happened here.
    pub counters: Counters,
}

/// Events on one CPU; written by it alone, read by reports, so all accesses are relaxed.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Timer interrupts.
    pub timer: AtomicU64,
    /// Reschedule interrupts received.
    pub reschedules: AtomicU64,
    /// Interrupt messages sent (one may reach many CPUs).
    pub messages_sent: AtomicU64,
}

// SAFETY: `this`, `cpu` and `apic_id` are constant; `segments`, `apic` and `user` are the owner's alone;
// the rest is atomic.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    /// Makes an area for `cpu` in the memory at `place`; not in use yet.
    ///
    /// # Safety
    ///
    /// `place` is valid for an area, unused, and stays for good.
    pub(crate) unsafe fn place(
        place: NonNull<PerCpu>,
        cpu: CpuId,
        apic_id: ApicAddress,
        stacks: StackTops,
    ) -> &'static PerCpu {
        let area = PerCpu {
            this: place.as_ptr(),
            cpu,
            apic_id,
            stacks,
            segments: UnsafeCell::new(Segments::new()),
            apic: UnsafeCell::new(None),
            admission: Admission::new(),
            halted: AtomicBool::new(false),
            stopped_at: AtomicU64::new(0),
            user: UserMode::new(),
            counters: Counters {
                timer: AtomicU64::new(0),
                reschedules: AtomicU64::new(0),
                messages_sent: AtomicU64::new(0),
            },
        };
        // SAFETY: the caller gives the memory.
        unsafe {
            place.write(area);
            place.as_ref()
        }
    }
}

/// Bounds the CPUs that this kernel starts.
pub(crate) const MAX_CPUS: usize = 1024;

/// The areas by CPU; null until the CPU runs.
static AREAS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// Makes `area` the executing CPU's.
///
/// # Safety
///
/// The area's number is the executing CPU's alone.
pub(crate) unsafe fn install(area: &'static PerCpu) {
    // Not the x86_64 crate's `GsBase`: its addresses end at 48 bits.
    // SAFETY: from here on `gs:0` is the area, which stays.
    unsafe { Msr::new(GS_BASE).write(ptr::from_ref(area).expose_provenance() as u64) };
    // Release pairs with the Acquire in `of`.
    // Boot makes no area for a CPU with another number.
    AREAS[area.cpu.index()].store(ptr::from_ref(area).cast_mut(), Ordering::Release);
}

/// The executing CPU's area. Contexts never migrate.
pub(crate) fn current() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: the first thing every CPU does is to install its area, whose first word is its
    // own address.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) area, options(pure, readonly, nostack, preserves_flags));
        &*area
    }
}

/// The area of `cpu`, if it runs.
pub(crate) fn of(cpu: CpuId) -> Option<&'static PerCpu> {
    // SAFETY: non-null addresses come from `install`, and stay valid.
    unsafe { AREAS.get(cpu.index())?.load(Ordering::Acquire).as_ref() }
}

/// One turn of every spin loop in the kernel: answers shootdowns, so that two CPUs that wait for
/// each other with interrupts off both make progress.
pub(crate) fn relax() {
    service::poll();
    hint::spin_loop();
}

/// The relaxation of the kernel's own locks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Polling;

impl spin::RelaxStrategy for Polling {
    fn relax() {
        relax();
    }
}
