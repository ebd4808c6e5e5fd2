//! What is checked of a command before it runs, so that no run of minutes ends with its report nowhere.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use topomem_boot::KernelScenario;
use topomem_stress::Scenario;

use crate::cli::{BenchCommand, Command, ScenarioOptions};
use crate::error::Error;

/// Checks that the files which `command` names can be read or written to, and that its scenario exists.
/// Nothing is written: an existing file stays as it is.
pub(crate) fn check(command: &Command) -> Result<(), Error> {
    if let Some((scenario, names)) = scenario(command) {
        if !names.contains(&scenario.scenario.as_str()) {
            return Err(Error::NoSuchScenario { name: scenario.scenario.clone(), scenarios: names });
        }
        if let Some(module) = &scenario.module {
            readable(module)?;
        }
    }
    written(command).into_iter().flatten().try_for_each(|file| writable(file))?;
    match command {
        Command::Acpidump(arguments) => {
            std::fs::create_dir_all(&arguments.out).map_err(Error::file(&arguments.out))
        }
        _ => Ok(()),
    }
}

/// The scenario that the command runs, and the names of all that it may run.
fn scenario(command: &Command) -> Option<(&ScenarioOptions, Vec<&'static str>)> {
    let everywhere = topomem_stress::SCENARIOS.iter().map(|scenario: &Scenario| scenario.name);
    let of_kernel = KernelScenario::ALL.iter().map(|scenario| scenario.name());
    match command {
        Command::Sim(arguments) => Some((&arguments.scenario, everywhere.collect())),
        Command::Qemu(arguments) => Some((&arguments.scenario, everywhere.chain(of_kernel).collect())),
        Command::Matrix(arguments) => Some((&arguments.scenario, everywhere.chain(of_kernel).collect())),
        _ => None,
    }
}

/// The files that the command writes when it is done.
fn written(command: &Command) -> [&Option<PathBuf>; 2] {
    match command {
        Command::Qemu(arguments) | Command::Sim(arguments) => [&arguments.json, &None],
        Command::Matrix(arguments) => [&arguments.json, &None],
        Command::Words => [&None, &None],
        Command::Topology(arguments) => [&arguments.json, &None],
        Command::Bench(BenchCommand::Frames(arguments) | BenchCommand::Heap(arguments)) => {
            [&arguments.json, &None]
        }
        Command::Bench(
            BenchCommand::Contention(arguments)
            | BenchCommand::Spaces(arguments)
            | BenchCommand::HeapContention(arguments),
        ) => [&arguments.json, &arguments.svg],
        Command::Bench(BenchCommand::Shootdown(arguments)) => [&arguments.json, &arguments.svg],
        Command::Bench(BenchCommand::Vm(arguments)) => [&arguments.json, &None],
        Command::Bench(BenchCommand::Hardening)
        | Command::Test(_)
        | Command::Preload(_)
        | Command::Doctor
        | Command::Prepare
        | Command::Tiers
        | Command::Acpidump(_) => [&None, &None],
    }
}

fn readable(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::file(path))?;
    let is_file = file.metadata().map_err(Error::file(path))?.is_file();
    // A folder can be opened, too.
    if is_file { Ok(()) } else { Err(Error::file(path)(std::io::ErrorKind::IsADirectory.into())) }
}

fn writable(path: &Path) -> Result<(), Error> {
    let existed = path.exists();
    OpenOptions::new().append(true).create(true).open(path).map_err(Error::file(path))?;
    if existed { Ok(()) } else { std::fs::remove_file(path).map_err(Error::file(path)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn checked(line: &str) -> Result<(), Error> {
        check(&Cli::parse_from(format!("xtask {line}").split_whitespace()).command)
    }

    /// A folder of the test's own.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("topomem-checks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn an_unknown_scenario_is_answered_with_those_that_there_are() {
        for (command, known) in [("qemu", "processes"), ("matrix", "machine"), ("sim", "stress")] {
            let error = checked(&format!("{command} --scenario nothing")).unwrap_err();
            assert!(matches!(&error, Error::NoSuchScenario { name, scenarios }
                if name == "nothing" && scenarios.contains(&known)));
            assert!(error.to_string().contains(known), "{error}");
            assert!(checked(&format!("{command} --scenario {known}")).is_ok());
        }
        assert!(matches!(checked("sim --scenario processes"), Err(Error::NoSuchScenario { .. })));
    }

    #[test]
    fn files_are_checked_and_left_alone() {
        let folder = folder("files");
        let at = |name: &str| folder.join(name).display().to_string();
        for command in [
            "qemu",
            "sim",
            "matrix",
            "topology tests/tables/hmat",
            "bench frames",
            "bench heap",
            "bench contention",
            "bench spaces",
            "bench heap-contention",
            "bench shootdown",
            "bench vm",
        ] {
            assert!(checked(&format!("{command} --json {}", at("new.json"))).is_ok());
            assert!(!folder.join("new.json").exists());
            let nowhere = checked(&format!("{command} --json {}", at("none/new.json")));
            assert!(matches!(nowhere, Err(Error::File { .. })), "{command}");
            assert!(matches!(checked(&format!("{command} --json {}", at(""))), Err(Error::File { .. })));
        }
        for command in ["bench contention", "bench spaces", "bench heap-contention", "bench shootdown"] {
            let nowhere = checked(&format!("{command} --svg {}", at("none/new.svg")));
            assert!(matches!(nowhere, Err(Error::File { .. })), "{command}");
        }
        std::fs::write(folder.join("old"), "old").unwrap();
        assert!(checked(&format!("qemu --json {0} --module {0}", at("old"))).is_ok());
        assert_eq!(std::fs::read_to_string(folder.join("old")).unwrap(), "old");
        assert!(matches!(checked(&format!("qemu --module {}", at("none"))), Err(Error::File { .. })));
        assert!(matches!(checked(&format!("qemu --module {}", at(""))), Err(Error::File { .. })));
        assert!(matches!(checked(&format!("acpidump --out {}", at("old/tables"))), Err(Error::File { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
