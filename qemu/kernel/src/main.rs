//! The reference SMP kernel: boots topomem under QEMU.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod log;
mod memory;
mod panic;
mod per_cpu;
mod scenario;
mod smp;

/// Where the PVH entry arrives: boot CPU, interrupts off, on the boot stack and tables.
extern "sysv64" fn boot_main(start_info: u64) -> ! {
    // SAFETY: called once, by the entry, with what the loader left in EBX.
    unsafe { boot::start(x86_64::PhysAddr::new_truncate(start_info)) }
}

/// The boot CPU's second half, on its own stack and with interrupts off.
fn kernel_main(booted: &mut boot::Booted) -> ! {
    memory::report::topology(booted.topology, |node| {
        let pieces = booted.memory_map.pieces(booted.topology).filter(|piece| piece.node == node);
        pieces.map(|piece| piece.range.frames()).sum()
    });
    smp::ipi::join();
    let root = booted.tables.root().start_address();
    // SAFETY: called once; the areas were built for these CPUs, and the page below 1 MiB is
    // reserved in every memory map.
    unsafe {
        smp::start::start_all(booted.areas.iter().copied().skip(1), root, |error| log!("{error}"));
    }
    arch::apic::start_timer();
    x86_64::instructions::interrupts::enable();
    scenario::run(booted)
}

/// What every further CPU does once it is set up.
fn cpu_main() -> ! {
    smp::ipi::join();
    arch::apic::start_timer();
    loop {
        x86_64::instructions::interrupts::enable_and_hlt();
    }
}
