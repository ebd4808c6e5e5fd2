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

use std::path::PathBuf;

use super::figures::Figures;
use super::metric::Metric;
use super::samples::Samples;
use crate::error::Error;
use crate::tools::{self, Tool};
use crate::topology::TopologySpec;

pub(crate) use error::LinuxError;
pub(crate) use image::downloaded;
pub(crate) use program::TARGET;

/// How much is measured in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) metric: Metric,
    pub(crate) samples: Samples,
}

/// Linux, ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Linux {
    /// The compressed kernel; its name ends with the release.
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Linux {
    /// Gets Debian's kernel if it isn't there yet, and builds what runs on it.
    pub(crate) fn prepare() -> Result<Self, Error> {
        tools::ensure(&[Tool::LinuxTarget, Tool::Qemu])?;
        let folder = image::folder();
        std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let kernel = image::find_or_download(&folder)?;
        let initramfs = initramfs::write(&program::build()?, &folder)?;
        Ok(Self { kernel, initramfs })
    }

    /// Which Linux it is, as `6.12.117+deb12-amd64`.
    pub(crate) fn release(&self) -> &str {
        image::release(&self.kernel)
    }

    /// Boots it once on the machine `spec`, and measures every case of the metric.
    pub(crate) fn measure(&self, spec: &TopologySpec, request: Request) -> Result<Figures, Error> {
        boot::boot(self, spec, request.metric.emulation(), request)
    }
}
