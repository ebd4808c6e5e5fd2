//! User programs: processes, each with an address space of its own, and their threads.
//!
//! A thread is a task of the executor ([`Task`]): it enters user mode, and does there and then what the
//! program asks for. Waiting is awaiting, so a thread that waits has no stack of the kernel's. Other tasks
//! reach it through its [`Thread`].

mod event;
mod futex;
mod memory;
mod shared;
mod signal;
mod start;
mod table;
mod task;
mod thread;

pub(crate) use event::{Event, with_limit};
pub(crate) use futex::{FutexKey, requeue, wake};
pub(crate) use memory::locking::Locking;
pub(crate) use memory::mapping::WriteBack;
pub(crate) use memory::{Announced, Memory, Refusal, fixed, leave_spaces};
pub(crate) use shared::{OutOfMemory, Shared, boxed};
pub(crate) use signal::delivery::Cause;
pub(crate) use signal::{Action, ActionTable, AlternateStack, Signal, SignalSet};
pub(crate) use start::exec::exec;
pub(crate) use start::fork::{Birth, ChildMemory, Parent, fork};
pub(crate) use start::load::STACK;
pub(crate) use start::{Program, StartError, start};
pub(crate) use table::{Children, Ended, find, take_ended, wait_for_child};
pub(crate) use task::{Task, run};
pub(crate) use thread::{Interrupted, Thread};

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

extern crate alloc;

use alloc::vec::Vec;

use spin::mutex::SpinMutex;

use crate::file::Descriptors;
use crate::per_cpu::Polling;

/// The number of a process or of a thread; the two share one sequence, and the first thread of a process has
/// its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId(pub u32);

impl TaskId {
    /// What the kernel goes by as a parent.
    pub(crate) const KERNEL: TaskId = TaskId(0);

    /// A number that nothing had before.
    pub(crate) fn next() -> TaskId {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // Relaxed: only that each caller gets another.
        TaskId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a process ended, as `wait4` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Killed(Signal),
}

impl Ending {
    /// The status word.
    pub(crate) fn status(self) -> u32 {
        match self {
            Ending::Exited(code) => u32::from(code) << 8,
            Ending::Killed(signal) => u32::from(signal.number()),
        }
    }

    fn from_status(status: u32) -> Ending {
        match Signal::new(u64::from(status & 0x7f)) {
            Some(signal) => Ending::Killed(signal),
            None => Ending::Exited((status >> 8) as u8),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "exit code {code}"),
            Ending::Killed(signal) => write!(f, "{signal}"),
        }
    }
}

/// The bit of [`Process::ending`] that says that the process ends; the rest is the status word.
const ENDS: u32 = 1 << 31;

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number.
    pub id: TaskId,
    /// The process that started it.
    pub parent: TaskId,
    /// Its open files.
    pub files: SpinMutex<Descriptors, Polling>,
    /// What it does about signals.
    pub actions: SpinMutex<ActionTable, Polling>,
    /// The threads that it has.
    threads: SpinMutex<Vec<Shared<Thread>>, Polling>,
    /// Does it end, and how? Written once.
    ending: AtomicU32,
    /// The thread that has another program take the place of this one, by its number: all others end. 0 if
    /// there is none.
    replaced_by: AtomicU32,
}

/// A thread of a process whose program is replaced has ended.
static THREAD_ENDED: Event = Event::new();

impl Process {
    /// Has the process end; the first caller says how.
    pub(crate) fn end(&self, ending: Ending) {
        // SeqCst, as the load in `is_ending`: a thread that does not see it yet has said before on which CPU
        // it is, and is interrupted there.
        let first =
            self.ending.compare_exchange(0, ENDS | ending.status(), Ordering::SeqCst, Ordering::SeqCst);
        if first.is_ok() {
            self.threads.lock().iter().for_each(|thread| thread.interrupt());
        }
    }

    /// Sends it `signal`: to a thread that takes it now, if there is one. Nothing happens if it ignores the
    /// signal.
    pub(crate) fn send(&self, signal: Signal) {
        if self.actions.lock().get(signal).ignores(signal) {
            return;
        }
        let threads = self.threads.lock();
        let takes = threads.iter().find(|thread| !thread.blocked().contains(signal));
        if let Some(thread) = takes.or(threads.first()) {
            thread.send(signal);
        }
    }

    /// Has all threads but `survivor` end, since another program takes the place of this one, and waits until
    /// they have.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] if this thread must end itself.
    async fn end_others(&self, survivor: &Thread) -> Result<(), Interrupted> {
        // SeqCst: as in `end`.
        let first = self.replaced_by.compare_exchange(0, survivor.id.0, Ordering::SeqCst, Ordering::SeqCst);
        first.map_err(|_| Interrupted)?;
        let others = || self.threads.lock().iter().filter(|thread| thread.id != survivor.id).count();
        self.threads.lock().iter().for_each(|thread| thread.interrupt());
        survivor.wait_despite_signals(THREAD_ENDED.wait(|| (others() == 0).then_some(()))).await
    }

    /// Has `thread` be the only thread, in place of `former`.
    fn replace(&self, former: &Thread, thread: &Shared<Thread>) {
        let mut threads = self.threads.lock();
        for listed in threads.iter_mut().filter(|listed| listed.id == former.id) {
            *listed = thread.clone();
        }
        // Under the lock, which those hold who send signals.
        thread.inherit_signals(former);
        self.replaced_by.store(0, Ordering::SeqCst);
    }

    /// Must the thread of this number end?
    pub(crate) fn ends(&self, thread: TaskId) -> bool {
        let replaced_by = self.replaced_by.load(Ordering::SeqCst);
        self.is_ending() || replaced_by != 0 && replaced_by != thread.0
    }

    /// Does it end?
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst) != 0
    }

    /// Adds a thread.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub(crate) fn add(&self, thread: Shared<Thread>) -> Result<(), OutOfMemory> {
        let mut threads = self.threads.lock();
        threads.try_reserve(1).map_err(|_| OutOfMemory)?;
        threads.push(thread);
        Ok(())
    }

    /// Removes a thread, which has ended with `code`. With the last one the process ends: returns how.
    pub(crate) fn remove(&self, thread: &Thread, code: u8) -> Option<Ending> {
        let is_last = {
            let mut threads = self.threads.lock();
            threads.retain(|other| other.id != thread.id);
            threads.is_empty()
        };
        if !is_last {
            if self.replaced_by.load(Ordering::SeqCst) != 0 {
                THREAD_ENDED.notify();
            }
            return None;
        }
        self.end(Ending::Exited(code));
        let closed = self.files.lock().close_all();
        drop(closed);
        Some(Ending::from_status(self.ending.load(Ordering::SeqCst) & !ENDS))
    }

    /// Calls `with` for the thread of this number, if it is the process's.
    pub(crate) fn with_thread<R>(&self, id: TaskId, with: impl FnOnce(&Thread) -> R) -> Option<R> {
        self.threads.lock().iter().find(|thread| thread.id == id).map(|thread| with(thread))
    }

    /// How many threads it has.
    pub(crate) fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }
}
