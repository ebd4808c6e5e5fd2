//! What is in memory, and what is written back.

use linux_raw_sys::general::{MS_ASYNC, MS_INVALIDATE, MS_SYNC};
use topomem::object::Residency;
use topomem_exec::PAGE;

use crate::arch::user::USER_END;
use crate::file::Content;
use crate::process::{Task, WriteBack};
use crate::syscall::files::file;
use crate::syscall::{Answer, Errno};

/// `POSIX_FADV_NORMAL` to `POSIX_FADV_NOREUSE`, of which one says that pages are not needed.
const LAST_ADVICE: u64 = 5;
const DONT_NEED: u64 = 4;
/// Pages that are looked at at once.
const PIECE: usize = 256;

/// `msync`.
pub(in crate::syscall) async fn sync_memory(task: &Task, at: u64, bytes: u64, flags: u64) -> Answer {
    let flags = flags as u32;
    let both = MS_ASYNC | MS_SYNC;
    if flags & !(both | MS_INVALIDATE) != 0 || flags & both == both {
        return Err(Errno::INVALID);
    }
    let write_back = if flags & MS_SYNC != 0 { WriteBack::Awaited } else { WriteBack::Later };
    task.memory().sync(at, bytes, write_back).await?;
    Ok(0)
}

/// `fsync` and `fdatasync`.
pub(in crate::syscall) async fn sync_file(task: &Task, descriptor: u64) -> Answer {
    let file = file(task, descriptor)?;
    let object = file.object().ok_or(Errno::INVALID)?;
    object.sync(0..object.size()).await?;
    Ok(0)
}

/// `fadvise64`: pages of a disk's file that are not needed go.
pub(in crate::syscall) fn advise_file(
    task: &Task,
    descriptor: u64,
    offset: u64,
    bytes: u64,
    advice: u64,
) -> Answer {
    let file = file(task, descriptor)?;
    if advice > LAST_ADVICE {
        return Err(Errno::INVALID);
    }
    if let (Content::Disk(object), DONT_NEED) = (&file.content, advice) {
        // A length of 0 reaches to the end.
        let end = if bytes == 0 { u64::MAX } else { offset.saturating_add(bytes) };
        object.evict(&crate::memory::platform::pin(), offset..end.min(object.size()).max(offset));
    }
    Ok(0)
}

/// `mincore`.
pub(in crate::syscall) async fn in_core(task: &Task, at: u64, bytes: u64, to: u64) -> Answer {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::INVALID);
    }
    let end = at.checked_add(bytes).filter(|&end| end <= USER_END).ok_or(Errno::NO_MEMORY)?;
    let count = (end - at).div_ceil(PAGE);
    let mut done = 0;
    while done < count {
        let asked = (count - done).min(PIECE as u64) as usize;
        let mut pages = [Residency::Absent; PIECE];
        let found = task.memory().resident(at + done * PAGE, &mut pages[..asked])?;
        let bytes = pages.map(|page| u8::from(page != Residency::Absent));
        if found > 0 {
            task.memory().write(to.wrapping_add(done), &bytes[..found]).await?;
        }
        if found < asked {
            return Err(Errno::NO_MEMORY);
        }
        done += found as u64;
    }
    Ok(0)
}
