//! The system as programs see it.

use linux_raw_sys::general::{RLIM64_INFINITY, RLIMIT_STACK};

use super::{Answer, Errno};
use crate::arch::{clock, random as numbers};
use crate::memory::service::SERVICE;
use crate::process::{STACK, Task};

/// Bytes of each text of a `utsname`.
const NAME_BYTES: usize = 65;
/// System, host, release, version, machine, domain. The release is the Linux whose system calls these are.
const NAMES: [&str; 6] = ["Linux", "topomem", "6.12.0", "topomem reference kernel", "x86_64", ""];
/// Words of a `sysinfo`.
const INFORMATION_WORDS: usize = 14;

pub(super) async fn name(task: &Task, to: u64) -> Answer {
    let mut texts = [[0; NAME_BYTES]; NAMES.len()];
    for (text, name) in texts.iter_mut().zip(NAMES) {
        text[..name.len()].copy_from_slice(name.as_bytes());
    }
    task.memory().write(to, texts.as_flattened()).await?;
    Ok(0)
}

pub(super) async fn information(task: &Task, to: u64) -> Answer {
    let mut words = [0; INFORMATION_WORDS];
    let (mut total, mut free) = (0, 0);
    for node in SERVICE.topology().into_iter().flat_map(topomem::Topology::nodes) {
        if let Some(stats) = SERVICE.frames().stats(node) {
            total += stats.managed();
            free += stats.all_free();
        }
    }
    words[0] = clock::since_boot().as_secs();
    (words[4], words[5]) = (total * 4096, free * 4096);
    // The unit of the above, in the upper half of a word.
    words[13] = 1;
    task.memory().write_words(to, words).await?;
    Ok(0)
}

/// There are no limits but that of stacks, which a program may set for itself and its children.
pub(super) async fn limit(task: &Task, process: u64, which: u64, new: u64, old: u64) -> Answer {
    if process != 0 && process as u32 != task.thread.process.id.0 {
        return Err(Errno::NO_PROCESS);
    }
    if which > 15 {
        return Err(Errno::INVALID);
    }
    let is_stack = which as u32 == RLIMIT_STACK;
    let unlimited = RLIM64_INFINITY as u64;
    let [before, most] =
        if is_stack { [task.memory().space().stack_limit(), STACK] } else { [unlimited, unlimited] };
    if new != 0 {
        let [limit, highest] = task.memory().read_words(new).await?;
        if limit > highest {
            return Err(Errno::INVALID);
        }
        if !is_stack || highest != most {
            return Err(Errno::NOT_PERMITTED);
        }
        task.memory().space().set_stack_limit(limit);
    }
    if old != 0 {
        task.memory().write_words(old, [before, most]).await?;
    }
    Ok(0)
}

pub(super) async fn random(task: &Task, to: u64, bytes: u64) -> Answer {
    let mut done = 0;
    while done < bytes {
        let number = numbers::random().to_le_bytes();
        let count = (bytes - done).min(8) as usize;
        task.memory().write(to.wrapping_add(done), &number[..count]).await?;
        done += count as u64;
    }
    Ok(done)
}
