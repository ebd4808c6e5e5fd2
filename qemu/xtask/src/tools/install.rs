//! Installing what is missing.

use std::process::Command;

use super::tool::Tool;
use crate::error::Error;
use crate::shell;

/// Makes sure that all `tools` are there: installs what is missing, and says so before.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), Error> {
    tools.iter().copied().filter(|tool| tool.found().is_none()).try_for_each(install)
}

fn install(tool: Tool) -> Result<(), Error> {
    let missing =
        |because: String| Error::Missing { what: tool.name(), because, commands: tool.instructions() };
    if let Some(obstacle) = tool.obstacle() {
        return Err(missing(obstacle.to_owned()));
    }
    println!("{} is missing: installing it", tool.name());
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
