//! The end: one CPU reports, the others stop.

pub(crate) mod backtrace;
pub(crate) mod report;

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use topomem::CpuId;
use topomem_boot::{Destination, Message};
use x86_64::instructions::interrupts;

use crate::arch::clock;
use crate::arch::exit::{self, Outcome};
use crate::arch::interrupt::apic;
use crate::arch::interrupt::trap::TrapFrame;
use crate::log::Json;
use crate::smp::ipi;
use crate::{log, per_cpu, record};

const NONE: u32 = u32::MAX;
/// How long the others may take to stop; the host may run them late.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The CPU that panics, or `NONE`. Claimed once; who loses stops.
static PANICKING: AtomicU32 = AtomicU32::new(NONE);

/// The CPU that reports a panic, if one does.
pub(crate) fn panicking_cpu() -> Option<CpuId> {
    CpuId::new(PANICKING.load(Ordering::Relaxed) as usize)
}

/// What a second panic of the same CPU still allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    First,
    Again,
}

/// Makes the executing CPU the one that reports, and stops the others by NMI. A CPU that finds
/// another reporting halts here.
fn claim() -> Claim {
    interrupts::disable();
    let me = per_cpu::current().cpu.index() as u32;
    match PANICKING.compare_exchange(NONE, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // One by one: a CPU that is still being started has no handler for it.
            let running = ipi::running();
            for area in running.iter().filter_map(per_cpu::of).filter(|area| area.cpu.index() as u32 != me) {
                apic::send(Message::Nmi, Destination::Physical(area.apic_id));
            }
            Claim::First
        }
        Err(claimed) if claimed == me => Claim::Again,
        Err(_) => exit::halt_forever(),
    }
}

/// Reports where the others were stopped, and ends the run.
fn finish() -> ! {
    let me = per_cpu::current().cpu;
    let running = ipi::running();
    let others = || running.iter().filter_map(per_cpu::of).filter(move |area| area.cpu != me);
    let is_stopped = |area: &per_cpu::PerCpu| area.stopped_at.load(Ordering::Relaxed) != 0;
    let start = clock::now();
    while !others().all(is_stopped) && clock::elapsed(start) < TIMEOUT {
        core::hint::spin_loop();
    }
    for area in others() {
        match area.stopped_at.load(Ordering::Relaxed) {
            0 => log!("{} did not stop", area.cpu),
            at => log!("{} stopped at {at:#x}", area.cpu),
        }
    }
    record!("{{\"t\":\"end\",\"ok\":false}}");
    exit::exit(Outcome::Panic)
}

/// The NMI handler: another CPU panicked, or the hardware complains.
pub(crate) fn on_nmi(frame: &TrapFrame) {
    if panicking_cpu().is_some() {
        per_cpu::current().stopped_at.store(frame.rip, Ordering::Relaxed);
        exit::halt_forever();
    }
    report::exception(frame, None);
}

// On the host, where the workspace is checked as a whole, `std` has the handler.
#[cfg_attr(target_os = "none", panic_handler)]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
fn panic(info: &PanicInfo<'_>) -> ! {
    if claim() == Claim::Again {
        exit::exit(Outcome::Panic);
    }
    let cpu = per_cpu::current().cpu;
    log!("{info}");
    match info.location() {
        Some(location) => record!(
            "{{\"t\":\"panic\",\"message\":{},\"location\":{},\"cpu\":{}}}",
            Json(info.message()),
            Json(location),
            cpu.index()
        ),
        None => record!(
            "{{\"t\":\"panic\",\"message\":{},\"location\":\"\",\"cpu\":{}}}",
            Json(info.message()),
            cpu.index()
        ),
    }
    backtrace::Backtrace::here().report();
    finish()
}
