//! One boot: the command, and how long it may take.

use std::process::Command;
use std::time::Duration;

use super::Linux;
use super::console::Console;
use crate::bench::figures::Figures;
use crate::cli::EmulationOptions;
use crate::error::Error;
use crate::qemu;
use crate::run::session::{self, Limits};
use crate::shell;
use crate::topology::TopologySpec;

/// What Linux is told. It gets no chance to be slower than it need be: no mitigations, no page faults for the sake of
/// NUMA balancing, no watchdogs, four levels of page tables as topomem's kernel has. Huge pages would turn many pages
/// into one. Without randomised addresses the counts are the same each time. If it panics, the emulator ends.
const OPTIONS: &str = "console=ttyS0 panic=-1 mitigations=off numa_balancing=disable nowatchdog \
                       transparent_hugepage=never no5lvl nokaslr norandmaps";

/// Where what it draws at random begins: always the same.
const SEED: u64 = 1;

/// Far more than a case and a boot take on a host that has nothing else to do.
const LIMITS: Limits = Limits { silence: Duration::from_secs(300), total: Duration::from_secs(1800) };

/// Boots and measures.
pub(super) fn boot(
    linux: &Linux,
    spec: &TopologySpec,
    emulation: EmulationOptions,
    words: &str,
) -> Result<Figures, Error> {
    let mut command: Command = qemu::machine_command(spec, emulation, SEED)?;
    command.args(["-monitor", "none"]).arg("-kernel").arg(&linux.kernel).arg("-initrd").arg(&linux.initramfs);
    command.arg("-append").arg(command_line(words));
    let mut console = Console::default();
    let typed = shell::typed(&command);
    let end = session::run(command, Some(LIMITS), &mut |line| console.line(line), &mut || {})?;
    let figures = console.conclude(spec.cpu_count(), end).map_err(Error::Linux)?;
    Ok(Figures { command: Some(typed), ..figures })
}

/// The kernel's options, and behind `--` what it hands to its first process.
fn command_line(words: &str) -> String {
    format!("{OPTIONS} -- {words}")
}
