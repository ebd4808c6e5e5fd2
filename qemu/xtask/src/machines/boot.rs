//! `cargo xtask qemu`: one machine, one scenario.

use super::kernel::{Kernel, Variant};
use crate::cli::{RunArgs, ScenarioOptions};
use crate::error::Error;
use crate::programs;
use crate::qemu::{self, Job};
use crate::report::{self, Document, Finished, Screen};
use crate::run::description::describe;
use crate::run::record::Failure;
use crate::tools::{self, Tool};
use crate::topology::TopologySpec;
use crate::workspace;

/// Builds and boots the kernel, and shows what came of it. Did it succeed?
pub(crate) fn boot(arguments: &RunArgs) -> Result<bool, Error> {
    let spec = arguments.machine.spec(workspace::root())?;
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    if programs::are_needed(&arguments.scenario.scenario) {
        tools::ensure(&[Tool::LinuxTarget])?;
    }
    let kernel = Kernel::build(Variant::of(&arguments.scenario))?;
    let mut screen = Screen::open();
    screen.line(&format!("machine: {}", spec.name));
    let job = Job {
        kernel: &kernel,
        spec: &spec,
        scenario: &arguments.scenario,
        words: "",
        emulation: arguments.emulation,
    };
    let finished = qemu::run(job, &mut screen)?;
    conclude("qemu", arguments, &spec, finished, &mut screen)
}

/// Shows the summary, writes the report, and says whether the run succeeded.
pub(crate) fn conclude(
    command: &str,
    arguments: &RunArgs,
    spec: &TopologySpec,
    mut run: Finished,
    screen: &mut Screen,
) -> Result<bool, Error> {
    run.failures.extend(unnoticed(&arguments.scenario, &run));
    report::summary(&run).iter().for_each(|line| screen.line(line));
    if let Some(path) = &arguments.json {
        let description = describe(command, spec, &arguments.scenario, arguments.emulation);
        report::write(path, &Document::new(description, &arguments.scenario.scenario, &run)?)?;
        screen.line(&format!("report: {}", path.display()));
    }
    let seconds = run.duration.as_secs_f64();
    match run.failures.len() {
        0 => screen.line(&format!("ok: {}, seed {}, {seconds:.1} s", spec.name, arguments.scenario.seed)),
        n => screen
            .line(&format!("{n} failed: {}, seed {}, {seconds:.1} s", spec.name, arguments.scenario.seed)),
    }
    Ok(run.succeeded())
}

/// The failure of a run with a fault that nothing showed.
pub(crate) fn unnoticed(scenario: &ScenarioOptions, run: &Finished) -> Option<Failure> {
    let fault = scenario.fault.as_ref().filter(|_| run.succeeded())?;
    Some(Failure::new(format!("the fault {fault} went unnoticed"), "oracle"))
}

/// Shows what failed. Was there anything?
pub(crate) fn failed_early(run: &Finished, screen: &mut Screen) -> bool {
    if run.succeeded() {
        return false;
    }
    report::summary(run).iter().for_each(|line| screen.line(line));
    true
}
