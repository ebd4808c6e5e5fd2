//! Files.

use linux_raw_sys::general::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, O_RDONLY, O_RDWR, O_WRONLY, POLLIN,
    POLLNVAL, POLLOUT, SEEK_CUR, SEEK_END, SEEK_SET,
};

use super::{Answer, Errno, time};
use crate::file::{Content, LEAST_FREE, Mode, OpenFile, Whence};
use crate::process::{Shared, Task};

/// Bytes that one system call moves at most, a piece at a time.
const PIECE: usize = 4096;
/// Pieces of memory that one system call may name.
const MOST_PIECES: u64 = 1024;
/// Descriptors that one `poll` may name.
const MOST_POLLED: u64 = 256;
/// `S_IFREG` and `S_IFCHR`, with permissions.
const REGULAR: u64 = 0o100_644;
const CHARACTER_DEVICE: u64 = 0o020_620;

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

pub(super) async fn read(task: &Task, descriptor: u64, to: u64, bytes: u64, at: Option<u64>) -> Answer {
    let (file, at) = (file(task, descriptor)?, offset(at)?);
    let mut done = 0;
    while done < bytes {
        let mut piece = [0; PIECE];
        let length = (bytes - done).min(PIECE as u64) as usize;
        let count = file.read(at.map(|at| at + done), &mut piece[..length]).await?;
        if let Err(error) = task.memory().write(to.wrapping_add(done), &piece[..count]).await {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += count as u64;
        if count < length {
            break;
        }
    }
    Ok(done)
}

pub(super) async fn write(task: &Task, descriptor: u64, from: u64, bytes: u64, at: Option<u64>) -> Answer {
    let (file, at) = (file(task, descriptor)?, offset(at)?);
    let mut done = 0;
    while done < bytes {
        let mut piece = [0; PIECE];
        let piece = &mut piece[..(bytes - done).min(PIECE as u64) as usize];
        let written = match task.memory().read(from.wrapping_add(done), piece).await {
            Ok(()) => file.write(at.map(|at| at + done), piece).await,
            Err(error) => Err(error),
        };
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
    task.thread.process.files.lock().close(descriptor).map(|()| 0)
}

/// `fstat`: of a `stat`'s 18 words those that say something.
pub(super) async fn status(task: &Task, descriptor: u64, to: u64) -> Answer {
    let file = file(task, descriptor)?;
    let size = file.size();
    let mut words = [0; 18];
    words[2] = 1;
    words[3] = if size.is_some() { REGULAR } else { CHARACTER_DEVICE };
    words[6] = size.unwrap_or(0);
    words[7] = PIECE as u64;
    words[8] = size.unwrap_or(0).div_ceil(512);
    task.memory().write_words(to, words).await?;
    Ok(0)
}

/// All files are ready at any time.
pub(super) async fn poll(task: &Task, polled: u64, count: u64, milliseconds: u64) -> Answer {
    if count > MOST_POLLED {
        return Err(Errno::INVALID);
    }
    let mut ready = 0;
    for number in 0..count {
        let at = polled.wrapping_add(8 * number);
        let [word] = task.memory().read_words(at).await?;
        let (descriptor, events) = (word as u32 as i32, (word >> 32) as u16);
        let found = match u32::try_from(descriptor) {
            Err(_) => 0,
            Ok(descriptor) => match task.thread.process.files.lock().get(descriptor) {
                Ok(_) => events & (POLLIN | POLLOUT) as u16,
                Err(_) => POLLNVAL as u16,
            },
        };
        ready += u64::from(found != 0);
        task.memory().write(at.wrapping_add(6), &found.to_le_bytes()).await?;
    }
    if ready == 0 && milliseconds as i32 != 0 {
        time::wait_milliseconds(task, milliseconds as i32).await?;
    }
    Ok(ready)
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

/// No file here is a terminal, or any other device with settings.
pub(super) fn control(task: &Task, descriptor: u64) -> Answer {
    file(task, descriptor)?;
    Err(Errno::NO_TERMINAL)
}

pub(super) fn duplicate(task: &Task, descriptor: u64) -> Answer {
    let file = file(task, descriptor)?;
    task.thread.process.files.lock().add(file, LEAST_FREE).map(u64::from)
}

pub(super) fn duplicate_to(task: &Task, descriptor: u64, to: u64) -> Answer {
    let file = file(task, descriptor)?;
    let number = u32::try_from(to as i32).map_err(|_| Errno::BAD_FILE)?;
    task.thread.process.files.lock().set(number, file)?;
    Ok(u64::from(number))
}

/// `fcntl`. There is no `execve`, so the only setting of a descriptor has no effect.
pub(super) fn settings(task: &Task, descriptor: u64, command: u64, argument: u64) -> Answer {
    let file = file(task, descriptor)?;
    match command as u32 {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let least = u32::try_from(argument as i32).map_err(|_| Errno::INVALID)?;
            task.thread.process.files.lock().add(file, least).map(u64::from)
        }
        F_GETFD | F_SETFD | F_SETFL => Ok(0),
        F_GETFL => Ok(u64::from(match file.mode {
            Mode::Read => O_RDONLY,
            Mode::Write => O_WRONLY,
            Mode::ReadWrite => O_RDWR,
        })),
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
        Content::Console(_) | Content::Disk(_) => Err(Errno::INVALID),
    }
}
