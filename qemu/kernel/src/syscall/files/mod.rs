//! Files.

pub(super) mod paths;
pub(super) mod pipes;

extern crate alloc;

use alloc::vec::Vec;

use linux_raw_sys::general::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, O_CLOEXEC, O_NONBLOCK,
    O_RDONLY, O_RDWR, O_WRONLY, SEEK_CUR, SEEK_END, SEEK_SET,
};

use topomem::object::MemoryObject;

use super::{Answer, Errno};
use crate::file::{Blocking, Content, LEAST_FREE, Mode, OnExec, OpenFile, Whence};
use crate::memory::platform::Kernel;
use crate::process::{Shared, Signal, Task};

/// The `ioctl` that says whether a program waits for another.
const FIONBIO: u32 = 0x5421;
/// Bytes that one system call moves at most, a piece at a time.
const PIECE: usize = 4096;
/// Pieces of memory that one system call may name.
const MOST_PIECES: u64 = 1024;

/// What kind of file it is, with permissions, as `stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Regular = 0o100_755,
    Folder = 0o040_755,
    CharacterDevice = 0o020_620,
    Pipe = 0o010_600,
}

pub(super) fn file(task: &Task, descriptor: u64) -> Result<Shared<OpenFile>, Errno> {
    let descriptor = u32::try_from(descriptor as i32).map_err(|_| Errno::BAD_FILE)?;
    task.thread.process.files.lock().get(descriptor)
}

fn offset(offset: Option<u64>) -> Result<Option<u64>, Errno> {
    match offset {
        Some(offset) if i64::try_from(offset).is_err() => Err(Errno::INVALID),
        offset => Ok(offset),
    }
}

/// Returns room for a piece of `bytes`. It is not in the future of a system call, which each thread has.
fn buffer(bytes: u64) -> Result<Vec<u8>, Errno> {
    let length = bytes.min(PIECE as u64) as usize;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(length).map_err(|_| Errno::NO_MEMORY)?;
    buffer.resize(length, 0);
    Ok(buffer)
}

pub(super) async fn read(task: &Task, descriptor: u64, to: u64, bytes: u64, at: Option<u64>) -> Answer {
    let (file, at) = (file(task, descriptor)?, offset(at)?);
    let mut piece = buffer(bytes)?;
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(PIECE as u64) as usize;
        let read = file.read(at.map(|at| at + done), &mut piece[..length]);
        // What another program has to write is waited for until a signal comes.
        let read = if file.is_pipe() { task.thread.wait(read).await? } else { read.await };
        let count = read?;
        if let Err(error) = task.memory().write(to.wrapping_add(done), &piece[..count]).await {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += count as u64;
        // A pipe's next piece might have to be waited for.
        if count < length || file.is_pipe() {
            break;
        }
    }
    Ok(done)
}

