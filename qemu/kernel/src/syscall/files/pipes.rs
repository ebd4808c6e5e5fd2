//! Pipes, and waiting for them.

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT};

use crate::file::{Blocking, Content, LEAST_FREE, Mode, OnExec, OpenFile, pipe as new_pipe, pipes_changed};
use crate::process::{Shared, Task, with_limit};
use crate::syscall::{Answer, Errno};

/// Descriptors that one `poll` may name.
const MOST_POLLED: u64 = 256;

/// `pipe` and `pipe2`.
pub(in crate::syscall) async fn pipe(task: &Task, to: u64, flags: u64) -> Answer {
    let flags = flags as u32;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::INVALID);
    }
    let on_exec = if flags & O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let (reader, writer) = new_pipe()?;
    let reader = Shared::new(OpenFile::new(Content::PipeReader(reader), Mode::Read))?;
    let writer = Shared::new(OpenFile::new(Content::PipeWriter(writer), Mode::Write))?;
    if flags & O_NONBLOCK != 0 {
        reader.set_blocking(Blocking::Fail);
        writer.set_blocking(Blocking::Fail);
    }
    let files = &task.thread.process.files;
    let close = |descriptor| drop(files.lock().close(descriptor));
    let reads = files.lock().add(reader, LEAST_FREE, on_exec)?;
    let added = files.lock().add(writer, LEAST_FREE, on_exec);
    let writes = added.inspect_err(|_| close(reads))?;
    let mut words = [0; 8];
    words[..4].copy_from_slice(&reads.to_le_bytes());
    words[4..].copy_from_slice(&writes.to_le_bytes());
    task.memory().write(to, &words).await.inspect_err(|_| {
        close(reads);
        close(writes);
    })?;
    Ok(0)
}

/// A file that `poll` names.
struct Polled {
    /// `None` for a descriptor that is left out.
    file: Option<Result<Shared<OpenFile>, Errno>>,
    events: u32,
}

impl Polled {
    /// Returns what is to be told of the file now.
    fn found(&self) -> u32 {
        let flag = |is_so: bool, flag: u32| if is_so { flag } else { 0 };
        match &self.file {
            None => 0,
            Some(Err(_)) => POLLNVAL,
            Some(Ok(file)) => {
                let ready = file.readiness();
                let wanted = flag(ready.reads, POLLIN) | flag(ready.writes, POLLOUT);
                let gone = if file.mode == Mode::Write { POLLERR } else { POLLHUP };
                wanted & self.events | flag(ready.hung_up, gone)
            }
        }
    }
}

/// `poll`.
pub(in crate::syscall) async fn poll(task: &Task, at: u64, count: u64, milliseconds: u64) -> Answer {
    if count > MOST_POLLED {
        return Err(Errno::INVALID);
    }
    let mut polled = Vec::new();
    polled.try_reserve_exact(count as usize).map_err(|_| Errno::NO_MEMORY)?;
    for number in 0..count {
        let [word] = task.memory().read_words(at.wrapping_add(8 * number)).await?;
        let (descriptor, events) = (word as u32 as i32, (word >> 32) as u32 & 0xffff);
        let files = &task.thread.process.files;
        let file = u32::try_from(descriptor).ok().map(|descriptor| files.lock().get(descriptor));
        polled.push(Polled { file, events });
    }
    let is_any_ready = || polled.iter().any(|polled| polled.found() != 0);
    if !is_any_ready() && milliseconds as i32 != 0 {
        // A negative time has no end.
        let limit = u64::try_from(milliseconds as i32).ok().map(Duration::from_millis);
        let change = pipes_changed().wait(|| is_any_ready().then_some(()));
        task.thread.wait(with_limit(change, limit)).await?;
    }
    let mut ready = 0;
    for (number, polled) in (0..).zip(&polled) {
        let found = polled.found();
        ready += u64::from(found != 0);
        task.memory().write(at.wrapping_add(8 * number + 6), &(found as u16).to_le_bytes()).await?;
    }
    Ok(ready)
}
