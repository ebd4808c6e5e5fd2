//! The programs that the kernel runs in ring 3: built as static Linux programs, and packed into the RAM disk that the
//! loader puts beside the kernel. Two of them were not written for it.

mod busybox;
mod foreign;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use cpio::newc::{self, Builder, ModeFileType};

use crate::bench::linux::TARGET;
use crate::error::Error;
use crate::shell;
use crate::workspace;

const PACKAGE: &str = "topomem-programs";
/// The scenario that runs them.
const SCENARIO: &str = "processes";
/// The programs, by name.
const PROGRAMS: [&str; 9] =
    ["attacks", "checks", "children", "huge", "isolation", "placement", "plain", "posix", "sharing"];

/// A file's name, and what is in it.
type File = (&'static str, Vec<u8>);

/// Does `scenario` need them?
pub(crate) fn are_needed(scenario: &str) -> bool {
    scenario == SCENARIO
}

/// Builds the programs, and packs them: where the RAM disk is.
pub(crate) fn build() -> Result<PathBuf, Error> {
    let folder = workspace::target_folder();
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--release", "--package", PACKAGE]);
    command.args(["--target", TARGET, "--target-dir"]).arg(&folder);
    shell::run(&mut command)?;
    let built = folder.join(TARGET).join("release");
    let mut files: Vec<File> = Vec::new();
    for name in PROGRAMS {
        let path = built.join(name);
        files.push((name, std::fs::read(&path).map_err(Error::file(&path))?));
    }
    files.extend(foreign::files(&files)?);
    files.extend(busybox::files()?);
    let path = folder.join("programs.cpio");
    let disk = pack(&files, Vec::new()).map_err(Error::file(&path))?;
    std::fs::write(&path, disk).map_err(Error::file(&path))?;
    Ok(path)
}

/// Writes the files as an archive. Numbers of inodes must differ, or they would be links.
fn pack<W: Write>(files: &[(&str, Vec<u8>)], mut to: W) -> io::Result<W> {
    for (inode, (name, bytes)) in (1..).zip(files) {
        let entry = Builder::new(name).ino(inode).mode(0o755).set_mode_file_type(ModeFileType::Regular);
        let mut file = entry.write(to, u32::try_from(bytes.len()).map_err(io::Error::other)?);
        file.write_all(bytes)?;
        to = file.finish()?;
    }
    newc::trailer(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_finds_what_is_packed() {
        let files = [("one", b"first".to_vec()), ("two", vec![7; 1001])];
        let disk = pack(&files, Vec::new()).unwrap();
        let archive = topomem_exec::Archive::new(&disk);
        assert_eq!(archive.files().count(), 2);
        assert_eq!(archive.find(b"/one").unwrap().content, b"first");
        assert_eq!(archive.find(b"two").unwrap().content, [7; 1001]);
    }
}
