//! Threads that play CPUs, started together.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Runs `body(cpu)` on `cpus` threads that start together; the longest time of any of them.
///
/// `prepare` runs on each thread before the start and its result is handed to `body`.
pub fn timed<T>(
    cpus: usize,
    prepare: impl Fn(usize) -> T + Sync,
    body: impl Fn(usize, &mut T) + Sync,
    finish: impl Fn(usize, T) + Sync,
) -> Duration {
    let barrier = Barrier::new(cpus);
    let (prepare, body, finish, barrier) = (&prepare, &body, &finish, &barrier);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus)
            .map(|cpu| {
                scope.spawn(move || {
                    let mut state = prepare(cpu);
                    barrier.wait();
                    let start = Instant::now();
                    body(cpu, &mut state);
                    let elapsed = start.elapsed();
                    barrier.wait();
                    finish(cpu, state);
                    elapsed
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    })
}
