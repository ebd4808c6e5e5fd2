//! All processes, and waiting for their ends.

extern crate alloc;

use alloc::vec::Vec;

use spin::mutex::SpinMutex;

use super::{Ending, Event, Interrupted, OutOfMemory, Process, Shared, Signal, TaskId, Thread};
use crate::per_cpu::Polling;
use crate::syscall::Errno;

#[derive(Debug)]
struct Entry {
    id: TaskId,
    /// `None` once nobody waits for its end any more.
    parent: Option<TaskId>,
    state: State,
}

#[derive(Debug)]
enum State {
    Running(Shared<Process>),
    /// It has no threads any more, and gives its memory back.
    Ending,
    Ended(Ending),
}

static PROCESSES: SpinMutex<Vec<Entry>, Polling> = SpinMutex::new(Vec::new());
/// A process has ended.
static ENDED: Event = Event::new();

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Which.
    pub id: TaskId,
    /// How.
    pub ending: Ending,
}

/// Adds a process that is about to run.
///
/// # Errors
///
/// [`OutOfMemory`].
pub(super) fn add(process: Shared<Process>) -> Result<(), OutOfMemory> {
    let mut processes = PROCESSES.lock();
    processes.try_reserve(1).map_err(|_| OutOfMemory)?;
    let id = process.id;
    // A parent that is not the one that makes it may have ended.
    let lives = |entry: &Entry| entry.id == process.parent && !matches!(entry.state, State::Ended(_));
    let has_parent = process.parent == TaskId::KERNEL || processes.iter().any(lives);
    let parent = has_parent.then_some(process.parent);
    processes.push(Entry { id, parent, state: State::Running(process) });
    Ok(())
}

/// The process of this number, if it runs.
pub(crate) fn find(id: TaskId) -> Option<Shared<Process>> {
    PROCESSES.lock().iter().find_map(|entry| match &entry.state {
        State::Running(process) if entry.id == id => Some(process.clone()),
        _ => None,
    })
}

/// Ends the process of `thread`, its last one, which has left the process's memory: gives back what it has, and
/// then tells the parent, which gets a signal.
pub(super) async fn end(thread: Shared<Thread>, ending: Ending) {
    let (id, parent) = (thread.process.id, thread.process.parent);
    // Nobody finds it any more, so the thread is its owner.
    let listed = replace_state(id, State::Ending);
    drop(listed);
    let memory = thread.into_inner().map(|Thread { memory, .. }| memory);
    // If the memory is borrowed, its owner gives it back. If another task has the thread at this moment, the last
    // owner leaves its memory to the service task.
    if let Some(memory) = memory.and_then(Shared::into_inner) {
        memory.close().await;
    }
    ended(id, parent, ending);
}

/// Gives the process of this number another state. Returns the former one, to be dropped without the table's
/// lock.
fn replace_state(id: TaskId, state: State) -> Option<State> {
    let mut processes = PROCESSES.lock();
    let entry = processes.iter_mut().find(|entry| entry.id == id)?;
    Some(core::mem::replace(&mut entry.state, state))
}

/// Keeps of the process `id` only how it ended, for its parent, which gets a signal; its children have no
/// parent any more.
fn ended(id: TaskId, parent: TaskId, ending: Ending) {
    let mut processes = PROCESSES.lock();
    for entry in processes.iter_mut() {
        if entry.id == id {
            entry.state = State::Ended(ending);
        } else if entry.parent == Some(id) {
            entry.parent = None;
        }
    }
    processes.retain(|entry| entry.parent.is_some() || !matches!(entry.state, State::Ended(_)));
    drop(processes);
    if let Some(parent) = find(parent) {
        parent.send(Signal::CHLD);
    }
    ENDED.notify();
}

/// Which children a parent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Children {
    /// Any.
    Any,
    /// The one of this number.
    One(TaskId),
}

/// Takes a child of `parent` that has ended; `Ok(None)` if none of those has, yet.
///
/// # Errors
///
/// [`Errno::CHILD`]: there is no such child.
pub(crate) fn take_ended(parent: TaskId, which: Children) -> Result<Option<Ended>, Errno> {
    let mut processes = PROCESSES.lock();
    let is_meant = |entry: &Entry| {
        entry.parent == Some(parent) && (which == Children::Any || which == Children::One(entry.id))
    };
    if !processes.iter().any(is_meant) {
        return Err(Errno::CHILD);
    }
    let ended = processes.iter().enumerate().find_map(|(at, entry)| match entry.state {
        State::Ended(ending) if is_meant(entry) => Some((at, Ended { id: entry.id, ending })),
        _ => None,
    });
    Ok(ended.map(|(at, ended)| {
        processes.swap_remove(at);
        if processes.is_empty() {
            // Its memory, too.
            *processes = Vec::new();
        }
        ended
    }))
}

/// Waits until a child of `parent` ends, and takes it. `waiter` is the thread that waits, if it is one.
///
/// # Errors
///
/// [`Errno::CHILD`], [`Errno::INTERRUPTED`].
pub(crate) async fn wait_for_child(
    parent: TaskId,
    which: Children,
    waiter: Option<&Thread>,
) -> Result<Ended, Errno> {
    let wait = ENDED.wait(|| take_ended(parent, which).transpose());
    match waiter {
        Some(thread) => thread.wait(wait).await.map_err(|Interrupted| Errno::INTERRUPTED)?,
        None => wait.await,
    }
}
