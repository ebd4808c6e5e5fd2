//! The emulators there are: the system's QEMU, and a newer QEMU beside it where the system's lacks x2APIC.

use std::path::PathBuf;
use std::process::Command;

use super::backports;
use crate::cli::Accelerator;
use crate::error::Error;
use crate::shell;
use crate::tools::{self, Tool};

/// The emulator's program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// A version's first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// The first version whose TCG has x2APIC, which CPUs from the 256th on need.
const FIRST_WITH_X2APIC: Version = Version(9, 0);

/// How the local APICs of a machine are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Apic {
    /// By a page of registers, with ids of 8 bits
    Xapic,
    /// By model-specific registers, with ids of 32 bits
    X2apic,
}

impl Apic {
    /// Returns the name that the kernel's records have for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Xapic => "xapic",
            Self::X2apic => "x2apic",
        }
    }
}

/// A QEMU on this host.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    program: PathBuf,
    /// Where its firmware is, if not where the program looks by itself.
    data: Vec<PathBuf>,
    /// The first line of `--version`.
    banner: String,
    version: Version,
}

impl Emulator {
    /// Returns the emulator at `program`, if it runs and tells its version.
    pub(super) fn at(program: PathBuf, data: Vec<PathBuf>) -> Option<Self> {
        let banner = shell::output(program.to_str()?, &["--version"])?.lines().next()?.to_owned();
        let version = version(&banner)?;
        Some(Self { program, data, banner, version })
    }

    /// Returns the system's QEMU, if there is one.
    fn system() -> Option<Self> {
        Self::at(PathBuf::from(PROGRAM), Vec::new())
    }

    /// Does this QEMU have x2APIC under TCG?
    fn has_x2apic(&self) -> bool {
        self.version >= FIRST_WITH_X2APIC
    }

    /// Returns a command that starts this QEMU.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for folder in &self.data {
            command.arg("-L").arg(folder);
        }
        command
    }
}

/// Returns the first line of the `--version` of the system's QEMU, if there is one.
pub(crate) fn version_line() -> Option<String> {
    Emulator::system().map(|emulator| emulator.banner)
}

/// Returns the QEMU whose TCG has x2APIC: the system's if it is new enough, else the unpacked one.
fn newer() -> Option<Emulator> {
    Emulator::system().filter(Emulator::has_x2apic).or_else(backports::unpacked)
}

/// Returns the version of [`newer`] and where it is, if there is such a QEMU.
pub(crate) fn newer_line() -> Option<String> {
    newer().map(|emulator| format!("{} ({})", emulator.banner, emulator.program.display()))
}

/// Returns the emulator for machines with local APICs of this kind.
///
/// # Errors
///
/// [`Error::Missing`] if no QEMU is here that has them, and none can be installed.
pub(super) fn emulator(apic: Apic, accelerator: Accelerator) -> Result<Emulator, Error> {
    let tool = match (apic, accelerator) {
        (Apic::X2apic, Accelerator::Tcg) => Tool::NewerQemu,
        _ => Tool::Qemu,
    };
    tools::ensure(&[tool])?;
    let found = if tool == Tool::NewerQemu { newer() } else { Emulator::system() };
    found.ok_or_else(|| Error::Missing {
        what: tool.name(),
        because: "it is gone".to_owned(),
        commands: tool.instructions(),
    })
}

/// The numbers in a line like `QEMU emulator version 7.2.22 (Debian …)`.
fn version(banner: &str) -> Option<Version> {
    let (_, rest) = banner.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let old = version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)").unwrap();
        let new = version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)").unwrap();
        assert_eq!((old, new), (Version(7, 2), Version(10, 0)));
        assert!(old < FIRST_WITH_X2APIC && FIRST_WITH_X2APIC <= new);
        assert_eq!(version("QEMU emulator version 9.0"), Some(FIRST_WITH_X2APIC));
        assert_eq!(version("QEMU emulator version x"), None);
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn what_does_not_run_is_no_emulator() {
        assert!(Emulator::at(PathBuf::from("/nonexistent/qemu"), Vec::new()).is_none());
        assert!(Emulator::at(PathBuf::from("true"), Vec::new()).is_none());
    }
}
