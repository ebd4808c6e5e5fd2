//! The reference SMP kernel: boots topomem under QEMU.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod executor;
mod file;
mod log;
mod measure;
mod memory;
mod panic;
mod per_cpu;
mod process;
mod rig;
mod scenario;
mod smp;
mod syscall;

use x86_64::instructions::interrupts;

/// Where the PVH entry arrives: boot CPU, interrupts off, on the boot stack and tables.
extern "sysv64" fn boot_main(start_info: u64) -> ! {
    // SAFETY: called once, by the entry, with what the loader left in EBX.
    unsafe { boot::start(topomem::PhysAddr::new(start_info)) }
}

/// The boot CPU once the service works: starts the others, and becomes one of them.
fn kernel_main(booted: &boot::Booted) -> ! {
    smp::ipi::join();
    let root = arch::tlb::root().start_address();
    // SAFETY: called once; the areas were built for these CPUs, and the page below 1 MiB is
    // reserved in every memory map and holds nothing of the loader's.
    unsafe {
        let others = booted.areas.get(1..).unwrap_or_default();
        smp::start::start_all(others, booted.start_up_page, root, |error| log!("{error}"));
    }
    let request = scenario::Request::new(booted);
    match executor::spawn_on(topomem::CpuId::BOOT, || scenario::run(request)) {
        Ok(task) => task.detach(),
        Err(error) => scenario::end_early(format_args!("{error}")),
    }
    work()
}

/// What a further CPU does once it is set up.
fn cpu_main() -> ! {
    // SAFETY: the starting CPU gave it the kernel's tables; it takes interrupts right after.
    match unsafe { memory::service::cpu_online() } {
        Ok(()) => {
            smp::ipi::join();
            work()
        }
        Err(error) => {
            log!("does not come online: {error}");
            arch::exit::halt_forever()
        }
    }
}

/// What every CPU does for good: take interrupts and run tasks.
fn work() -> ! {
    let cpu = per_cpu::current().cpu;
    match executor::spawn_on(cpu, move || memory::service::SERVICE.task(cpu)) {
        Ok(task) => task.detach(),
        Err(error) => log!("no service task: {error}"),
    }
    arch::interrupt::apic::start_timer();
    interrupts::enable();
    executor::run()
}
