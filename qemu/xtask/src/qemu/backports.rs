//! A newer QEMU from the backports of Debian's stable release: downloaded and unpacked below cargo's folder, beside
//! the system's QEMU, and never installed. It uses the libraries that the system's QEMU came with.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::emulator::{Emulator, PROGRAM};
use crate::error::Error;
use crate::shell;
use crate::tools::{self, Tool};
use crate::workspace;

/// The packages that hold the program and its firmware.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Returns the folder that the packages are unpacked into.
fn folder() -> PathBuf {
    workspace::target_folder().join("qemu-backports")
}

/// Returns the QEMU that was unpacked before, if it runs.
pub(super) fn unpacked() -> Option<Emulator> {
    let share = folder().join("usr/share");
    let program = folder().join("usr/bin").join(PROGRAM);
    Emulator::at(program, vec![share.join("qemu"), share.join("seabios")])
}

/// Downloads and unpacks QEMU.
///
/// # Errors
///
/// [`Error::Missing`] if this is not Debian, if apt knows no source of the release, if the release has no backports
/// that can be reached, or if what was unpacked doesn't run.
pub(crate) fn install() -> Result<(), Error> {
    if !tools::is_debian() {
        return Err(missing("it comes from Debian's backports, and this is neither Debian nor Ubuntu"));
    }
    let source = source().ok_or_else(|| missing("apt knows no source of a Debian release"))?;
    println!("    downloading it from {}, to be unpacked; it is not installed", source.release());
    // A folder of its own, so that a download that broke off leaves nothing behind.
    let unpacking = workspace::target_folder().join(format!("qemu-backports-{}", std::process::id()));
    let result = unpack(&source, &unpacking);
    let removed = std::fs::remove_dir_all(&unpacking).map_err(Error::file(&unpacking));
    result.and(removed)?;
    match unpacked() {
        Some(_) => Ok(()),
        None => Err(missing("it was unpacked, but does not run: a library may be missing that it needs")),
    }
}

/// What is missing, and why.
fn missing(because: &str) -> Error {
    let tool = Tool::NewerQemu;
    Error::Missing { what: tool.name(), because: because.to_owned(), commands: tool.instructions() }
}

/// Downloads and unpacks the packages of `source` in `unpacking`, and puts the result into [`folder`].
fn unpack(source: &Source, unpacking: &Path) -> Result<(), Error> {
    let (lists, root) = (unpacking.join("lists"), unpacking.join("root"));
    for folder in [&lists.join("partial"), &root] {
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    let sources = unpacking.join("sources.list");
    std::fs::write(&sources, source.line()).map_err(Error::file(&sources))?;
    // The lists are apart from the system's, which stay as they are. Root's apt would hand the download to a user
    // who may not write here, and complain.
    let options = [
        format!("Dir::Etc::SourceList={}", sources.display()),
        "Dir::Etc::SourceParts=-".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        format!("Dir::Cache={}", unpacking.display()),
        "APT::Sandbox::User=root".to_owned(),
        "APT::Update::Error-Mode=any".to_owned(),
        "Acquire::http::Timeout=20".to_owned(),
        "Acquire::Retries=2".to_owned(),
    ];
    let run = |program: &str, arguments: &[String]| {
        let mut command = Command::new(program);
        command.current_dir(unpacking).args(arguments);
        shell::run(&mut command).map_err(|error| missing(&format!("getting it from Debian {error}")))
    };
    let apt = |words: &[String]| {
        let options = options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]);
        run(
            "apt-get",
            &["--quiet=2".to_owned()].into_iter().chain(options).chain(words.to_vec()).collect::<Vec<_>>(),
        )
    };
    apt(&["update".to_owned()])?;
    let packages = PACKAGES.map(|package| format!("{package}/{}", source.release()));
    apt(&[&["download".to_owned()], &packages[..]].concat())?;
    let entries = std::fs::read_dir(unpacking).map_err(Error::file(unpacking))?;
    for archive in entries.flatten().map(|entry| entry.path()) {
        if archive.extension().is_some_and(|extension| extension == "deb") {
            let words = ["--extract".into(), archive.display().to_string(), root.display().to_string()];
            run("dpkg-deb", &words)?;
        }
    }
    let folder = folder();
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(Error::file(&folder))?;
    }
    std::fs::rename(&root, &folder).map_err(Error::file(&folder))
}

/// Where apt gets a Debian release from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    mirror: String,
    codename: String,
}

impl Source {
    /// Returns the name of the release's backports.
    fn release(&self) -> String {
        format!("{}-backports", self.codename)
    }

    /// Returns the line of apt's sources for the backports, which the same mirror has and the same keys sign.
    fn line(&self) -> String {
        format!("deb {} {} main\n", self.mirror, self.release())
    }
}

/// Returns the source of the Debian release that this system is of.
fn source() -> Option<Source> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)";
    let targets = shell::output("apt-get", &["indextargets", "--format", format, "Identifier: Packages"])?;
    targets.lines().find_map(release)
}

/// The source in a line of `apt-get indextargets`, if it is of a release itself: not of its updates, and of no one
/// else's packages.
fn release(line: &str) -> Option<Source> {
    let mut fields = line.split('|');
    let mut field = || fields.next();
    let is_release = (field()?, field()?, field()?) == ("Debian", "Debian", "main");
    let (codename, mirror) = (field()?, field()?);
    let is_plain = !codename.is_empty() && codename.chars().all(|c| c.is_ascii_alphanumeric());
    (is_release && is_plain).then(|| Source { mirror: mirror.to_owned(), codename: codename.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_the_mirror_of_the_release() {
        let source = release("Debian|Debian|main|bookworm|http://mirror.example/debian/").unwrap();
        assert_eq!(source.line(), "deb http://mirror.example/debian/ bookworm-backports main\n");
        for other in [
            "Debian|Debian|main|bookworm-updates|http://mirror.example/debian/",
            "Debian|Debian-Security|main|bookworm-security|http://mirror.example/debian-security/",
            "Debian|Debian|contrib|bookworm|http://mirror.example/debian/",
            "Ubuntu|Ubuntu|main|noble|http://mirror.example/ubuntu/",
            "Debian|Debian|main||http://mirror.example/debian/",
            "",
        ] {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
