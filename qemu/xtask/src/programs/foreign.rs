//! A program that was not written for the kernel: `b3sum`, as its authors publish it. It maps files, and hashes them
//! with several threads. The host runs the same file on the same bytes, and says what the kernel's run must write.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::File;
use crate::bench::linux::TARGET;
use crate::error::Error;
use crate::shell;
use crate::workspace;

const NAME: &str = "b3sum";
const VERSION: &str = "1.8.7";
/// A file for it that is small, so that it is read instead of mapped: numbers, line by line.
const SMALL: &str = "numbers";
const SMALL_LINES: u32 = 2000;

/// What the kernel's scenario has it do, by the names of the files that its output goes to.
const RUNS: [(&str, &[&str]); 2] = [
    ("b3sum.mapped", &["numbers", "plain", "b3sum"]),
    ("b3sum.read", &["--no-mmap", "--length", "64", "plain", "numbers"]),
];

/// Returns the program, the files that it reads beside `own`, and what it must write.
pub(super) fn files(own: &[File]) -> Result<Vec<File>, Error> {
    let program = install()?;
    let content = std::fs::read(&program).map_err(Error::file(&program))?;
    let numbers: String = (1..=SMALL_LINES).map(|number| format!("{number}\n")).collect();
    let mut files = vec![(NAME, content), (SMALL, numbers.into_bytes())];
    let folder = files_folder();
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    for (name, bytes) in own.iter().chain(&files) {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(Error::file(&path))?;
    }
    for (name, arguments) in RUNS {
        files.push((name, output(&program, arguments)?));
    }
    Ok(files)
}

/// Where programs of others are kept.
pub(super) fn folder() -> PathBuf {
    workspace::target_folder().join("foreign")
}

/// Where the host has the files that they read.
fn files_folder() -> PathBuf {
    folder().join("files")
}

/// Builds the program as anybody would who wants to have it, unless it is there. Returns where it is.
fn install() -> Result<PathBuf, Error> {
    // The version is in the path: another one is another program.
    let root = folder().join(format!("{NAME}-{VERSION}"));
    let program = root.join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    let mut command = Command::new("cargo");
    command.args(["install", NAME, "--version", VERSION, "--locked", "--target", TARGET]);
    // Without C and assembly, which would need another compiler.
    command.args(["--features", "pure", "--root"]).arg(&root);
    command.arg("--target-dir").arg(folder().join("build"));
    // Only the program counts: not the flags of a build that this one is part of, nor the user's paths.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    shell::run(&mut command)?;
    Ok(program)
}

/// Returns what `program` writes on this host, where the files are that it reads.
pub(super) fn output(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(files_folder()).stdin(Stdio::null());
    let start = |error| Error::Start { program: program.to_string_lossy().into_owned(), error };
    let output = command.output().map_err(start)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Error::Program { command: shell::typed(&command), status: output.status })
    }
}
