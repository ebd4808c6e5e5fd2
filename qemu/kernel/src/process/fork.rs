//! A process that begins as a copy of another.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use spin::mutex::SpinMutex;

use super::{Process, Shared, Task, TaskId, Thread, boxed, run, table};
use crate::executor::reserve;
use crate::per_cpu;
use crate::syscall::Errno;

/// What of a child's registers and memory is not its parent's.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChildWords {
    /// Its stack pointer.
    pub stack: Option<u64>,
    /// The base of FS.
    pub fs_base: Option<u64>,
    /// Where its number goes in its own memory.
    pub id_at: Option<u64>,
    /// The word that is cleared when it ends.
    pub cleared_at_end: u64,
}

/// Starts a copy of the process of `task`, with a copy of the calling thread alone, on the executing CPU.
/// Returns its number.
///
/// # Errors
///
/// [`Errno::NO_MEMORY`], [`Errno::AGAIN`], [`Errno::FAULT`], [`Errno::NOT_PERMITTED`] for a base that is no
/// user's address.
pub async fn fork(task: &mut Task, words: ChildWords) -> Result<TaskId, Errno> {
    let id = TaskId::next();
    let mut state = boxed(task.state.copy())?;
    state.frame.rax = 0;
    if let Some(stack) = words.stack {
        state.frame.rsp = stack;
    }
    if words.fs_base.is_some_and(|base| !state.set_fs_base(base)) {
        return Err(Errno::NOT_PERMITTED);
    }
    let parent = &task.thread.process;
    let memory = parent.memory.fork()?;
    if let Some(at) = words.id_at {
        memory.write(at, &id.0.to_le_bytes()).await?;
    }
    let files = parent.files.lock().try_clone()?;
    let actions = parent.actions.lock().clone();
    let process = Shared::new(Process {
        id,
        parent: parent.id,
        memory,
        files: SpinMutex::new(files),
        actions: SpinMutex::new(actions),
        threads: SpinMutex::new(Vec::new()),
        ending: AtomicU32::new(0),
    })?;
    let cpu = per_cpu::current().cpu;
    let thread = Shared::new(Thread::new(id, process.clone(), cpu, task.thread.blocked()))?;
    let place = reserve(cpu).map_err(|_| Errno::AGAIN)?;
    process.add(thread.clone())?;
    table::add(process)?;
    let mut child = Task::new(thread, state);
    child.alternate_stack = task.alternate_stack;
    child.cleared_at_end = words.cleared_at_end;
    place.spawn(move || run(child)).detach();
    Ok(id)
}
