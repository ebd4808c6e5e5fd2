//! Running a program of the RAM disk to its end.

use core::fmt;

use topomem::CpuId;
use topomem_boot::StartInfo;

use super::modules;
use crate::executor::SpawnError;
use crate::file::{self, Console};
use crate::process::{self, Children, Ending, Program, Shared, StartError, TaskId};

/// What was wrong with a program's run.
#[derive(Debug)]
pub(super) enum Problem {
    /// The loader has put no module into memory.
    NoDisk,
    /// The RAM disk has no such program, or not what it must write.
    NoFile,
    /// There is no memory for what belongs to it.
    OutOfMemory,
    /// There is no memory for its task.
    Spawn(SpawnError),
    /// It was not started.
    Start(StartError),
    /// Its end was not noticed.
    Lost,
    /// It ended in another way.
    Ending(Ending),
    /// It wrote something else.
    Output,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoDisk => f.write_str("no module holds the programs"),
            Problem::NoFile => f.write_str("the RAM disk lacks a file"),
            Problem::OutOfMemory => f.write_str("out of memory"),
            Problem::Spawn(error) => error.fmt(f),
            Problem::Start(error) => error.fmt(f),
            Problem::Lost => f.write_str("nobody knows how it ended"),
            Problem::Ending(ending) => write!(f, "it ended with {ending}"),
            Problem::Output => f.write_str("it wrote something else"),
        }
    }
}

/// Makes the loader's first module the RAM disk.
///
/// # Errors
///
/// [`Problem::NoDisk`], [`Problem::Spawn`].
pub(super) fn open_ram_disk(start_info: &StartInfo) -> Result<(), Problem> {
    let disk = modules::first(start_info).ok_or(Problem::NoDisk)?;
    file::set_ram_disk(disk, CpuId::BOOT).map_err(Problem::Spawn)
}

/// Runs the program that `arguments` begin with on `cpu`, with its output to `console`, until it ends.
///
/// # Errors
///
/// [`Problem`], if it does not end with `ending` as well.
pub(super) async fn run(
    cpu: CpuId,
    arguments: &'static [&'static str],
    console: Shared<Console>,
    ending: Ending,
) -> Result<(), Problem> {
    let name = arguments.first().copied().unwrap_or_default();
    let file = file::find(name.as_bytes()).ok_or(Problem::NoFile)?;
    let started = process::start(cpu, Program { file, arguments, console }).map_err(Problem::Spawn)?;
    let id = started.await.map_err(Problem::Start)?;
    let ended = process::wait_for_child(TaskId::KERNEL, Children::One(id), None).await;
    match ended.map_err(|_| Problem::Lost)?.ending {
        other if other != ending => Err(Problem::Ending(other)),
        _ => Ok(()),
    }
}
