//! The tiers, and the kernel with one of them.

use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;
use crate::machines::kernel::TARGET;
use crate::shell;
use crate::workspace;

const PACKAGE: &str = "topomem-second-kernel";
/// Static, and below 2 GiB, where it is linked.
const RUSTFLAGS: &str = "-Crelocation-model=static -Ccode-model=small";

/// What the second kernel takes of topomem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Nothing.
    None,
    /// Frames alone.
    Frames,
    /// The heap alone, over the kernel's own pages.
    Heap,
    /// The heap on the frames, with the kernel's own page tables.
    FramesHeap,
    /// Shootdown alone, over the kernel's own page tables and pages.
    Shootdown,
    /// Everything, with the kernel in the lower half.
    Everything,
}

impl Tier {
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::Frames, Self::Heap, Self::FramesHeap, Self::Shootdown, Self::Everything];

    /// Its name: of the feature, and of the file with its wiring.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Frames => "frames",
            Self::Heap => "heap",
            Self::FramesHeap => "frames-heap",
            Self::Shootdown => "shootdown",
            Self::Everything => "everything",
        }
    }

    /// Builds the kernel with this tier: where its image is.
    pub(crate) fn build(self) -> Result<PathBuf, Error> {
        let folder = workspace::target_folder().join("second-kernel");
        let mut command = Command::new("cargo");
        command.current_dir(workspace::root()).env("RUSTFLAGS", RUSTFLAGS);
        command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.args(["build", "--quiet", "--release", "--package", PACKAGE, "--target", TARGET]);
        command.arg("--target-dir").arg(&folder);
        command.args(["--features", self.name()]);
        shell::run(&mut command)?;
        let built = folder.join(TARGET).join("release").join(PACKAGE);
        // The next build, with another tier, replaces cargo's file.
        let kept = folder.join(format!("{PACKAGE}-{}", self.name()));
        std::fs::copy(&built, &kept).map_err(Error::file(&built))?;
        Ok(kept)
    }

    /// Where its wiring is.
    pub(super) fn wiring(self) -> PathBuf {
        workspace::root().join("examples/kernel/src/tier").join(self.name().replace('-', "_") + ".rs")
    }
}
