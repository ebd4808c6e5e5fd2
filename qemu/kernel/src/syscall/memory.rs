//! Memory.

use linux_raw_sys::general::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, MAP_TYPE, PROT_EXEC, PROT_READ,
    PROT_WRITE,
};
use topomem::Access;

use super::{Answer, Errno};
use crate::process::{Permission, Place, Task};

/// What the `PROT_…` in `bits` permit.
fn permission(bits: u64) -> Result<Permission, Errno> {
    let bits = u32::try_from(bits).map_err(|_| Errno::INVALID)?;
    if bits & !(PROT_READ | PROT_WRITE | PROT_EXEC) != 0 {
        return Err(Errno::INVALID);
    }
    match (bits & PROT_WRITE != 0, bits & PROT_EXEC != 0) {
        (true, true) => Err(Errno::ACCESS),
        (true, false) => Ok(Some(Access::WRITE)),
        (false, true) => Ok(Some(Access::EXECUTE)),
        (false, false) if bits == 0 => Ok(None),
        (false, false) => Ok(Some(Access::READ)),
    }
}

pub(super) async fn map(task: &Task, [at, bytes, access, flags, _, _]: [u64; 6]) -> Answer {
    let permission = permission(access)?;
    let flags = flags as u32;
    if !matches!(flags & MAP_TYPE, MAP_PRIVATE | MAP_SHARED) {
        return Err(Errno::INVALID);
    }
    if flags & MAP_ANONYMOUS == 0 {
        return Err(Errno::NO_DEVICE);
    }
    let place = if flags & MAP_FIXED_NOREPLACE != 0 {
        Place::OnlyFree(at)
    } else if flags & MAP_FIXED != 0 {
        Place::Exactly(at)
    } else {
        Place::Near(at)
    };
    task.memory().map(place, bytes, permission).await
}

pub(super) async fn protect(task: &Task, at: u64, bytes: u64, access: u64) -> Answer {
    task.memory().protect(at, bytes, permission(access)?).await?;
    Ok(0)
}

pub(super) async fn unmap(task: &Task, at: u64, bytes: u64) -> Answer {
    task.memory().unmap(at, bytes).await?;
    Ok(0)
}
