//! Installing what is missing.

use std::process::Command;
use std::sync::OnceLock;

use super::disk;
use super::tool::Tool;
use crate::error::Error;
use crate::qemu;
use crate::shell;

/// Makes sure that all `tools` are there: installs what is missing, and says so before.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), Error> {
    tools.iter().copied().filter(|tool| tool.found().is_none()).try_for_each(install)
}

/// Makes sure of what tests need, and tries to install what some of them do without; says so if that fails.
///
/// # Errors
///
/// [`Error::DiskFull`] if the disk has too little room for a run of all tests; [`Error::Missing`] if something that
/// is needed can't be installed.
pub(crate) fn prepare() -> Result<(), Error> {
    disk::ensure_room_for_all_tests()?;
    ensure(&Tool::ALL)?;
    if let Some(found) = Tool::Qemu.found() {
        println!("{}: {found}", Tool::Qemu.name());
    }
    for tool in Tool::OPTIONAL {
        match (ensure(&[tool]), tool.found()) {
            (Ok(()), Some(found)) => println!("{}: {found}", tool.name()),
            (Ok(()), None) => {}
            (Err(error), _) => println!("tests that need {} will be skipped: {error}", tool.name()),
        }
    }
    Ok(())
}

/// Returns why no QEMU that has x2APIC can be had, if none can. Installing it is tried once.
pub(crate) fn obstacle_to_newer_qemu() -> Option<&'static str> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    OBSTACLE.get_or_init(|| ensure(&[Tool::NewerQemu]).err().map(|error| error.to_string())).as_deref()
}

fn install(tool: Tool) -> Result<(), Error> {
    let missing =
        |because: String| Error::Missing { what: tool.name(), because, commands: tool.instructions() };
    if let Some(obstacle) = tool.obstacle() {
        return Err(missing(obstacle.to_owned()));
    }
    println!("{} is missing: installing it", tool.name());
    if tool == Tool::NewerQemu {
        qemu::install_newer()?;
    }
    for words in tool.commands() {
        let Some((program, arguments)) = words.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(arguments);
        println!("    {}", shell::typed(&command));
        command.env("DEBIAN_FRONTEND", "noninteractive");
        shell::run(&mut command).map_err(|error| missing(format!("installing it {error}")))?;
    }
    match tool.found() {
        Some(found) => {
            println!("    installed: {found}");
            Ok(())
        }
        None => Err(missing("it was installed, but is still not found".to_owned())),
    }
}
