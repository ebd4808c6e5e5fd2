//! Files by their paths.

use linux_raw_sys::general::{O_ACCMODE, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::{Answer, Errno};
use crate::file::{self, Content, Creation, LEAST_FREE, MemoryFile, Mode, OpenFile};
use crate::process::{Shared, Task};

fn add(task: &Task, content: Content, mode: Mode) -> Answer {
    let file = Shared::new(OpenFile::new(content, mode))?;
    task.thread.process.files.lock().add(file, LEAST_FREE).map(u64::from)
}

/// Opens a file of `/dev/shm`, or of the RAM disk, whose only folder is the root. So what a path begins at does
/// not matter.
pub(super) async fn open(task: &Task, path: u64, flags: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    let flags = flags as u32;
    let mode = match flags & O_ACCMODE {
        O_RDONLY => Mode::Read,
        O_WRONLY => Mode::Write,
        O_RDWR => Mode::ReadWrite,
        _ => return Err(Errno::INVALID),
    };
    let creation = match flags & (O_CREAT | O_EXCL) {
        O_CREAT => Creation::IfMissing,
        both if both == O_CREAT | O_EXCL => Creation::Always,
        _ => Creation::Never,
    };
    if let Some(file) = file::open_named(&path, creation)? {
        if flags & O_TRUNC != 0 && mode.writes() {
            file.resize(0)?;
        }
        return add(task, Content::Memory(file), mode);
    }
    let object = file::open_disk_file(&path)?;
    match creation {
        Creation::Always => Err(Errno::EXISTS),
        _ if mode.writes() => Err(Errno::READ_ONLY),
        _ => add(task, Content::Disk(object), mode),
    }
}

pub(super) async fn create_in_memory(task: &Task, name: u64) -> Answer {
    task.memory().read_text(name).await?;
    add(task, Content::Memory(Shared::new(MemoryFile::new()?)?), Mode::ReadWrite)
}

pub(super) async fn remove(task: &Task, path: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    if file::find(&path).is_some() {
        return Err(Errno::READ_ONLY);
    }
    file::remove_named(&path).map(|()| 0)
}

/// Nothing here is a link.
pub(super) async fn read_link(task: &Task, path: u64) -> Answer {
    let path = task.memory().read_text(path).await?;
    Err(if file::find(&path).is_some() { Errno::INVALID } else { Errno::NO_ENTRY })
}
