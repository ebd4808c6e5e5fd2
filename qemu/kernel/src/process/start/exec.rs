//! Another program in place of the one that a process runs.

extern crate alloc;

use alloc::vec::Vec;

use topomem_exec::File;

use super::load::{Loaded, Words, borrowed, load};
use crate::arch::user::UserState;
use crate::per_cpu;
use crate::process::{AlternateStack, Interrupted, Memory, Shared, StartError, Task, Thread};
use crate::syscall::Errno;

/// Has the process of `task` run `program` instead of its own: with the same files, but for those that are to be
/// closed then, in new memory, with one thread. What it ignores it ignores on.
///
/// # Errors
///
/// [`StartError`]: the process goes on as it was. [`Errno::INTERRUPTED`] if the thread must end.
pub(crate) async fn exec(
    task: &mut Task,
    program: File<'static>,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
) -> Result<(), StartError> {
    let (arguments, environment) = (borrowed(arguments)?, borrowed(environment)?);
    let words = Words { arguments: &arguments, environment: &environment };
    let Loaded { memory, entry, stack } = load(program, words).await?;
    match replace(task, Shared::new(memory)?).await {
        Ok(former) => {
            task.state.unload();
            *task.state = UserState::new(entry, stack);
            give_back(former).await;
            Ok(())
        }
        Err((unused, error)) => {
            give_back(unused).await;
            Err(error.into())
        }
    }
}

/// Has the process go on in `memory`, with the calling thread alone. Returns the memory that it had before; or
/// `memory`, if nothing has changed.
async fn replace(task: &mut Task, memory: Shared<Memory>) -> Result<Shared<Memory>, (Shared<Memory>, Errno)> {
    let process = task.thread.process.clone();
    let (cpu, blocked) = (per_cpu::current().cpu, task.thread.blocked());
    // The thread has the process's number, whichever thread it was.
    let thread = Thread::new(process.id, process.clone(), memory.clone(), cpu, blocked);
    let thread = match Shared::new(thread) {
        Ok(thread) => thread,
        Err(error) => return Err((memory, error.into())),
    };
    if let Err(Interrupted) = process.end_others(&task.thread).await {
        return Err((memory, Errno::INTERRUPTED));
    }
    // The only owners of the new memory are the thread and, until here, this function.
    drop(memory);
    process.replace(&task.thread, &thread);
    let former = core::mem::replace(&mut task.thread, thread);
    task.alternate_stack = AlternateStack::NONE;
    task.cleared_at_end = 0;
    task.saved_mask = None;
    process.actions.lock().forget_handlers();
    loop {
        // The lock is not held while a file goes.
        let closed = process.files.lock().close_for_exec();
        if closed.is_none() {
            break;
        }
    }
    // The CPU must not be in memory that goes.
    task.thread.memory.activate();
    let former = former.memory.clone();
    // A parent that has lent its memory goes on.
    task.loan = None;
    Ok(former)
}

/// Gives memory back, unless it is another's, too.
async fn give_back(memory: Shared<Memory>) {
    if let Some(memory) = memory.into_inner() {
        memory.leave();
        memory.close().await;
    }
}
