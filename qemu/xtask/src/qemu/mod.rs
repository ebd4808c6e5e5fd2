//! The reference kernel under QEMU: the command, the session with it, and what came of it.

mod backports;
mod command;
mod emulator;
mod kvm;
mod monitor;
mod run;

pub(crate) use backports::install as install_newer;
pub(crate) use command::machine_command;
pub(crate) use emulator::{Apic, PROGRAM, newer_line, version_line};
pub(crate) use kvm::obstacle as kvm_obstacle;
pub(crate) use run::{Job, run};
