//! A scenario on a machine under QEMU, from the command to the report.

use std::time::Duration;

use crate::cli::{Accelerator, EmulationOptions, ScenarioOptions};
use crate::error::Error;
use crate::machines::kernel::Kernel;
use crate::report::{Finished, Report, Screen};
use crate::run::session::{self, Limits};
use crate::run::symbolize::Symbols;
use crate::run::verdict;
use crate::shell;
use crate::topology::TopologySpec;

use super::command::{self, command};
use super::monitor;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) spec: &'a TopologySpec,
    pub(crate) scenario: &'a ScenarioOptions,
    /// Further words for the kernel.
    pub(crate) words: &'a str,
    pub(crate) emulation: EmulationOptions,
}

/// Boots the kernel and follows it to its end.
pub(crate) fn run(job: Job<'_>, screen: &mut Screen) -> Result<Finished, Error> {
    let symbols = Symbols::load(job.kernel.elf())?;
    let command = command(job)?;
    let typed = shell::typed(&command);
    if job.emulation.gdb {
        screen.line("waiting for gdb; in another terminal, type");
        screen.line(&format!("    gdb {} -ex 'target remote :1234'", job.kernel.elf().display()));
    }
    let mut report = Report::new(Some(&symbols));
    let mut stalled = None;
    let mut on_stall = || stalled = monitor::backtraces(&monitor::socket(), &symbols);
    let end = session::run(command, limits(&job), &mut |line| report.line(line, screen), &mut on_stall)?;
    if let Some(backtraces) = stalled {
        report.backtrace("where the CPUs were:", backtraces, screen);
    }
    // QEMU removes it only when it ends by itself.
    let _ = std::fs::remove_file(monitor::socket());
    for complaint in &end.complaints {
        screen.line(complaint);
    }
    let apic = command::apic(job.spec, job.emulation)?;
    let failures = verdict::failures(job.spec, job.scenario, Some(apic), &report, &end);
    Ok(Finished { command: Some(typed), ..report.finish(failures, end.duration) })
}

/// A kernel that waits for gdb may wait forever.
fn limits(job: &Job<'_>) -> Option<Limits> {
    let EmulationOptions { gdb, icount, accel, .. } = job.emulation;
    // With one host thread and a virtual clock that counts instructions, a guest's second takes many.
    let slowdown = match accel {
        Accelerator::Tcg if icount => 20,
        Accelerator::Tcg => 1,
        // Without hardware it emulates, one instruction at a time.
        Accelerator::Kvm => 4,
    };
    let scenario = Duration::from_secs(u64::from(job.scenario.seconds));
    // The firmware starts all CPUs before the kernel says a word.
    let firmware = Duration::from_millis(500) * job.spec.cpu_count();
    let silence = (Duration::from_secs(60) + firmware) * slowdown;
    let total = (scenario * 4 + Duration::from_secs(120) + firmware) * slowdown;
    (!gdb).then_some(Limits { silence, total })
}
