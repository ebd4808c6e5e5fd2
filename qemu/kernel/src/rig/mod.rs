//! The machine as the stress scenario drives it.

use core::time::Duration;

use topomem::{MemoryService, VirtAddr};
use topomem_stress::{Record, Report, Rig, Window};
use x86_64::instructions::interrupts;

use crate::arch::{clock, probe};
use crate::executor::sleep;
use crate::memory::bring_up;
use crate::memory::platform::{self, Kernel};
use crate::memory::service::SERVICE;
use crate::record;
use crate::smp::ipi;
use crate::smp::park::park;

/// This machine, with its own clock, faults and serial log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware;

impl Rig for Hardware {
    type Machine = Kernel;

    fn service(&self) -> &'static MemoryService<Kernel> {
        &SERVICE
    }

    fn cpus(&self) -> usize {
        ipi::running().len()
    }

    fn milliseconds(&self) -> u64 {
        clock::since_boot().as_millis() as u64
    }

    fn kernel_window(&self) -> Option<Window> {
        bring_up::kernel_window()
    }

    fn user_window(&self) -> Option<Window> {
        bring_up::user_window()
    }

    fn load(&self, address: VirtAddr) -> Option<u64> {
        probe::load(address.as_u64()).ok()
    }

    fn store(&self, address: VirtAddr, value: u64) -> Option<()> {
        // SAFETY: the scenario stores to the slots that it maps, of which Rust knows nothing.
        unsafe { probe::store(address.as_u64(), value) }.ok()
    }

    fn rest(&self, milliseconds: u32) -> impl Future<Output = ()> + Send {
        sleep(Duration::from_millis(u64::from(milliseconds)))
    }

    fn park(&self, milliseconds: u32) {
        park(Duration::from_millis(u64::from(milliseconds)));
    }

    fn ignore_shootdowns(&self, mut turn: impl FnMut() -> bool) {
        interrupts::without_interrupts(|| {
            while !turn() {
                // Not `per_cpu::relax`, which answers.
                core::hint::spin_loop();
            }
        });
    }

    fn reported(&self) -> Option<Report> {
        platform::reported()
    }

    fn report(&self, report: Record<'_>) {
        record!("{report}");
    }
}
