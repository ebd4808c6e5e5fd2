//! Files in memory that have a name: those in `/dev/shm`.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::mutex::SpinMutex;

use super::MemoryFile;
use crate::per_cpu::Polling;
use crate::process::{OutOfMemory, Shared};
use crate::syscall::Errno;

/// What the names of these files begin with.
const FOLDER: &[u8] = b"/dev/shm/";

/// A file and its path.
struct Named {
    path: Box<[u8]>,
    file: Shared<MemoryFile>,
}

static FILES: SpinMutex<Vec<Named>, Polling> = SpinMutex::new(Vec::new());

/// What opening does about a file that is not there, or is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creation {
    /// The file must be there.
    Never,
    /// The file is made if it is not there (`O_CREAT`).
    IfMissing,
    /// The file must not be there, and is made (`O_CREAT` and `O_EXCL`).
    Always,
}

/// Returns the file at `path`, which is made if `creation` says so. Returns `None` for a path outside of the
/// folder of such files.
///
/// # Errors
///
/// [`Errno::NO_ENTRY`], [`Errno::EXISTS`], [`Errno::NO_MEMORY`].
pub(crate) fn open_named(path: &[u8], creation: Creation) -> Result<Option<Shared<MemoryFile>>, Errno> {
    if path.strip_prefix(FOLDER).is_none_or(|name| name.is_empty() || name.contains(&b'/')) {
        return Ok(None);
    }
    let mut files = FILES.lock();
    let found = files.iter().find(|named| *named.path == *path).map(|named| named.file.clone());
    match (found, creation) {
        (Some(_), Creation::Always) => return Err(Errno::EXISTS),
        (Some(file), _) => return Ok(Some(file)),
        (None, Creation::Never) => return Err(Errno::NO_ENTRY),
        (None, _) => {}
    }
    let mut name = Vec::new();
    name.try_reserve_exact(path.len()).map_err(|_| OutOfMemory)?;
    name.extend_from_slice(path);
    files.try_reserve(1).map_err(|_| OutOfMemory)?;
    let file = Shared::new(MemoryFile::new()?)?;
    files.push(Named { path: name.into_boxed_slice(), file: file.clone() });
    Ok(Some(file))
}

/// Takes the name at `path` away. The file goes with its last user.
///
/// # Errors
///
/// [`Errno::NO_ENTRY`].
pub(crate) fn remove_named(path: &[u8]) -> Result<(), Errno> {
    let mut files = FILES.lock();
    let at = files.iter().position(|named| *named.path == *path).ok_or(Errno::NO_ENTRY)?;
    let removed = files.swap_remove(at);
    if files.is_empty() {
        // Its memory, too.
        *files = Vec::new();
    }
    drop(files);
    // Not under the lock: it may be the last user.
    drop(removed);
    Ok(())
}
