//! Building the reference kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::{Levels, ScenarioOptions};
use crate::error::Error;
use crate::shell;
use crate::workspace;

/// The bare-metal target that the kernel is built for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";
const PACKAGE: &str = "topomem-kernel";
/// The whole kernel as one program: small functions of one package are inlined into another.
const PROFILE: &str = "measure";
/// Frame pointers for backtraces; static and in the upper 2 GiB, where it is linked.
const RUSTFLAGS: &str = "-Cforce-frame-pointers=yes -Crelocation-model=static -Ccode-model=kernel";

/// What is built into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Plain,
    /// With the faults that `--break` turns on.
    FaultInjection,
    /// With five levels of page tables.
    FiveLevels,
    /// With all the heap's measures against wrong uses.
    Hardening,
}

impl Variant {
    /// The kernel that a run of `scenario` needs.
    pub(crate) fn of(scenario: &ScenarioOptions) -> Self {
        match (&scenario.fault, scenario.levels) {
            _ if scenario.scenario == "heap" => Self::Hardening,
            (Some(_), _) => Self::FaultInjection,
            (None, Levels::Four) => Self::Plain,
            (None, Levels::Five) => Self::FiveLevels,
        }
    }

    /// The feature that it is built with.
    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::FaultInjection => Some("fault-injection"),
            Self::FiveLevels => Some("five-levels"),
            Self::Hardening => Some("hardening"),
        }
    }
}

/// A built kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    elf: PathBuf,
}

impl Kernel {
    /// Builds the kernel, in a folder of its own: other flags would rebuild the host's packages each time.
    pub(crate) fn build(variant: Variant) -> Result<Self, Error> {
        let folder = folder();
        shell::run(command("build", variant).args(["--profile", PROFILE]))?;
        let built = folder.join(TARGET).join(PROFILE).join(PACKAGE);
        // The next build of another variant replaces cargo's file, so each has a copy.
        let elf = match variant.feature() {
            None => folder.join(PACKAGE),
            Some(feature) => folder.join(format!("{PACKAGE}-{feature}")),
        };
        std::fs::copy(&built, &elf).map_err(Error::file(&built))?;
        Ok(Self { elf })
    }

    /// The kernel's ELF file, with debug information.
    pub(crate) fn elf(&self) -> &Path {
        &self.elf
    }
}

/// Folder of everything built for the kernel's target.
fn folder() -> PathBuf {
    workspace::target_folder().join("kernel")
}

/// A cargo command on the kernel, for its target and with its flags.
pub(crate) fn command(subcommand: &str, variant: Variant) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).env("RUSTFLAGS", RUSTFLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.args([subcommand, "--package", PACKAGE, "--target", TARGET, "--target-dir"]).arg(folder());
    if let Some(feature) = variant.feature() {
        command.args(["--features", feature]);
    }
    command
}
