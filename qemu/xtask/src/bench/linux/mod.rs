//! What Linux pays for changing mappings, on the machine and under the emulator that topomem's kernel runs on.
//!
//! Debian's kernel is downloaded and unpacked, never installed. It boots with an initial RAM file system that holds
//! one program of ours, the package `topomem-linux-guest`, which measures and sends records over the console.

mod boot;
mod console;
mod error;
mod image;
mod initramfs;
mod package;
mod program;

use std::path::{Path, PathBuf};

use super::figures::Figures;
use super::metric::Metric;
use crate::error::Error;
use crate::tools::{self, Tool};
use crate::topology::TopologySpec;

pub(crate) use error::LinuxError;
pub(crate) use image::downloaded;
pub(crate) use program::TARGET;

/// Builds the program that measures, and packs it as the first one of a kernel: where that is.
pub(crate) fn build_disk() -> Result<PathBuf, Error> {
    tools::ensure(&[Tool::LinuxTarget])?;
    let folder = image::folder();
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    initramfs::write(&program::build()?, &folder)
}

/// Linux, ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Linux {
    /// The compressed kernel; its name ends with the release.
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Linux {
    /// Gets Debian's kernel if it isn't there yet, to run the first program in `disk`.
    pub(crate) fn prepare(disk: &Path) -> Result<Self, Error> {
        tools::ensure(&[Tool::Qemu])?;
        let kernel = image::find_or_download(&image::folder())?;
        Ok(Self { kernel, initramfs: disk.to_owned() })
    }

    /// Which Linux it is, as `6.12.117+deb12-amd64`.
    pub(crate) fn release(&self) -> &str {
        image::release(&self.kernel)
    }

    /// Boots it once on the machine `spec`, where the first program is given `words`.
    pub(crate) fn measure(&self, spec: &TopologySpec, metric: Metric, words: &str) -> Result<Figures, Error> {
        boot::boot(self, spec, metric.emulation(), words)
    }
}
