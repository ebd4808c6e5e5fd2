//! What machine to boot: from options or a file, checked, and turned into QEMU's arguments.

mod error;
mod file;
mod firmware;
mod options;
mod qemu_args;
mod size;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use error::SpecError;
#[cfg(test)]
pub(crate) use file::parse;
pub(crate) use file::{TopologyFileError, folder, load};
pub(crate) use firmware::ranges as physical_ranges;
pub(crate) use options::MachineOptions;
pub(crate) use qemu_args::machine_arguments;
pub(crate) use size::Size;
pub(crate) use spec::{MAX_XAPIC_CPUS, TopologySpec};
