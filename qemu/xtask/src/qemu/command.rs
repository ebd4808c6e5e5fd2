//! QEMU's command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use super::emulator::{Apic, emulator};
use super::run::Job;
use super::{kvm, monitor};
use crate::cli::{Accelerator, EmulationOptions, ScenarioOptions};
use crate::error::Error;
use crate::programs;
use crate::topology::{MAX_XAPIC_CPUS, SpecError, TopologySpec, machine_arguments};
use crate::workspace;

/// The whole command of a job.
pub(super) fn command(job: Job<'_>) -> Result<Command, Error> {
    let Job { kernel, spec, scenario, words, emulation } = job;
    let mut command = machine_command(spec, emulation, scenario.seed)?;
    command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor::socket().display()));
    if emulation.gdb {
        command.args(["-s", "-S"]);
    }
    let module = match &scenario.module {
        None if programs::are_needed(&scenario.scenario) => Some(programs::build()?),
        module => module.clone(),
    };
    let mut checksum = None;
    if let Some(file) = &module {
        let bytes = std::fs::read(file).map_err(Error::file(file))?;
        checksum = Some(topomem_boot::checksum(&bytes));
        command.arg("-initrd").arg(file);
    }
    let words = match emulation.accel {
        Accelerator::Tcg => words.to_owned(),
        // A KVM without hardware executes the kernel by an emulator that knows no STAC.
        Accelerator::Kvm => format!("smap=off {words}"),
    };
    let line = kernel_command_line(scenario, checksum, words.trim_end());
    command.arg("-kernel").arg(kernel.elf()).arg("-append").arg(line);
    Ok(command)
}

/// The part of the command that says what the machine is and how it is emulated: the same whatever it boots.
///
/// An emulated CPU draws its random numbers (RDRAND) from `seed`, so kernels place what they place at random
/// the same way in every run, and counts can be repeated.
pub(crate) fn machine_command(
    spec: &TopologySpec,
    emulation: EmulationOptions,
    seed: u64,
) -> Result<Command, Error> {
    let machine = machine_arguments(spec);
    let apic = apic(spec, emulation)?;
    let mut command = emulator(apic, emulation.accel)?.command();
    // Without the default devices: no network card, whose option ROM may not be installed, and a faster boot.
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args(accelerator(emulation));
    command.arg("-seed").arg(seed.to_string());
    let x2apic = if apic == Apic::X2apic { "on" } else { "off" };
    let model = spec.cpu.as_deref().unwrap_or(match emulation.accel {
        Accelerator::Tcg => "max",
        Accelerator::Kvm => kvm::CPU,
    });
    command.arg("-cpu").arg(format!("{model},x2apic={x2apic}"));
    command.args(machine.arguments);
    for table in machine.tables {
        let file = write_table(&spec.name, table.signature, &table.body)?;
        let mut value = OsString::from(format!("sig={},rev={},data=", table.signature, table.revision));
        value.push(file);
        command.arg("-acpitable").arg(value);
    }
    Ok(command)
}

/// How the machine's local APICs are driven: by x2APIC if that was asked for, or if there are CPUs that xAPIC can't
/// reach. So machines are the same under every QEMU.
pub(super) fn apic(spec: &TopologySpec, emulation: EmulationOptions) -> Result<Apic, Error> {
    let cpus = spec.cpu_count();
    let must = cpus > MAX_XAPIC_CPUS;
    match emulation.apic {
        Some(Apic::Xapic) if must => Err(Error::Spec(SpecError::XapicCpus(cpus))),
        Some(apic) => Ok(apic),
        None if must => Ok(Apic::X2apic),
        None => Ok(Apic::Xapic),
    }
}

fn accelerator(emulation: EmulationOptions) -> &'static [&'static str] {
    match (emulation.accel, emulation.icount) {
        (Accelerator::Kvm, _) => &["-accel", "kvm"],
        (Accelerator::Tcg, false) => &["-accel", "tcg,thread=multi"],
        (Accelerator::Tcg, true) => &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"],
    }
}

/// `key=value` words, as the kernel reads them. `words` come last: a program's arguments may be among them.
fn kernel_command_line(scenario: &ScenarioOptions, module: Option<u64>, words: &str) -> String {
    let mut line =
        format!("scenario={} seconds={} seed={}", scenario.scenario, scenario.seconds, scenario.seed);
    if let Some(fault) = &scenario.fault {
        line.push_str(&format!(" break={fault}"));
    }
    if let Some(tlb) = scenario.tlb {
        line.push_str(&format!(" tlb={}", tlb.name()));
    }
    if let Some(checksum) = module {
        line.push_str(&format!(" module={checksum:x}"));
    }
    if !words.is_empty() {
        line.push_str(&format!(" {words}"));
    }
    line
}

/// Puts the body of a firmware table where QEMU finds it.
fn write_table(machine: &str, signature: &str, body: &[u8]) -> Result<PathBuf, Error> {
    let folder = workspace::target_folder().join("firmware").join(machine);
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let file = folder.join(signature);
    std::fs::write(&file, body).map_err(Error::file(&file))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Levels;
    use crate::topology::{MachineOptions, Size};

    const TCG: EmulationOptions =
        EmulationOptions { gdb: false, icount: false, accel: Accelerator::Tcg, apic: None };

    #[test]
    fn the_kernel_is_told_what_to_do() {
        let mut scenario = ScenarioOptions {
            scenario: "stress".to_owned(),
            seconds: 3,
            seed: 9,
            fault: None,
            levels: Levels::Four,
            tlb: None,
            module: None,
        };
        assert_eq!(kernel_command_line(&scenario, None, ""), "scenario=stress seconds=3 seed=9");
        scenario.fault = Some("magazine".to_owned());
        assert_eq!(
            kernel_command_line(&scenario, Some(26), "-- idle=4"),
            "scenario=stress seconds=3 seed=9 break=magazine module=1a -- idle=4"
        );
    }

    #[test]
    fn local_apics_are_as_asked_for_or_as_many_cpus_need_them() {
        let machine = |cpus| {
            let options = MachineOptions {
                nodes: 1,
                cpus,
                memory: Size::from_mib(1024),
                distance: Vec::new(),
                topology: None,
            };
            options.spec(workspace::root()).unwrap()
        };
        let asked = |apic| EmulationOptions { apic, ..TCG };
        assert_eq!(apic(&machine(255), TCG).unwrap(), Apic::Xapic);
        assert_eq!(apic(&machine(256), TCG).unwrap(), Apic::X2apic);
        assert_eq!(apic(&machine(1), asked(Some(Apic::X2apic))).unwrap(), Apic::X2apic);
        assert!(apic(&machine(256), asked(Some(Apic::Xapic))).is_err());
    }

    #[test]
    fn counting_instructions_takes_one_thread() {
        assert_eq!(accelerator(TCG), ["-accel", "tcg,thread=multi"]);
        let icount = EmulationOptions { icount: true, ..TCG };
        assert_eq!(accelerator(icount), ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        let kvm = EmulationOptions { accel: Accelerator::Kvm, ..TCG };
        assert_eq!(accelerator(kvm), ["-accel", "kvm"]);
    }
}
