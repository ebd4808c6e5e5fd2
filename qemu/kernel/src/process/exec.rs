//! Starting a program in a process of its own.

use core::fmt;
use core::sync::atomic::AtomicU32;

extern crate alloc;

use alloc::vec::Vec;

use async_task::Task as Spawned;
use linux_raw_sys::auxvec;
use spin::mutex::SpinMutex;
use topomem::region::Kind;
use topomem::{Access, CpuId};
use topomem_exec::{Access as SegmentAccess, Image, ImageError, InitialStack, PAGE, Placement, StackError};

use super::memory::{BOUNDS, request_at};
use super::{
    ActionTable, Memory, OutOfMemory, Process, Shared, SignalSet, Task, TaskId, Thread, boxed, run, table,
};
use crate::arch::features;
use crate::arch::random::random;
use crate::arch::user::{USER_END, UserState};
use crate::executor::{SpawnError, reserve, spawn_on};
use crate::file::{Console, Descriptors};
use crate::per_cpu;
use crate::syscall::Errno;

/// Bytes that the first thread's stack may grow to: what a space has it by default.
pub const STACK: u64 = 8 << 20;
/// Bytes that it has from the first.
const FIRST_STACK: u64 = 128 << 10;
/// Where programs that may lie anywhere begin, and by how many pages that is shifted at random.
const ANYWHERE: u64 = 0x5555_5555_4000;
const SHIFT_PAGES: u64 = 1 << 22;
/// By how many pages a break and a stack are shifted at random.
const SMALL_SHIFT_PAGES: u64 = 1 << 12;
/// Clock ticks a second, in units that nothing here counts in.
const CLOCK_TICKS: u64 = 100;

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub file: &'static [u8],
    /// Its arguments, its name first.
    pub arguments: &'static [&'static str],
    /// Where its output goes.
    pub console: Shared<Console>,
}

/// Why a program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartError {
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
pub fn start(cpu: CpuId, program: Program) -> Result<Spawned<Result<TaskId, StartError>>, SpawnError> {
    spawn_on(cpu, move || start_here(program))
}

async fn start_here(program: Program) -> Result<TaskId, StartError> {
    let image = Image::read(program.file, BOUNDS).map_err(StartError::Image)?;
    let memory = Memory::new()?;
    let loaded = load(&memory, &image).await?;
    let pointer = set_up_stack(&memory, &image, &loaded, program.arguments).await?;

    let id = TaskId::next();
    let files = Descriptors::standard(&program.console)?;
    let process = Shared::new(Process {
        id,
        parent: TaskId::KERNEL,
        memory,
        files: SpinMutex::new(files),
        actions: SpinMutex::new(ActionTable::new()),
        threads: SpinMutex::new(Vec::new()),
        ending: AtomicU32::new(0),
    })?;
    let cpu = per_cpu::current().cpu;
    let thread = Shared::new(Thread::new(id, process.clone(), cpu, SignalSet::EMPTY))?;
    let state = boxed(UserState::new(loaded.entry, pointer))?;
    let place = reserve(cpu).map_err(StartError::Spawn)?;
    process.add(thread.clone())?;
    table::add(process.clone())?;
    place.spawn(move || run(Task::new(thread, state))).detach();
    Ok(id)
}

/// Where a program has been put.
struct Loaded {
    bias: u64,
    entry: u64,
}

async fn load(memory: &Memory, image: &Image<'_>) -> Result<Loaded, StartError> {
    let (start, end) = image.span();
    let bias = match image.placement {
        Placement::Fixed => 0,
        Placement::Anywhere => (ANYWHERE + random() % SHIFT_PAGES * PAGE).wrapping_sub(start),
    };
    for segment in &image.segments {
        let (at, bytes) = (segment.start.wrapping_add(bias), segment.end - segment.start);
        let (kind, access) = match segment.access {
            SegmentAccess::None => (Kind::Data, Access::NONE),
            SegmentAccess::Read => (Kind::Data, Access::READ),
            SegmentAccess::Write => (Kind::Data, Access::WRITE),
            SegmentAccess::Execute => (Kind::Code, Access::EXECUTE),
            // Nothing here may be both.
            SegmentAccess::WriteExecute => return Err(StartError::Memory(Errno::ACCESS)),
        };
        memory.map(&request_at(at, bytes, kind, Access::WRITE)?)?;
        memory.write(segment.address.wrapping_add(bias), segment.content).await?;
        if access != Access::WRITE
            && let Some(unmapping) = memory.protect(at, bytes, access)?
        {
            unmapping.await;
        }
    }
    memory.start_heap(end.wrapping_add(bias) + random() % SMALL_SHIFT_PAGES * PAGE);
    Ok(Loaded { bias, entry: image.entry.wrapping_add(bias) })
}

async fn set_up_stack(
    memory: &Memory,
    image: &Image<'_>,
    loaded: &Loaded,
    arguments: &[&str],
) -> Result<u64, StartError> {
    let top = USER_END - (1 + random() % SMALL_SHIFT_PAGES) * PAGE;
    // It grows by itself.
    memory.map(&request_at(top - FIRST_STACK, FIRST_STACK, Kind::Stack, Access::WRITE)?)?;
    let mut texts = Vec::new();
    texts.try_reserve_exact(arguments.len()).map_err(|_| OutOfMemory)?;
    texts.extend(arguments.iter().map(|argument| argument.as_bytes()));
    let headers = image.headers;
    let auxiliary = [
        (auxvec::AT_PHDR, headers.address.map_or(0, |address| address.wrapping_add(loaded.bias))),
        (auxvec::AT_PHENT, headers.bytes),
        (auxvec::AT_PHNUM, headers.count),
        (auxvec::AT_PAGESZ, PAGE),
        (auxvec::AT_BASE, 0),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, loaded.entry),
        (auxvec::AT_UID, 0),
        (auxvec::AT_EUID, 0),
        (auxvec::AT_GID, 0),
        (auxvec::AT_EGID, 0),
        (auxvec::AT_SECURE, 0),
        (auxvec::AT_HWCAP, u64::from(features::hwcap())),
        (auxvec::AT_CLKTCK, CLOCK_TICKS),
    ]
    .map(|(key, value)| (u64::from(key), value));
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&random().to_le_bytes());
    seed[8..].copy_from_slice(&random().to_le_bytes());
    let stack = InitialStack::lay_out(top, &texts, &[], &auxiliary, seed).map_err(StartError::Stack)?;
    if stack.bytes.len() as u64 > FIRST_STACK {
        return Err(StartError::Stack(StackError::TooLong));
    }
    memory.write(stack.pointer, &stack.bytes).await?;
    Ok(stack.pointer)
}
