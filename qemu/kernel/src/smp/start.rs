//! Starting the other CPUs: INIT to all of them, then start-up messages one CPU at a time.
//!
//! A CPU that does not arrive in time is given up, by a compare-and-swap against its own arrival
//! ([`Admission`](topomem_boot::Admission)). After its start-up message no CPU is sent an INIT: it could
//! hit one that has just become a member. A CPU that arrives too late parks.

use core::fmt;
use core::time::Duration;

use topomem::{CpuId, PhysAddr};
use topomem_boot::{ApicAddress, Destination, Message, StartUpPage};

use super::trampoline;
use crate::arch::gdt::Segments;
use crate::arch::interrupt::apic::{self, SetUpError};
use crate::arch::interrupt::idt;
use crate::arch::{clock, features, user};
use crate::log;
use crate::per_cpu::{self, PerCpu};

/// Between INIT and the first start-up message (Intel's MP specification, B.4).
const AFTER_INIT: Duration = Duration::from_millis(10);
/// How long to wait before the second start-up message.
const AFTER_FIRST: Duration = Duration::from_millis(20);
/// How long to wait after the second. Long, since the host may run the CPU late.
const AFTER_SECOND: Duration = Duration::from_secs(2);

/// A CPU that the firmware lists does not take part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartError {
    /// It did not arrive in time. If it arrives later, it parks.
    Silent(CpuId, ApicAddress),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Silent(cpu, apic_id) => write!(f, "{cpu} (APIC id {}) did not start", apic_id.id()),
        }
    }
}

/// Sets up the executing CPU: its area, segments, traps and local APIC. Interrupts stay off.
///
/// # Errors
///
/// [`SetUpError`] of the local APIC.
///
/// # Safety
///
/// `area` is this CPU's, with its stacks mapped, and not installed yet; the kernel's tables
/// are active.
pub(crate) unsafe fn set_up_cpu(area: &'static PerCpu) -> Result<(), SetUpError> {
    // SAFETY: handed on by the caller; the boot CPU has filled the trap table.
    unsafe {
        per_cpu::install(area);
        Segments::load(area.segments.get(), area.stacks.trap);
        idt::load();
        features::enable();
        user::enable_system_calls();
    }
    // `Segments::load` writes no selector into GS, which would clear its base.
    let local = apic::set_up(area.cpu)?;
    // SAFETY: this CPU's own, interrupts off, nobody uses it yet.
    unsafe { *area.apic.get() = Some(local) };
    Ok(())
}

/// Starts the CPUs of `areas` by the code in `page`, each on `root`'s tables, and tells `failed` of those
/// that stay silent; the others run [`crate::cpu_main`].
///
/// # Safety
///
/// Called once, by the boot CPU. Each area is a distinct CPU's, with its stacks mapped in
/// `root`, and stays for good; the page is RAM that nobody uses.
pub(crate) unsafe fn start_all(
    areas: &[&'static PerCpu],
    page: StartUpPage,
    root: PhysAddr,
    mut failed: impl FnMut(StartError),
) {
    // SAFETY: the caller gives the page.
    unsafe { trampoline::install(page, root) };
    for area in areas {
        apic::send(Message::Init, Destination::Physical(area.apic_id));
    }
    clock::delay(AFTER_INIT);
    for area in areas {
        let PerCpu { cpu, apic_id, .. } = **area;
        trampoline::prepare(area);
        let arrived = [AFTER_FIRST, AFTER_SECOND].into_iter().any(|blocking| {
            apic::send(Message::StartUp(page), Destination::Physical(apic_id));
            wait_for(area, blocking)
        });
        // It may have been admitted since the last look.
        if !arrived && area.admission.give_up() {
            failed(StartError::Silent(cpu, apic_id));
        }
    }
}

fn wait_for(area: &PerCpu, blocking: Duration) -> bool {
    let start = clock::now();
    while !area.admission.is_admitted() {
        if clock::elapsed(start) > blocking {
            return false;
        }
        per_cpu::relax();
    }
    true
}

/// Where a further CPU enters Rust: interrupts off, on its own stack and the kernel's tables.
pub(crate) extern "sysv64" fn ap_main(area: &'static PerCpu) -> ! {
    // SAFETY: the starting CPU prepared the area for this CPU alone.
    if let Err(error) = unsafe { set_up_cpu(area) } {
        log!("{error}");
        crate::arch::exit::halt_forever()
    }
    if !area.admission.enter() {
        // Too late: nothing counts on this CPU, and nothing will be sent to it.
        crate::arch::exit::halt_forever()
    }
    crate::cpu_main()
}
