//! Starting a program in a process of its own.

pub(super) mod exec;
pub(super) mod fork;
pub(super) mod load;

use core::fmt;
use core::sync::atomic::AtomicU32;

extern crate alloc;

use alloc::vec::Vec;

use async_task::Task as Spawned;
use spin::mutex::SpinMutex;
use topomem::CpuId;
use topomem_exec::{File, ImageError, StackError};

use super::{ActionTable, OutOfMemory, Process, Shared, SignalSet, Task, TaskId, Thread, boxed, run, table};
use crate::arch::user::UserState;
use crate::executor::{SpawnError, reserve, spawn_on};
use crate::file::{Console, Descriptors};
use crate::per_cpu;
use crate::syscall::Errno;
use load::{Loaded, Words, borrowed, load};

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable.
    pub file: File<'static>,
    /// Its arguments, its name first.
    pub arguments: &'static [&'static str],
    /// Where its output goes.
    pub console: Shared<Console>,
}

/// Why a program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartError {
    /// The file cannot run.
    Image(ImageError),
    /// There is no room for its stack.
    Stack(StackError),
    /// Its memory cannot be set up.
    Memory(Errno),
    /// No memory for its task.
    Spawn(SpawnError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Image(error) => error.fmt(f),
            StartError::Stack(error) => error.fmt(f),
            StartError::Memory(error) => write!(f, "its memory cannot be set up: {error:?}"),
            StartError::Spawn(error) => error.fmt(f),
        }
    }
}

impl From<Errno> for StartError {
    fn from(error: Errno) -> StartError {
        StartError::Memory(error)
    }
}

impl From<OutOfMemory> for StartError {
    fn from(error: OutOfMemory) -> StartError {
        StartError::Memory(error.into())
    }
}

/// Starts `program` as a child of the kernel, on `cpu`. The task ends once it runs, with its number.
///
/// # Errors
///
/// [`SpawnError`]; the task's own are [`StartError`].
pub(crate) fn start(cpu: CpuId, program: Program) -> Result<Spawned<Result<TaskId, StartError>>, SpawnError> {
    spawn_on(cpu, move || start_here(program))
}

async fn start_here(program: Program) -> Result<TaskId, StartError> {
    let arguments = borrowed(program.arguments)?;
    let words = Words { arguments: &arguments, environment: &[] };
    let Loaded { memory, entry, stack } = load(program.file, words).await?;

    let id = TaskId::next();
    let files = Descriptors::standard(&program.console)?;
    let process = Shared::new(Process {
        id,
        parent: TaskId::KERNEL,
        files: SpinMutex::new(files),
        actions: SpinMutex::new(ActionTable::new()),
        threads: SpinMutex::new(Vec::new()),
        ending: AtomicU32::new(0),
        replaced_by: AtomicU32::new(0),
    })?;
    let cpu = per_cpu::current().cpu;
    let thread = Thread::new(id, process.clone(), Shared::new(memory)?, cpu, SignalSet::EMPTY);
    let thread = Shared::new(thread)?;
    let state = boxed(UserState::new(entry, stack))?;
    let place = reserve(cpu).map_err(StartError::Spawn)?;
    process.add(thread.clone())?;
    table::add(process.clone())?;
    place.spawn(move || run(Task::new(thread, state))).detach();
    Ok(id)
}
