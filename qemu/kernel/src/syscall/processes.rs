//! Processes.

extern crate alloc;

use alloc::vec::Vec;

use linux_raw_sys::general::{RUSAGE_CHILDREN, RUSAGE_SELF, WNOHANG};

use super::{Answer, Errno, Flow};
use crate::file;
use crate::process;
use crate::process::{Children, Ended, Ending, Task, TaskId, take_ended, wait_for_child};

/// Words of a `rusage`.
const USAGE_WORDS: usize = 18;

pub(super) fn exit(task: &Task, code: u64) -> Flow {
    task.thread.process.end(Ending::Exited(code as u8));
    Flow::End(code as u8)
}

/// Bytes that a program's arguments and its environment may have, each.
const MOST_BYTES: usize = 64 << 10;

/// Reads the texts that a list of addresses with a zero at its end names.
async fn read_texts(task: &Task, list: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut texts = Vec::new();
    let mut bytes = 0;
    if list == 0 {
        // Linux takes no list for an empty one.
        return Ok(texts);
    }
    loop {
        let [at] = task.memory().read_words(list.wrapping_add(8 * texts.len() as u64)).await?;
        if at == 0 {
            return Ok(texts);
        }
        let text = task.memory().read_text(at).await.map_err(|error| match error {
            Errno::TOO_LONG => Errno::TOO_MANY_ARGUMENTS,
            error => error,
        })?;
        bytes += text.len() + 1 + size_of::<u64>();
        if bytes > MOST_BYTES {
            return Err(Errno::TOO_MANY_ARGUMENTS);
        }
        texts.try_reserve(1).map_err(|_| Errno::NO_MEMORY)?;
        texts.push(text);
    }
}

/// `execve`.
pub(super) async fn exec(task: &mut Task, path: u64, arguments: u64, environment: u64) -> Result<(), Errno> {
    let path = task.memory().read_text(path).await?;
    let own = path == file::OWN_PROGRAM;
    let program = file::find(if own { task.memory().program() } else { &path }).ok_or(Errno::NO_ENTRY)?;
    let mut arguments = read_texts(task, arguments).await?;
    if arguments.is_empty() {
        // A program finds its name at the first.
        arguments.try_reserve(1).map_err(|_| Errno::NO_MEMORY)?;
        arguments.push(Vec::new());
    }
    let environment = read_texts(task, environment).await?;
    Ok(process::exec(task, program, &arguments, &environment).await?)
}

pub(super) async fn wait(task: &Task, which: u64, status: u64, options: u64, usage: u64) -> Answer {
    let which = match which as i32 {
        -1 | 0 => Children::Any,
        id @ 1.. => Children::One(TaskId(id as u32)),
        // There are no process groups.
        _ => return Err(Errno::CHILD),
    };
    let own = task.thread.process.id;
    let ended = if options as u32 & WNOHANG != 0 {
        take_ended(own, which)?
    } else {
        Some(wait_for_child(own, which, Some(&task.thread)).await?)
    };
    let Some(Ended { id, ending }) = ended else { return Ok(0) };
    if status != 0 {
        task.memory().write(status, &ending.status().to_le_bytes()).await?;
    }
    if usage != 0 {
        task.memory().write_words(usage, [0; USAGE_WORDS]).await?;
    }
    Ok(u64::from(id.0))
}

/// `getrusage`: of what a process has used, faults alone are counted.
pub(super) async fn usage(task: &Task, whose: u64, to: u64) -> Answer {
    let mut words = [0; USAGE_WORDS];
    match whose as i32 {
        own if own == RUSAGE_SELF as i32 => (words[8], words[9]) = task.memory().faults(),
        RUSAGE_CHILDREN => {}
        _ => return Err(Errno::INVALID),
    }
    task.memory().write_words(to, words).await?;
    Ok(0)
}
