//! The project's own C programs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sources;
use crate::error::Error;
use crate::shell;

/// The source of the project's own program with this name, if there is one.
pub(super) fn named(name: &OsStr) -> Option<PathBuf> {
    let plain = Path::new(name).file_name() == Some(name);
    let source = sources().join("programs").join(name).with_extension("c");
    (plain && source.is_file()).then_some(source)
}

/// Builds a program into `folder`.
pub(super) fn build(source: &Path, folder: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let program = folder.join(source.file_stem().unwrap_or_default());
    let mut command = Command::new("gcc");
    // The compiler knows what C's allocation functions do, and leaves out what it thinks has no effect.
    command.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fno-builtin", "-pthread"]);
    command.arg(source).arg("-o").arg(&program);
    shell::run(&mut command)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_name_is_one_of_ours() {
        assert!(named(OsStr::new("larson")).is_some());
        for other in ["ls", "./larson", "/bin/larson", "../programs/larson", ""] {
            assert_eq!(named(OsStr::new(other)), None, "{other}");
        }
    }
}
