//! Time stamps.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// Steps of the time-stamp counter: instructions or time, as the emulator was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    pub(crate) fn count(self) -> u64 {
        self.0
    }
}

/// Measures how long something takes, less what the measuring itself takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    overhead: u64,
}

impl Stopwatch {
    /// Finds out what two readings cost.
    pub(crate) fn new() -> Self {
        let between = || {
            let start = read();
            read().wrapping_sub(start)
        };
        Self { overhead: (0..64).map(|_| between()).min().unwrap_or(0) }
    }

    /// What `work` returned, and how long it took.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> T) -> (T, Ticks) {
        let start = read();
        let result = work();
        let ticks = read().wrapping_sub(start);
        (result, Ticks(ticks.saturating_sub(self.overhead)))
    }
}

/// Ticks in a microsecond, by the kernel's clock.
pub(crate) fn ticks_per_microsecond() -> f64 {
    let (start, first) = (Instant::now(), read());
    while start.elapsed() < Duration::from_millis(200) {
        std::hint::spin_loop();
    }
    let last = read();
    last.wrapping_sub(first) as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// The time-stamp counter, read neither before earlier instructions nor after later ones.
fn read() -> u64 {
    // SAFETY: every x86-64 CPU has both instructions, and Linux allows programs to read the counter.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_nothing_takes_little() {
        let stopwatch = Stopwatch::new();
        let (value, slept) = stopwatch.time(|| {
            std::thread::sleep(Duration::from_millis(2));
            7
        });
        let nothing = (0..100).map(|_| stopwatch.time(|| ()).1).min();
        assert_eq!(value, 7);
        assert!(nothing.is_some_and(|nothing| nothing.count() * 100 < slept.count()));
    }
}
