//! `cargo xtask bench shootdown`: what changes of mappings cost in the reference kernel.

use serde_json::json;

use crate::cli::{Accelerator, BenchShootdownArgs, EmulationOptions, ScenarioOptions};
use crate::error::Error;
use crate::kernel::{Kernel, Variant};
use crate::qemu::{self, Job};
use crate::report::{self, Finished, Screen};
use crate::tools::{self, Tool};
use crate::topology::{MachineOptions, Size};
use crate::workspace;

/// What the kernel runs.
const SCENARIO: &str = "measure-shootdown";
/// The machines, by their CPUs. Exact counts need no more than the ends and the middle; in time, more than two CPUs
/// mean something for counts alone.
const COUNTED: [u32; 4] = [1, 2, 8, 64];
const TIMED: [u32; 4] = [1, 2, 4, 8];

/// Measures all cases on all machines.
pub(super) fn shootdown(arguments: &BenchShootdownArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let kernel = Kernel::build(Variant::Plain)?;
    let mut screen = Screen::open();
    let machines = if arguments.icount { COUNTED } else { TIMED };
    let machines = if arguments.quick { &machines[..2] } else { &machines };
    let emulation = EmulationOptions { gdb: false, icount: arguments.icount, accel: Accelerator::Tcg };
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for &cpus in machines {
        let finished = boot(&kernel, cpus, emulation, &mut screen)?;
        report::summary(&finished).iter().for_each(|line| screen.line(line));
        results.extend(finished.results);
        failures.extend(finished.failures);
    }
    let succeeded = failures.is_empty();
    let options = json!({ "quick": arguments.quick, "icount": arguments.icount });
    let options = options.as_object().cloned().unwrap_or_default();
    super::write(arguments.json.as_deref(), "bench shootdown", options, results, failures)?;
    Ok(succeeded)
}

/// One boot, on one node: what is measured has nothing to do with distance.
fn boot(
    kernel: &Kernel,
    cpus: u32,
    emulation: EmulationOptions,
    screen: &mut Screen,
) -> Result<Finished, Error> {
    let machine =
        MachineOptions { nodes: 1, cpus, memory: Size::from_mib(1024), distance: Vec::new(), topology: None };
    let spec = machine.spec(workspace::root())?;
    let scenario = ScenarioOptions { scenario: SCENARIO.to_owned(), seconds: 60, seed: 1, fault: None };
    qemu::run(Job { kernel, spec: &spec, scenario: &scenario, emulation }, screen)
}
