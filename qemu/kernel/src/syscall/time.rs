//! Time. There is no clock that knows the date, so all clocks begin at boot.

use core::time::Duration;

use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME,
    CLOCK_REALTIME_COARSE, TIMER_ABSTIME,
};

use super::{Answer, Errno};
use crate::arch::clock;
use crate::executor;
use crate::process::{Interrupted, Task};

const NANOSECONDS: u64 = 1_000_000_000;

/// Reads a `timespec`.
///
/// # Errors
///
/// [`Errno::FAULT`], [`Errno::INVALID`] for what is no time.
pub(super) async fn read(task: &Task, at: u64) -> Result<Duration, Errno> {
    let [seconds, nanoseconds] = task.memory().read_words(at).await?;
    if i64::try_from(seconds).is_err() || nanoseconds >= NANOSECONDS {
        return Err(Errno::INVALID);
    }
    Ok(Duration::new(seconds, nanoseconds as u32))
}

async fn write(task: &Task, at: u64, time: Duration) -> Result<(), Errno> {
    task.memory().write_words(at, [time.as_secs(), u64::from(time.subsec_nanos())]).await
}

fn check(clock: u64) -> Result<(), Errno> {
    match clock as u32 {
        CLOCK_REALTIME
        | CLOCK_MONOTONIC
        | CLOCK_MONOTONIC_RAW
        | CLOCK_REALTIME_COARSE
        | CLOCK_MONOTONIC_COARSE
        | CLOCK_BOOTTIME => Ok(()),
        _ => Err(Errno::INVALID),
    }
}

pub(super) async fn now(task: &Task, which: u64, to: u64) -> Answer {
    check(which)?;
    write(task, to, clock::since_boot()).await?;
    Ok(0)
}

/// Sleeps; writes what is left to `left` if a signal ends it.
async fn sleep_for(task: &Task, time: Duration, left: u64) -> Answer {
    let start = clock::now();
    match task.thread.wait(executor::sleep(time)).await {
        Ok(()) => Ok(0),
        Err(Interrupted) => {
            if left != 0 {
                write(task, left, time.saturating_sub(clock::elapsed(start))).await?;
            }
            Err(Errno::INTERRUPTED)
        }
    }
}

pub(super) async fn sleep(task: &Task, time: u64, left: u64) -> Answer {
    let time = read(task, time).await?;
    sleep_for(task, time, left).await
}

pub(super) async fn sleep_by_clock(task: &Task, [which, flags, time, left]: [u64; 4]) -> Answer {
    check(which)?;
    let time = read(task, time).await?;
    if flags as u32 & TIMER_ABSTIME != 0 {
        sleep_for(task, time.saturating_sub(clock::since_boot()), 0).await
    } else {
        sleep_for(task, time, left).await
    }
}
