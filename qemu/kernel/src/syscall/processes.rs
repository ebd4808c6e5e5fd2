//! Processes.

use linux_raw_sys::general::{RUSAGE_CHILDREN, RUSAGE_SELF, WNOHANG};

use super::{Answer, Errno, Flow};
use crate::process::{Children, Ended, Ending, Task, TaskId, take_ended, wait_for_child};

/// Words of a `rusage`.
const USAGE_WORDS: usize = 18;

pub(super) fn exit(task: &Task, code: u64) -> Flow {
    task.thread.process.end(Ending::Exited(code as u8));
    Flow::End(code as u8)
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
