//! The programs that measure: how they are built, and what they print.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::run::record::Measurement;
use crate::shell;
use crate::workspace;

const PACKAGE: &str = "topomem-benches";

/// Which of them is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// The code as kernels run it, all crates compiled as one.
    Measuring,
    /// The same with the heap's peers in C and C++, which take minutes to compile.
    Peers,
    /// With the heap's measures against wrong uses.
    Hardened,
    /// The same with links between free objects that are encoded.
    EncodedLists,
    /// The same code on atomics that are observed.
    Counting,
}

/// Builds a program: where it is.
pub(super) fn build(build: Build) -> Result<PathBuf, Error> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--package", PACKAGE]);
    let folder = match build {
        Build::Measuring => {
            let folder = workspace::target_folder();
            command.args(["--profile", "measure", "--target-dir"]).arg(&folder);
            folder.join("measure")
        }
        Build::Peers => {
            let folder = workspace::target_folder().join("peers");
            command.args(["--profile", "measure", "--target-dir"]).arg(&folder);
            command.env("RUSTFLAGS", "--cfg topomem_peers").env_remove("CARGO_ENCODED_RUSTFLAGS");
            folder.join("measure")
        }
        Build::Hardened | Build::EncodedLists => {
            let folder = workspace::target_folder();
            let feature = if build == Build::Hardened { "hardening" } else { "encoded-free-lists" };
            command.args(["--profile", "measure", "--features", feature, "--target-dir"]).arg(&folder);
            folder.join("measure")
        }
        Build::Counting => {
            let folder = workspace::target_folder().join("count");
            command.args(["--release", "--target-dir"]).arg(&folder);
            command.env("RUSTFLAGS", "--cfg topomem_count").env_remove("CARGO_ENCODED_RUSTFLAGS");
            folder.join("release")
        }
    };
    shell::run(&mut command)?;
    Ok(folder.join(PACKAGE))
}

/// Runs a program; the results that it prints, a line each.
pub(super) fn results(program: &Path, arguments: &[&str]) -> Result<Vec<Measurement>, Error> {
    let mut command = Command::new(program);
    command.args(arguments);
    let text = output(&mut command)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(Error::Json)).collect()
}

/// What a command writes; its complaints go to ours.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        error,
    })?;
    if !output.status.success() {
        return Err(Error::Program { command: shell::typed(command), status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
