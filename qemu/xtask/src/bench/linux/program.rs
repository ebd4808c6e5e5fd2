//! Building the program that measures inside the guest.

use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;
use crate::shell;
use crate::workspace;

/// Static programs, which need no file but their own.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";
const PACKAGE: &str = "topomem-linux-guest";

/// Builds it: where it is.
pub(super) fn build() -> Result<PathBuf, Error> {
    let folder = workspace::target_folder();
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--release", "--package", PACKAGE]);
    command.args(["--target", TARGET, "--target-dir"]).arg(&folder);
    shell::run(&mut command)?;
    Ok(folder.join(TARGET).join("release").join(PACKAGE))
}
