//! The reference kernel under QEMU: the command, the session with it, and what came of it.

mod command;
mod monitor;
mod run;

pub(crate) use command::{PROGRAM, machine_command, version};
pub(crate) use run::{Job, run};
