//! A process that begins as a copy of another.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spin::mutex::SpinMutex;

use crate::executor::reserve;
use crate::per_cpu;
use crate::process::{Event, Interrupted, Process, Shared, Task, TaskId, Thread, boxed, run, table};
use crate::syscall::Errno;

/// Whose memory a child runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ChildMemory {
    /// A copy of its parent's.
    #[default]
    Copied,
    /// Its parent's, until it ends or has a program of its own. The calling thread waits meanwhile.
    Borrowed,
}

/// Which process is a child's parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Parent {
    /// The one that makes the child.
    #[default]
    Maker,
    /// The parent of the one that makes the child.
    MakersParent,
}

/// What of a child's registers and memory is not its parent's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Birth {
    /// Whose memory it runs in.
    pub memory: ChildMemory,
    /// The process that is told of its end.
    pub parent: Parent,
    /// Its stack pointer.
    pub stack: Option<u64>,
    /// The base of FS.
    pub fs_base: Option<u64>,
    /// Where its number goes in its own memory.
    pub id_at: Option<u64>,
    /// The word that is cleared when it ends.
    pub cleared_at_end: u64,
}

/// A child has given its parent's memory back.
static GIVEN_BACK: Event = Event::new();

/// The memory of a parent, which a child uses until it drops this.
#[derive(Debug)]
pub(crate) struct Loan(Shared<AtomicBool>);

impl Drop for Loan {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `fork`: what the child did to the memory happened before.
        self.0.store(true, Ordering::Release);
        GIVEN_BACK.notify();
    }
}

/// Starts a copy of the process of `task`, with a copy of the calling thread alone, on the executing CPU.
/// Returns its number; if the child borrows the memory, once that is given back.
///
/// # Errors
///
/// [`Errno::NO_MEMORY`], [`Errno::AGAIN`], [`Errno::FAULT`], [`Errno::NOT_PERMITTED`] for a base that is no
/// user's address.
pub(crate) async fn fork(task: &mut Task, birth: Birth) -> Result<TaskId, Errno> {
    let id = TaskId::next();
    let mut state = boxed(task.state.copy())?;
    state.frame.rax = 0;
    if let Some(stack) = birth.stack {
        state.frame.rsp = stack;
    }
    if birth.fs_base.is_some_and(|base| !state.set_fs_base(base)) {
        return Err(Errno::NOT_PERMITTED);
    }
    let (memory, given_back) = match birth.memory {
        ChildMemory::Copied => (Shared::new(task.memory().fork()?)?, None),
        ChildMemory::Borrowed => (task.thread.memory.clone(), Some(Shared::new(AtomicBool::new(false))?)),
    };
    if let Some(at) = birth.id_at {
        memory.write(at, &id.0.to_le_bytes()).await?;
    }
    let maker = &task.thread.process;
    let files = maker.files.lock().try_clone()?;
    let actions = maker.actions.lock().clone();
    let process = Shared::new(Process {
        id,
        parent: match birth.parent {
            Parent::Maker => maker.id,
            Parent::MakersParent => maker.parent,
        },
        files: SpinMutex::new(files),
        actions: SpinMutex::new(actions),
        threads: SpinMutex::new(Vec::new()),
        ending: AtomicU32::new(0),
        replaced_by: AtomicU32::new(0),
    })?;
    let cpu = per_cpu::current().cpu;
    let thread = Shared::new(Thread::new(id, process.clone(), memory, cpu, task.thread.blocked()))?;
    let place = reserve(cpu).map_err(|_| Errno::AGAIN)?;
    process.add(thread.clone())?;
    table::add(process)?;
    let mut child = Task::new(thread, state);
    child.alternate_stack = task.alternate_stack;
    child.cleared_at_end = birth.cleared_at_end;
    child.loan = given_back.clone().map(Loan);
    place.spawn(move || run(child)).detach();
    if let Some(given_back) = given_back {
        let wait = GIVEN_BACK.wait(|| given_back.load(Ordering::Acquire).then_some(()));
        // If the parent must end meanwhile, the child keeps the memory to itself.
        let (Ok(()) | Err(Interrupted)) = task.thread.wait_despite_signals(wait).await;
    }
    Ok(id)
}
