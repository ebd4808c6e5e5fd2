//! Signals.

use core::future::pending as forever;

use linux_raw_sys::general::{MINSIGSTKSZ, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SS_DISABLE, SS_ONSTACK};

use super::{Answer, Errno, Flow};
use crate::process::{
    Action, AlternateStack, Cause, Interrupted, Process, Signal, SignalSet, Task, TaskId, find,
};

/// Bytes of a signal set, which system calls are told.
const SET_BYTES: u64 = 8;

fn check_set(bytes: u64) -> Result<(), Errno> {
    if bytes == SET_BYTES { Ok(()) } else { Err(Errno::INVALID) }
}

pub(super) async fn action(task: &Task, signal: u64, new: u64, old: u64, set_bytes: u64) -> Answer {
    check_set(set_bytes)?;
    let signal = Signal::new(signal).ok_or(Errno::INVALID)?;
    let before = task.thread.process.actions.lock().get(signal);
    if new != 0 {
        if !signal.is_handled() {
            return Err(Errno::INVALID);
        }
        let [handler, flags, restorer, mask] = task.memory().read_words(new).await?;
        let action = Action { handler, flags, restorer, mask: SignalSet(mask) };
        task.thread.process.actions.lock().set(signal, action);
    }
    if old != 0 {
        let Action { handler, flags, restorer, mask } = before;
        task.memory().write_words(old, [handler, flags, restorer, mask.0]).await?;
    }
    Ok(0)
}

pub(super) async fn mask(task: &Task, how: u64, new: u64, old: u64, set_bytes: u64) -> Answer {
    check_set(set_bytes)?;
    let before = task.thread.blocked();
    if new != 0 {
        let [set] = task.memory().read_words(new).await?;
        let blocked = match how as u32 {
            SIG_BLOCK => before.0 | set,
            SIG_UNBLOCK => before.0 & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::INVALID),
        };
        task.thread.set_blocked(SignalSet(blocked));
    }
    if old != 0 {
        task.memory().write_words(old, [before.0]).await?;
    }
    Ok(0)
}

pub(super) async fn pending(task: &Task, to: u64, set_bytes: u64) -> Answer {
    check_set(set_bytes)?;
    let pending = task.thread.pending().0 & task.thread.blocked().0;
    task.memory().write_words(to, [pending]).await?;
    Ok(0)
}

pub(super) async fn pause(task: &Task) -> Answer {
    match task.thread.wait(forever::<()>()).await {
        Ok(()) | Err(Interrupted) => Err(Errno::INTERRUPTED),
    }
}

pub(super) async fn suspend(task: &mut Task, mask: u64, set_bytes: u64) -> Answer {
    check_set(set_bytes)?;
    let [mask] = task.memory().read_words(mask).await?;
    task.saved_mask = Some(task.thread.blocked());
    task.thread.set_blocked(SignalSet(mask));
    pause(task).await
}

pub(super) async fn return_from_handler(task: &mut Task) -> Flow {
    if task.return_from_handler().await.is_err() {
        task.force(Cause::sent(Signal::SEGV)).await;
    }
    Flow::Continue
}

pub(super) async fn alternate_stack(task: &mut Task, new: u64, old: u64) -> Answer {
    let before = task.alternate_stack;
    let is_on = before.holds(task.state.frame.rsp);
    if new != 0 {
        let [start, flags, bytes] = task.memory().read_words(new).await?;
        if is_on {
            return Err(Errno::NOT_PERMITTED);
        }
        task.alternate_stack = match flags as u32 {
            SS_DISABLE => AlternateStack::NONE,
            0 | SS_ONSTACK if bytes < u64::from(MINSIGSTKSZ) => return Err(Errno::NO_MEMORY),
            0 | SS_ONSTACK => AlternateStack { start, bytes },
            _ => return Err(Errno::INVALID),
        };
    }
    if old != 0 {
        let flags = if is_on { u64::from(SS_ONSTACK) } else { before.flags() };
        task.memory().write_words(old, [before.start, flags, before.bytes]).await?;
    }
    Ok(0)
}

fn signal(number: u64) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        number => Signal::new(number).map(Some).ok_or(Errno::INVALID),
    }
}

/// Sends a signal to a process: the own one, by its number or 0, or another.
pub(super) fn kill(task: &Task, process: u64, number: u64) -> Answer {
    let signal = signal(number)?;
    let own = &task.thread.process;
    let send = |process: &Process| {
        if let Some(signal) = signal {
            process.send(signal);
        }
    };
    match process as i32 {
        0 => send(own),
        id if id == own.id.0 as i32 => match signal {
            // The calling thread takes it before anything else, if it may.
            Some(signal) if !task.thread.blocked().contains(signal) => task.thread.send(signal),
            _ => send(own),
        },
        id => send(&*find(TaskId(id as u32)).ok_or(Errno::NO_PROCESS)?),
    }
    Ok(0)
}

pub(super) fn kill_thread(task: &Task, process: Option<u64>, thread: u64, number: u64) -> Answer {
    let signal = signal(number)?;
    let own = &task.thread.process;
    if process.is_some_and(|process| process as i32 != own.id.0 as i32) {
        return Err(Errno::NO_PROCESS);
    }
    own.with_thread(TaskId(thread as u32), |thread| {
        if let Some(signal) = signal {
            thread.send(signal);
        }
    })
    .map(|()| 0)
    .ok_or(Errno::NO_PROCESS)
}
