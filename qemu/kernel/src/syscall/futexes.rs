//! Futexes.

use core::time::Duration;

use linux_raw_sys::general::{
    FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET,
    FUTEX_WAKE, FUTEX_WAKE_BITSET,
};

use super::{Answer, Errno, time};
use crate::arch::clock;
use crate::arch::user::USER_END;
use crate::process::{FutexKey, Task, requeue, wake};

const ALL_BITS: u32 = u32::MAX;

/// What the word at `address` is known by. The caller may have said that no other process has it.
fn key(task: &Task, address: u64, operation: u32) -> Result<FutexKey, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVALID);
    }
    if address >= USER_END {
        return Err(Errno::FAULT);
    }
    Ok(match operation & FUTEX_PRIVATE_FLAG {
        0 => FutexKey::of(task.memory(), address),
        _ => FutexKey::Own { space: task.memory().key(), address },
    })
}

pub(super) async fn futex(task: &Task, [address, operation, value, d, other, value3]: [u64; 6]) -> Answer {
    let operation = operation as u32;
    let command = operation & FUTEX_CMD_MASK as u32;
    let (value, bits) = (value as u32, value3 as u32);
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bits = if command == FUTEX_WAIT { ALL_BITS } else { bits };
            if bits == 0 {
                return Err(Errno::INVALID);
            }
            let key = key(task, address, operation)?;
            let limit = limit(task, command, d).await?;
            task.wait_for_futex(key, address, value, bits, limit).await?;
            Ok(0)
        }
        FUTEX_WAKE | FUTEX_WAKE_BITSET => {
            let bits = if command == FUTEX_WAKE { ALL_BITS } else { bits };
            if bits == 0 {
                return Err(Errno::INVALID);
            }
            let key = key(task, address, operation)?;
            Ok(wake(key, value as usize, bits) as u64)
        }
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            let (from, to) = (key(task, address, operation)?, key(task, other, operation)?);
            if command == FUTEX_CMP_REQUEUE && task.memory().load(address).await? != bits {
                return Err(Errno::AGAIN);
            }
            let (woken, moved) = requeue(from, to, value as usize, d as u32 as usize);
            Ok((if command == FUTEX_REQUEUE { woken } else { woken + moved }) as u64)
        }
        _ => Err(Errno::NO_SYSTEM_CALL),
    }
}

/// How long to wait: `FUTEX_WAIT` is told for how long, the other until when. Both clocks begin at boot.
async fn limit(task: &Task, command: u32, at: u64) -> Result<Option<Duration>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let time = time::read(task, at).await?;
    Ok(Some(if command == FUTEX_WAIT { time } else { time.saturating_sub(clock::since_boot()) }))
}
