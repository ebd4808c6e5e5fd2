//! How much stack `Frames::init` takes: kernels call it on a boot stack, which is often 16 KiB.
// The stack below the current frame is not the program's for Miri.
#![cfg(all(not(any(loom, miri)), target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
#[path = "../tables/tables_support/mod.rs"]
mod tables_support;

use core::arch::asm;

use frames_support::{Host, MIB};
use tables_support::model::{Cpu, Machine, Memory};
use topomem_numa::frames::{DoubleFrees, Frames, FramesConfig, PerFrameTable, Zeroing};
use topomem_numa::{BootAllocator, MemoryMap, MemoryRange};

/// The stack that is looked at, in bytes, and what it is filled with.
const LOOKED_AT: usize = 512 << 10;
const UNTOUCHED: u8 = 0xa5;
/// Bytes right below the stack pointer that are left alone: signal handlers and the compiler may use them.
const RED_ZONE: usize = 512;

/// The bound, in bytes.
const BOUND: usize = if cfg!(debug_assertions) { 16 << 10 } else { 8 << 10 };

/// Fills the stack below.
#[inline(never)]
fn fill() {
    // SAFETY: the thread's stack has so much room left, and what lies below the red zone is nobody's.
    unsafe {
        asm!(
            "lea rdi, [rsp - {all}]",
            "rep stosb",
            all = const LOOKED_AT + RED_ZONE,
            inout("rcx") LOOKED_AT => _,
            in("al") UNTOUCHED,
            out("rdi") _,
        );
    }
}

/// Returns how many bytes of the filled stack were written to.
#[inline(never)]
fn used() -> usize {
    let untouched: usize;
    // SAFETY: as in `fill`.
    unsafe {
        asm!(
            "lea rdi, [rsp - {all}]",
            "repe scasb",
            all = const LOOKED_AT + RED_ZONE,
            inout("rcx") LOOKED_AT => untouched,
            in("al") UNTOUCHED,
            out("rdi") _,
        );
    }
    untouched
}

/// Returns how much stack `act` takes.
#[inline(never)]
fn stack_of(act: impl FnOnce()) -> usize {
    fill();
    act();
    used()
}

/// Boots a machine of 8 nodes and 64 CPUs. Returns how much stack that took.
fn init(config: &FramesConfig) -> usize {
    let machine = Machine {
        cpus: (0..64).map(|apic| Cpu { apic, proximity: Some(apic / 8), enabled: true }).collect(),
        memory: (0..8)
            .map(|node| Memory {
                proximity: node,
                base: (1 + u64::from(node)) * 16 * MIB,
                bytes: 16 * MIB,
                flags: 1,
            })
            .collect(),
        ..Machine::default()
    };
    let (topology, _) = machine.tables().discover(0);
    let mut map = Box::new(MemoryMap::new());
    map.add_usable(MemoryRange::from_bounds(16 * MIB, 9 * 16 * MIB)).unwrap();
    let frames: &'static Frames<Host> = Box::leak(Box::new(Frames::new(Host::with(9 * 16 * MIB))));
    let mut boot = BootAllocator::new(&mut map, &topology);
    let mut result = None;
    let used = stack_of(|| result = Some(frames.init(&mut boot, config)));
    assert_eq!(result, Some(Ok(())));
    used
}

#[test]
fn init_fits_a_boot_stack() {
    // A thread of the test's own: what is below its stack pointer is known to be there.
    let measure = || {
        let everything = FramesConfig {
            table: PerFrameTable::Present,
            double_frees: DoubleFrees::FoundAtOnce,
            zeroing: Zeroing::OnFree,
            ..FramesConfig::default()
        };
        [init(&FramesConfig::default()), init(&everything)]
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(measure);
    let used = thread.unwrap().join().unwrap();
    println!("Frames::init takes {used:?} bytes of stack");
    assert!(used.iter().all(|&used| used > 1000 && used <= BOUND), "{used:?} bytes, and {BOUND} are allowed");
}
