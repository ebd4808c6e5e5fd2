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

use crate::cli::{Accelerator, BenchLinuxArgs, EmulationOptions};
use crate::error::Error;
use crate::record::Measurement;
use crate::tools::{self, Tool};
use crate::topology::TopologySpec;
use crate::workspace;

pub(crate) use error::LinuxError;
pub(crate) use image::downloaded;
pub(crate) use program::TARGET;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Instructions, exactly; on one CPU, for CPUs that wait for each other count that too.
    Instructions,
    /// Microseconds, and interrupts between CPUs.
    Time,
}

/// How much is measured in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) metric: Metric,
    /// The most samples of a case.
    pub(crate) samples: u64,
    /// How long a case may take in the guest, if it has a few samples.
    pub(crate) seconds: u64,
}

impl Request {
    /// As much as it takes for tenths that mean something.
    pub(crate) const fn new(metric: Metric) -> Self {
        match metric {
            Metric::Instructions => Self { metric, samples: 60, seconds: 10 },
            Metric::Time => Self { metric, samples: 200, seconds: 5 },
        }
    }
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
    pub(crate) fn measure(&self, spec: &TopologySpec, request: Request) -> Result<Vec<Measurement>, Error> {
        let emulation = EmulationOptions {
            gdb: false,
            icount: request.metric == Metric::Instructions,
            accel: Accelerator::Tcg,
        };
        boot::boot(self, spec, emulation, request)
    }
}

/// `cargo xtask bench-linux`: one boot, and its results as they are.
pub(crate) fn bench_linux(arguments: &BenchLinuxArgs) -> Result<bool, Error> {
    let metric = if arguments.icount { Metric::Instructions } else { Metric::Time };
    let linux = Linux::prepare()?;
    println!("Linux {}", linux.release());
    let results = linux.measure(&arguments.machine.spec(workspace::root())?, Request::new(metric))?;
    for Measurement { case, cpus, unit, median, low, high, n, .. } in results {
        println!(
            "{case:<20} {cpus:>3} CPUs  low {low:>12.2}  median {median:>12.2}  high {high:>12.2} {unit}  n {n}"
        );
    }
    Ok(true)
}
