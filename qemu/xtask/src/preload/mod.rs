//! `cargo xtask preload`: programs on the heap, in place of C's allocator.

mod program;
mod runs;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::PreloadArgs;
use crate::error::Error;
use crate::shell;
use crate::tools::{self, Tool};
use crate::workspace;

pub(crate) use runs::failures;

const PACKAGE: &str = "topomem-preload";
/// Names the file to which each program adds a line of counts when it ends.
const REPORT: &str = "TOPOMEM_PRELOAD_REPORT";

/// Runs a program on the heap. Did it succeed?
pub(crate) fn preload(arguments: &PreloadArgs) -> Result<bool, Error> {
    let library = build()?;
    let [program, rest @ ..] = &arguments.program[..] else { return Ok(true) };
    let program = match program::named(program) {
        Some(source) => {
            tools::ensure(&[Tool::Preloaded])?;
            program::build(&source, &folder())?.into_os_string()
        }
        None => program.clone(),
    };
    let mut command = on_heap(&program, &library);
    let status = command
        .args(rest)
        .status()
        .map_err(|error| Error::Start { program: program.to_string_lossy().into_owned(), error })?;
    Ok(status.success())
}

/// Builds the library, optimised.
pub(crate) fn build() -> Result<PathBuf, Error> {
    let folder = workspace::target_folder();
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--quiet", "--release", "--package", PACKAGE]);
    command.arg("--target-dir").arg(&folder);
    shell::run(&mut command)?;
    Ok(folder.join("release/libtopomem_preload.so"))
}

/// The command that runs `program` and all its children on the heap.
fn on_heap(program: &OsStr, library: &Path) -> Command {
    // Not by this process's own variables, which would be this process's children's, too.
    let mut command = Command::new("env");
    let mut preload = std::ffi::OsString::from("LD_PRELOAD=");
    preload.push(library);
    command.arg(preload).arg(program);
    command
}

/// The folder of the library's sources.
fn sources() -> PathBuf {
    workspace::root().join("tests/preload")
}

/// The folder for programs that are built, and for what they write.
fn folder() -> PathBuf {
    workspace::target_folder().join("preload")
}
