//! A small kernel that was not built around topomem, and takes its tiers one at a time.
//!
//! It is preemptive (a timer interrupt switches tasks, and any CPU goes on with any task), identity-mapped in the
//! lower half, and has page tables, a page allocator and a list of CPUs of its own. What it takes of topomem is
//! in one file: `tier/<name>.rs`, by the feature of that name. What its tasks then do with that, and what must
//! hold at the end, is in `work/<name>.rs`.
#![no_std]
#![no_main]

mod arch;
mod lock;
mod machine;
#[allow(dead_code, reason = "not every tier needs it")]
mod paging;
#[allow(dead_code, reason = "not every tier needs it")]
mod random;
mod task;

#[cfg(feature = "frames")]
#[path = "tier/frames.rs"]
mod tier;
#[cfg(feature = "frames")]
#[path = "work/frames.rs"]
mod work;

#[cfg(any(feature = "heap", feature = "shootdown"))]
mod pages;
#[cfg(feature = "heap")]
#[path = "tier/heap.rs"]
mod tier;
#[cfg(feature = "heap")]
#[path = "work/heap.rs"]
mod work;

#[cfg(feature = "frames-heap")]
#[path = "tier/frames_heap.rs"]
mod tier;
#[cfg(feature = "frames-heap")]
#[path = "work/frames_heap.rs"]
mod work;

#[cfg(feature = "shootdown")]
#[path = "tier/shootdown.rs"]
mod tier;
#[cfg(feature = "shootdown")]
#[path = "work/shootdown.rs"]
mod work;

#[cfg(feature = "everything")]
#[path = "tier/everything.rs"]
mod tier;
#[cfg(feature = "everything")]
#[path = "work/everything.rs"]
mod work;

#[cfg(feature = "none")]
#[path = "tier/none.rs"]
mod tier;
#[cfg(feature = "none")]
#[path = "work/none.rs"]
mod work;

use core::fmt::Display;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::instructions::interrupts;

use arch::serial::{Outcome, exit};
use arch::{apic, cpu, entry};
use machine::Machine;

/// How many CPUs have left the tier.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Where the boot CPU arrives, with interrupts off, on the boot stack.
extern "sysv64" fn boot_main(start_info: u64) -> ! {
    // SAFETY: called once, by the entry, with what the loader left in EBX; no other CPU runs.
    let machine = unsafe {
        arch::interrupts::fill();
        apic::silence_old_controllers();
        arch::set_up_cpu(0);
        Machine::read(start_info)
    };
    println!("{} CPUs, {} ranges of RAM", machine.apic_ids().len(), machine.ram().len());
    tier::boot(&machine);
    println!("{} bytes of the boot stack were used", entry::boot_stack_used());
    work::begin();
    tier::cpu_online();
    // SAFETY: called once; nothing below 1 MiB is used, since `Machine::ram` leaves it out.
    unsafe {
        task::start_all();
        must("a CPU does not start: APIC id", arch::start::start_all(&machine.apic_ids()[1..]));
    }
    apic::start_timer();
    while !task::all_are_done() {
        interrupts::enable_and_hlt();
    }
    leave();
    while LEFT.load(Ordering::Acquire) < machine.apic_ids().len() as u32 {
        interrupts::enable_and_hlt();
    }
    work::end();
    let (preemptions, cpus) = task::preemptions();
    println!("{preemptions} preemptions; a task ran on {cpus} CPUs");
    // What it is about: without it, nothing was shown.
    assert!(preemptions > task::ENOUGH && cpus > 1, "tasks were not preempted");
    println!("ok");
    exit(Outcome::Success)
}

/// Where every other CPU arrives, set up, with interrupts off, on its own stack.
fn cpu_main() -> ! {
    tier::cpu_online();
    apic::start_timer();
    while !task::all_are_done() {
        interrupts::enable_and_hlt();
    }
    leave();
    loop {
        interrupts::enable_and_hlt();
    }
}

/// Gives back what the executing CPU holds of the tier.
fn leave() {
    tier::cpu_offline();
    println!("CPU {} left", cpu::index());
    LEFT.fetch_add(1, Ordering::AcqRel);
}

/// Returns what must be there for the kernel to go on.
pub(crate) fn must<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("CPU {}: {info}", cpu::index());
    exit(Outcome::Failure)
}
