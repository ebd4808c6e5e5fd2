//! One boot: the command, and how long it may take.

use std::process::Command;
use std::time::Duration;

use super::console::Console;
use super::{Linux, Request};
use crate::bench::figures::Figures;
use crate::bench::metric::Metric;
use crate::cli::EmulationOptions;
use crate::error::Error;
use crate::qemu;
use crate::session::{self, Limits};
use crate::shell;
use crate::topology::TopologySpec;

/// What Linux is told. It gets no chance to be slower than it need be: no mitigations, no page faults for the sake of
/// NUMA balancing, no watchdogs, four levels of page tables as topomem's kernel has. Huge pages would turn many pages
/// into one. Without randomised addresses the counts are the same each time. If it panics, the emulator ends.
const OPTIONS: &str = "console=ttyS0 panic=-1 mitigations=off numa_balancing=disable nowatchdog \
                       transparent_hugepage=never no5lvl nokaslr norandmaps";

/// Far more than a case and a boot take on a host that has nothing else to do.
const LIMITS: Limits = Limits { silence: Duration::from_secs(300), total: Duration::from_secs(1800) };

/// Boots and measures.
pub(super) fn boot(
    linux: &Linux,
    spec: &TopologySpec,
    emulation: EmulationOptions,
    request: Request,
) -> Result<Figures, Error> {
    let mut command: Command = qemu::machine_command(spec, emulation)?;
    command.args(["-monitor", "none"]).arg("-kernel").arg(&linux.kernel).arg("-initrd").arg(&linux.initramfs);
    command.arg("-append").arg(command_line(request));
    let mut console = Console::default();
    let typed = shell::typed(&command);
    let end = session::run(command, Some(LIMITS), &mut |line| console.line(line), &mut || {})?;
    let figures = console.conclude(spec.cpu_count(), end).map_err(Error::Linux)?;
    Ok(Figures { command: Some(typed), ..figures })
}

/// The kernel's options, and behind `--` what it hands to its first process.
fn command_line(Request { metric, samples }: Request) -> String {
    let metric = match metric {
        Metric::Instructions => "instructions",
        Metric::Time => "time",
    };
    format!("{OPTIONS} -- metric={metric} {}", samples.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::samples::Samples;

    #[test]
    fn the_program_is_told_what_to_do() {
        let samples = Samples { changes: 9, bursts: 2, in_flight: 1, idle: 0 };
        let line = command_line(Request { metric: Metric::Time, samples });
        let (kernel, program) = line.split_once(" -- ").unwrap();
        assert!(kernel.split(' ').any(|word| word == "mitigations=off"));
        assert_eq!(program, "metric=time changes=9 bursts=2 in_flight=1 idle=0");
        let counting = Request { metric: Metric::Instructions, samples };
        assert!(command_line(counting).contains("-- metric=instructions "));
    }
}