pub(super) async fn write(task: &Task, descriptor: u64, from: u64, bytes: u64, at: Option<u64>) -> Answer {
    let (file, at) = (file(task, descriptor)?, offset(at)?);
    let mut buffer = buffer(bytes)?;
    let mut done = 0;
    while done < bytes {
        let piece = &mut buffer[..(bytes - done).min(PIECE as u64) as usize];
        let written = match task.memory().read(from.wrapping_add(done), piece).await {
            Ok(()) if file.is_pipe() => {
                let write = file.write(at.map(|at| at + done), piece);
                task.thread.wait(write).await.unwrap_or_else(|interrupted| Err(interrupted.into()))
            }
            Ok(()) => file.write(at.map(|at| at + done), piece).await,
            Err(error) => Err(error),
        };
        if written == Err(Errno::PIPE) {
            task.thread.send(Signal::PIPE);
        }
        if let Err(error) = written {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += piece.len() as u64;
    }
    Ok(done)
}

pub(super) async fn write_pieces(task: &Task, descriptor: u64, pieces: u64, count: u64) -> Answer {
    file(task, descriptor)?;
    if count > MOST_PIECES {
        return Err(Errno::INVALID);
    }
    let mut done = 0;
    for number in 0..count {
        let [start, bytes] = task.memory().read_words(pieces.wrapping_add(16 * number)).await?;
        match write(task, descriptor, start, bytes, None).await {
            Ok(written) => done += written,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

pub(super) async fn read_pieces(task: &Task, descriptor: u64, pieces: u64, count: u64) -> Answer {
    file(task, descriptor)?;
    if count > MOST_PIECES {
        return Err(Errno::INVALID);
    }
    let mut done = 0;
    for number in 0..count {
        let [start, bytes] = task.memory().read_words(pieces.wrapping_add(16 * number)).await?;
        match read(task, descriptor, start, bytes, None).await {
            Ok(count) => {
                done += count;
                if count < bytes {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

pub(super) fn close(task: &Task, descriptor: u64) -> Answer {
    let descriptor = u32::try_from(descriptor as i32).map_err(|_| Errno::BAD_FILE)?;
    let closed = task.thread.process.files.lock().close(descriptor)?;
    // Not under the lock.
    drop(closed);
    Ok(0)
}

/// What `stat` says of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    pub kind: FileKind,
    /// Its bytes; 0 for what has no such number.
    pub size: u64,
    /// What lists of mappings call it; 0 for what cannot be mapped, or is not open.
    pub number: u64,
}

impl Status {
    pub(super) fn of(kind: FileKind) -> Status {
        Status { kind, size: 0, number: 0 }
    }

    pub(super) fn of_object(object: &MemoryObject<Kernel>) -> Status {
        Status { kind: FileKind::Regular, size: object.size(), number: object.id().get() }
    }
}

/// `fstat`.
pub(super) async fn status(task: &Task, descriptor: u64, to: u64) -> Answer {
    let file = file(task, descriptor)?;
    let status = match &file.content {
        Content::Disk(object) => Status::of_object(object),
        Content::Memory(file) => Status::of_object(file.object()),
        Content::Text(text) => Status { size: text.len() as u64, ..Status::of(FileKind::Regular) },
        Content::Folder => Status::of(FileKind::Folder),
        Content::PipeReader(_) | Content::PipeWriter(_) => Status::of(FileKind::Pipe),
        Content::Console(_) | Content::Null => Status::of(FileKind::CharacterDevice),
    };
    write_status(task, status, to).await
}

/// Writes of a `stat`'s 18 words those that say something.
pub(super) async fn write_status(task: &Task, status: Status, to: u64) -> Answer {
    let Status { kind, size, number } = status;
    let mut words = [0; 18];
    words[1] = number;
    words[2] = 1;
    words[3] = kind as u64;
    words[6] = size;
    words[7] = PIECE as u64;
    words[8] = size.div_ceil(512);
    task.memory().write_words(to, words).await?;
    Ok(0)
}

pub(super) fn seek(task: &Task, descriptor: u64, by: u64, whence: u64) -> Answer {
    let file = file(task, descriptor)?;
    let whence = match whence as u32 {
        SEEK_SET => Whence::Start,
        SEEK_CUR => Whence::Current,
        SEEK_END => Whence::End,
        _ => return Err(Errno::INVALID),
    };
    file.seek(by as i64, whence)
}

/// `ioctl`. No file here is a terminal; all that can be set is whether a program waits for another.
pub(super) async fn control(task: &Task, descriptor: u64, request: u64, argument: u64) -> Answer {
    let file = file(task, descriptor)?;
    if request as u32 != FIONBIO {
        return Err(Errno::NO_TERMINAL);
    }
    let mut value = [0; 4];
    task.memory().read(argument, &mut value).await?;
    file.set_blocking(if value == [0; 4] { Blocking::Wait } else { Blocking::Fail });
    Ok(0)
}

pub(super) fn duplicate(task: &Task, descriptor: u64) -> Answer {
    let file = file(task, descriptor)?;
    task.thread.process.files.lock().add(file, LEAST_FREE, OnExec::Keep).map(u64::from)
}

/// Gives a file another descriptor, too.
fn give(task: &Task, descriptor: u64, to: u64, on_exec: OnExec) -> Answer {
    let file = file(task, descriptor)?;
    let number = u32::try_from(to as i32).map_err(|_| Errno::BAD_FILE)?;
    let former = task.thread.process.files.lock().set(number, file, on_exec)?;
    // Not under the lock.
    drop(former);
    Ok(u64::from(number))
}

/// `dup2`.
pub(super) fn duplicate_to(task: &Task, descriptor: u64, to: u64) -> Answer {
    if descriptor as u32 == to as u32 {
        return file(task, descriptor).map(|_| u64::from(to as u32));
    }
    give(task, descriptor, to, OnExec::Keep)
}

/// `dup3`.
pub(super) fn duplicate_elsewhere(task: &Task, descriptor: u64, to: u64, flags: u64) -> Answer {
    let on_exec = match flags as u32 {
        0 => OnExec::Keep,
        O_CLOEXEC => OnExec::Close,
        _ => return Err(Errno::INVALID),
    };
    if descriptor as u32 == to as u32 { Err(Errno::INVALID) } else { give(task, descriptor, to, on_exec) }
}

/// `fcntl`.
pub(super) fn settings(task: &Task, descriptor: u64, command: u64, argument: u64) -> Answer {
    let file = file(task, descriptor)?;
    let files = &task.thread.process.files;
    match command as u32 {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let least = u32::try_from(argument as i32).map_err(|_| Errno::INVALID)?;
            let on_exec = if command as u32 == F_DUPFD { OnExec::Keep } else { OnExec::Close };
            files.lock().add(file, least, on_exec).map(u64::from)
        }
        F_GETFD => match files.lock().on_exec(descriptor as u32)? {
            OnExec::Keep => Ok(0),
            OnExec::Close => Ok(u64::from(FD_CLOEXEC)),
        },
        F_SETFD => {
            let closes = argument as u32 & FD_CLOEXEC != 0;
            let on_exec = if closes { OnExec::Close } else { OnExec::Keep };
            files.lock().set_on_exec(descriptor as u32, on_exec).map(|()| 0)
        }
        F_GETFL => {
            let mode = match file.mode {
                Mode::Read => O_RDONLY,
                Mode::Write => O_WRONLY,
                Mode::ReadWrite => O_RDWR,
            };
            Ok(u64::from(if file.blocking() == Blocking::Fail { mode | O_NONBLOCK } else { mode }))
        }
        F_SETFL => {
            let fails = argument as u32 & O_NONBLOCK != 0;
            file.set_blocking(if fails { Blocking::Fail } else { Blocking::Wait });
            Ok(0)
        }
        _ => Err(Errno::INVALID),
    }
}

pub(super) fn resize(task: &Task, descriptor: u64, size: u64) -> Answer {
    let file = file(task, descriptor)?;
    if i64::try_from(size).is_err() {
        return Err(Errno::INVALID);
    }
    match &file.content {
        Content::Memory(_) if !file.mode.writes() => Err(Errno::INVALID),
        Content::Memory(file) => file.resize(size).map(|()| 0),
        _ => Err(Errno::INVALID),
    }
}
