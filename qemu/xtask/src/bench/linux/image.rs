//! Getting Debian's kernel: downloaded once, unpacked, and never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::package;
use crate::error::Error;
use crate::shell;
use crate::tools;
use crate::workspace;

/// What the kernel's file is called in the package, before its release.
const PREFIX: &str = "vmlinuz-";

/// The kernel in `folder`. One that is there stays, so that all results of a working copy are of the same; delete
/// the folder to get a newer one.
pub(super) fn find_or_download(folder: &Path) -> Result<PathBuf, Error> {
    match kernel_in(folder)? {
        Some(kernel) => Ok(kernel),
        None => download(folder),
    }
}

/// Where kernels and what belongs to them are kept.
pub(super) fn folder() -> PathBuf {
    workspace::target_folder().join("linux")
}

/// The kernel that was downloaded before.
pub(crate) fn downloaded() -> Option<PathBuf> {
    kernel_in(&folder()).ok()?
}

/// The release in a kernel's file name.
pub(super) fn release(kernel: &Path) -> &str {
    let name = kernel.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

fn download(folder: &Path) -> Result<PathBuf, Error> {
    if !tools::is_debian() {
        return Err(missing("it comes from Debian's packages, and this is neither Debian nor Ubuntu"));
    }
    match try_download(folder) {
        Err(_) if tools::is_root() => {
            println!("apt may know only packages that are gone: telling it of the new ones");
            apt("apt-get", &["update"], folder)?;
            try_download(folder)
        }
        result => result,
    }
}

fn try_download(folder: &Path) -> Result<PathBuf, Error> {
    let package = package::known().ok_or_else(|| missing("apt knows no such package"))?;
    println!("downloading {package}, to boot it in QEMU; it is not installed");
    // A folder of its own, so that a download or unpacking that broke off leaves no kernel behind.
    let unpacking = folder.join(format!("unpacking-{}", std::process::id()));
    std::fs::create_dir_all(&unpacking).map_err(Error::file(&unpacking))?;
    let kernel = unpack(&package, &unpacking, folder);
    let removed = std::fs::remove_dir_all(&unpacking).map_err(Error::file(&unpacking));
    let kernel = kernel?;
    removed.map(|()| kernel)
}

/// Downloads and unpacks `package` in `unpacking`, and puts its kernel into `folder`.
fn unpack(package: &str, unpacking: &Path, folder: &Path) -> Result<PathBuf, Error> {
    // Root's apt would hand the download to a user who may not write here, and complain.
    apt("apt-get", &["download", "--quiet", "-o", "APT::Sandbox::User=root", package], unpacking)?;
    let archive = only(unpacking, |name| name.ends_with(".deb"))?
        .ok_or_else(|| missing(&format!("the package {package} did not arrive")))?;
    apt("dpkg-deb", &["--extract", &archive.to_string_lossy(), "."], unpacking)?;
    let unpacked = kernel_in(&unpacking.join("boot"))?
        .ok_or_else(|| missing(&format!("the package {package} holds no kernel")))?;
    let kernel = folder.join(format!("{PREFIX}{}", release(&unpacked)));
    std::fs::rename(&unpacked, &kernel).map_err(Error::file(&kernel))?;
    Ok(kernel)
}

fn kernel_in(folder: &Path) -> Result<Option<PathBuf>, Error> {
    only(folder, |name| name.starts_with(PREFIX))
}

/// The file in `folder` whose name fits; the first by name if there are several.
fn only(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<Option<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(folder)(error)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&fits)).min())
}

/// Runs one of Debian's tools in `folder`.
fn apt(program: &str, arguments: &[&str], folder: &Path) -> Result<(), Error> {
    shell::run(Command::new(program).args(arguments).current_dir(folder))
        .map_err(|error| missing(&format!("getting it from Debian {error}")))
}

/// There is no kernel, and what to do about it.
fn missing(because: &str) -> Error {
    let by_hand = format!(
        "(or put boot/{PREFIX}* of Debian's package {} into {})",
        package::ALIASES.join(" or "),
        folder().display()
    );
    Error::Missing {
        what: "Debian's Linux",
        because: because.to_owned(),
        commands: vec!["sudo apt-get update".to_owned(), by_hand],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_kernel_by_its_name() {
        let folder = std::env::temp_dir().join(format!("topomem-image-{}", std::process::id()));
        assert_eq!(kernel_in(&folder).unwrap(), None);
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["initramfs", "config-6.12", "vmlinuz-6.12.117+deb12-amd64"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let kernel = find_or_download(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(release(&kernel.unwrap()), "6.12.117+deb12-amd64");
    }
}
