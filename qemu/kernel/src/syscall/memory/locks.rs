//! Locking memory. Nobody's limit of it is less than the machine's memory.

use linux_raw_sys::general::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT};

use crate::process::{Locking, Task};
use crate::syscall::{Answer, Errno};

/// `mlock` and `mlock2`.
pub(in crate::syscall) async fn lock(task: &Task, at: u64, bytes: u64, flags: u64) -> Answer {
    let locking = match flags as u32 {
        0 => Locking::Now,
        MLOCK_ONFAULT => Locking::OnUse,
        _ => return Err(Errno::INVALID),
    };
    task.memory().lock(at, bytes, locking).await?;
    Ok(0)
}

/// `munlock`.
pub(in crate::syscall) async fn unlock(task: &Task, at: u64, bytes: u64) -> Answer {
    task.memory().unlock(at, bytes).await?;
    Ok(0)
}

/// `mlockall`.
pub(in crate::syscall) async fn lock_all(task: &Task, flags: u64) -> Answer {
    let flags = flags as u32;
    let has = |flag: u32| flags & flag != 0;
    if flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 || !has(MCL_CURRENT | MCL_FUTURE) {
        return Err(Errno::INVALID);
    }
    let locking = if has(MCL_ONFAULT) { Locking::OnUse } else { Locking::Now };
    task.memory().set_future_locking(has(MCL_FUTURE).then_some(locking));
    if has(MCL_CURRENT) && locking == Locking::Now {
        task.memory().lock_all().await;
    }
    Ok(0)
}

/// `munlockall`.
pub(in crate::syscall) fn unlock_all(task: &Task) -> Answer {
    task.memory().set_future_locking(None);
    Ok(0)
}
