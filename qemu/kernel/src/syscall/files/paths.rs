//! Files by their paths.

use linux_raw_sys::general::{
    AT_EMPTY_PATH, MFD_CLOEXEC, O_ACCMODE, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
    W_OK,
};

use super::{FileKind, Status, file as open_file, status as file_status, write_status};
use crate::file::{self, Content, Creation, LEAST_FREE, MemoryFile, Mode, OnExec, OpenFile};
use crate::process::{Shared, Task};
use crate::syscall::{Answer, Errno};

fn add(task: &Task, content: Content, mode: Mode, on_exec: OnExec) -> Answer {
    let file = Shared::new(OpenFile::new(content, mode))?;
    task.thread.process.files.lock().add(file, LEAST_FREE, on_exec).map(u64::from)
}

/// The file that is empty, whatever is written to it.
const NULL: &[u8] = b"/dev/null";
/// What the paths of open files begin with, by their descriptors.
const OPEN_FILES: &[u8] = b"/proc/self/fd/";

/// Returns what `path` leads to for the calling program.
fn followed<'p>(task: &Task, path: &'p [u8]) -> &'p [u8] {
    if path == file::OWN_PROGRAM { task.memory().program() } else { path }
}

/// Tells whether `path` leads to the only folder.
fn is_folder(path: &[u8]) -> bool {
    matches!(path, b"/" | b"." | b"/.")
}

/// Returns what the open file leads to whose descriptor is `number`, a decimal number, to be opened once more.
fn opened_before(task: &Task, number: &[u8], mode: Mode) -> Result<Content, Errno> {
    let number = str::from_utf8(number).ok().and_then(|digits| digits.parse::<u32>().ok());
    let file = open_file(task, number.ok_or(Errno::NO_ENTRY)?.into()).map_err(|_| Errno::NO_ENTRY)?;
    match &file.content {
        Content::Memory(file) => Ok(Content::Memory(file.clone())),
        Content::Disk(_) if mode.writes() => Err(Errno::READ_ONLY),
        Content::Disk(object) => Ok(Content::Disk(object.clone())),
        _ => Err(Errno::NO_DEVICE),
    }
}

/// Opens a file of `/dev/shm`, of `/proc`, or of the RAM disk, whose only folder is the root. So what a path begins at does
/// not matter.
pub(in crate::syscall) async fn open(task: &Task, path: u64, flags: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    let flags = flags as u32;
    let mode = match flags & O_ACCMODE {
        O_RDONLY => Mode::Read,
        O_WRONLY => Mode::Write,
        O_RDWR => Mode::ReadWrite,
        _ => return Err(Errno::INVALID),
    };
    let on_exec = if flags & O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let creation = match flags & (O_CREAT | O_EXCL) {
        O_CREAT => Creation::IfMissing,
        both if both == O_CREAT | O_EXCL => Creation::Always,
        _ => Creation::Never,
    };
    if path == NULL {
        return add(task, Content::Null, mode, on_exec);
    }
    if is_folder(&path) {
        return if mode.writes() { Err(Errno::FOLDER) } else { add(task, Content::Folder, mode, on_exec) };
    }
    if let Some(number) = path.strip_prefix(OPEN_FILES) {
        return add(task, opened_before(task, number, mode)?, mode, on_exec);
    }
    if let Some(file) = file::open_named(&path, creation)? {
        if flags & O_TRUNC != 0 && mode.writes() {
            file.resize(0)?;
        }
        return add(task, Content::Memory(file), mode, on_exec);
    }
    if mode == Mode::Read
        && let Some(text) = file::content(task, &path)?
    {
        return add(task, Content::Text(text), mode, on_exec);
    }
    let object = file::open_disk_file(followed(task, &path))?;
    match creation {
        Creation::Always => Err(Errno::EXISTS),
        _ if mode.writes() => Err(Errno::READ_ONLY),
        _ => add(task, Content::Disk(object), mode, on_exec),
    }
}

pub(in crate::syscall) async fn create_in_memory(task: &Task, name: u64, flags: u64) -> Answer {
    task.memory().read_text(name).await?;
    let on_exec = if flags as u32 & MFD_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    add(task, Content::Memory(Shared::new(MemoryFile::new()?)?), Mode::ReadWrite, on_exec)
}

pub(in crate::syscall) async fn remove(task: &Task, path: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    if file::find(&path).is_some() {
        return Err(Errno::READ_ONLY);
    }
    file::remove_named(&path).map(|()| 0)
}

/// Nothing here is a link but the one that leads to the calling program.
pub(in crate::syscall) async fn read_link(task: &Task, path: u64, to: u64, bytes: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    if path == file::OWN_PROGRAM {
        let name = task.memory().program();
        let fit = name.len().min(usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(1));
        task.memory().write(to, b"/").await?;
        task.memory().write(to.wrapping_add(1), &name[..fit]).await?;
        return Ok(fit as u64 + 1);
    }
    Err(if file::find(&path).is_some() { Errno::INVALID } else { Errno::NO_ENTRY })
}

/// Returns what `stat` says of the file at `path`.
fn look(task: &Task, path: &[u8]) -> Result<Status, Errno> {
    if is_folder(path) {
        return Ok(Status::of(FileKind::Folder));
    }
    if path == NULL {
        return Ok(Status::of(FileKind::CharacterDevice));
    }
    if let Some(file) = file::open_named(path, Creation::Never)? {
        return Ok(Status::of_object(file.object()));
    }
    if file::content(task, path)?.is_some() {
        return Ok(Status::of(FileKind::Regular));
    }
    let found = file::find(followed(task, path)).ok_or(Errno::NO_ENTRY)?;
    Ok(Status { size: found.content.len() as u64, ..Status::of(FileKind::Regular) })
}

/// `stat` and `lstat`.
pub(in crate::syscall) async fn status(task: &Task, path: u64, to: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    let status = look(task, &path)?;
    write_status(task, status, to).await
}

/// `newfstatat`: of a path, or of an open file.
pub(in crate::syscall) async fn status_at(
    task: &Task,
    descriptor: u64,
    path: u64,
    to: u64,
    flags: u64,
) -> Answer {
    if flags as u32 & AT_EMPTY_PATH != 0 && task.memory().read_text(path).await?.is_empty() {
        return file_status(task, descriptor, to).await;
    }
    status(task, path, to).await
}

/// `access`: all files may be read and executed, and some written.
pub(in crate::syscall) async fn check(task: &Task, path: u64, wanted: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    look(task, &path)?;
    let is_disk_file = file::find(&path).is_some();
    if is_disk_file && wanted as u32 & W_OK != 0 { Err(Errno::READ_ONLY) } else { Ok(0) }
}

/// `getcwd`: there is one folder.
pub(in crate::syscall) async fn current_folder(task: &Task, to: u64, bytes: u64) -> Answer {
    let path = b"/\0";
    if bytes < path.len() as u64 {
        return Err(Errno::OUT_OF_RANGE);
    }
    task.memory().write(to, path).await?;
    Ok(path.len() as u64)
}
