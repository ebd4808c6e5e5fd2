//! Programs on every CPU.

use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use topomem_programs::{PAGE, ensure};

use super::MOVING;

/// A thread runs on each CPU in turn, with its memory, its registers and its locks.
pub(super) fn every_cpu() -> Result<(), u8> {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let shared = std::sync::Arc::new(std::sync::Mutex::new(0_u64));
    let threads: Vec<_> = (0..4_usize)
        .map(|number| {
            let shared = std::sync::Arc::clone(&shared);
            thread::spawn(move || {
                for round in 0..count + 4 {
                    let cpu = (number + round) % count;
                    // SAFETY: all zeros are a valid set.
                    let set = unsafe {
                        let mut set: libc::cpu_set_t = std::mem::zeroed();
                        libc::CPU_SET(cpu, &mut set);
                        libc::sched_setaffinity(0, size_of_val(&set), &set)
                    };
                    // SAFETY: it has no requirements.
                    if set != 0 || unsafe { libc::sched_getcpu() } != cpu as c_int {
                        return false;
                    }
                    *shared.lock().unwrap_or_else(|error| error.into_inner()) += 1;
                    let fresh = vec![round as u8; 3 * PAGE];
                    if fresh.iter().any(|&byte| byte != round as u8) {
                        return false;
                    }
                }
                true
            })
        })
        .collect();
    let right = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|&right| right).count();
    ensure(right == 4, 1)?;
    let total = *shared.lock().unwrap_or_else(|error| error.into_inner());
    ensure(total == 4 * (count as u64 + 4), 2)
}

/// Threads that never stop hold up neither their CPU's others nor the end of the process.
pub(super) fn endless() -> Result<(), u8> {
    for _ in 0..2 {
        thread::spawn(|| {
            while MOVING.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    thread::sleep(Duration::from_millis(30));
    Ok(())
}
