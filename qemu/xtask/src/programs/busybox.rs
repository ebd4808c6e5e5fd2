//! Another program that was not written for the kernel: BusyBox, a shell and its tools in one static file, as Debian
//! builds it. It comes by `apt-get download` and is unpacked, never installed; where that cannot be, it is left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{File, foreign};
use crate::error::Error;
use crate::shell;
use crate::tools;

const NAME: &str = "busybox";
const PACKAGE: &str = "busybox-static";
/// Where the program is in the package.
const PLACE: &str = "bin/busybox";

/// What the kernel's scenario has it do and the host, too, by the names of the files that its output goes to.
const RUNS: [(&str, &[&str]); 1] = [("busybox.sha256", &["sha256sum", "plain", "numbers", "b3sum"])];

/// Returns the program, and what it must write; nothing if there is none.
pub(super) fn files() -> Result<Vec<File>, Error> {
    let Some(program) = find_or_download()? else { return Ok(Vec::new()) };
    let mut files = vec![(NAME, std::fs::read(&program).map_err(Error::file(&program))?)];
    for (name, arguments) in RUNS {
        files.push((name, foreign::output(&program, arguments)?));
    }
    Ok(files)
}

/// Returns where the program is, which is downloaded unless it was before.
fn find_or_download() -> Result<Option<PathBuf>, Error> {
    let folder = foreign::folder().join(NAME);
    let program = folder.join(PLACE);
    if program.is_file() {
        return Ok(Some(program));
    }
    if !tools::is_debian() {
        println!(
            "{NAME} comes from Debian's packages, and this is neither Debian nor Ubuntu: it is left out"
        );
        return Ok(None);
    }
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    match download(&folder) {
        Err(_) if tools::is_root() => {
            println!("apt may know only packages that are gone: telling it of the new ones");
            run("apt-get", &["update"], &folder).and_then(|()| download(&folder))
        }
        result => result,
    }
    .map(|()| Some(program))
    .or_else(|error| {
        println!("{NAME} is left out: {error}");
        Ok(None)
    })
}

/// Downloads the package into `folder`, and unpacks it there.
fn download(folder: &Path) -> Result<(), Error> {
    // Root's apt would hand the download to a user who may not write here, and complain.
    run("apt-get", &["download", "--quiet", "-o", "APT::Sandbox::User=root", PACKAGE], folder)?;
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    let package = entries.flatten().map(|entry| entry.path());
    let package = package.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).max();
    let package = package.unwrap_or_else(|| folder.join(PACKAGE));
    run("dpkg-deb", &["--extract", &package.to_string_lossy(), "."], folder)
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<(), Error> {
    shell::run(Command::new(program).args(arguments).current_dir(folder))
}
