//! Time from the TSC, calibrated against the PIT's channel 2, which needs no interrupt.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use x86_64::instructions::port::Port;

use crate::per_cpu;

/// A reading of the time stamp counter. QEMU keeps it monotonic across CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(pub u64);

/// The PIT's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long a calibration takes.
const CALIBRATION_MS: u64 = 10;
/// Turns after which a PIT that never fires is given up.
const PIT_TURNS: u32 = 50_000_000;
/// What a machine without a working PIT is assumed to have.
const ASSUMED_TICKS_PER_MS: u64 = 1_000_000;

/// Written once by [`calibrate`]; only its own value matters, so relaxed.
static TICKS_PER_MS: AtomicU64 = AtomicU64::new(ASSUMED_TICKS_PER_MS);
static BOOT_TICKS: AtomicU64 = AtomicU64::new(0);

/// Now.
pub(crate) fn now() -> Ticks {
    // SAFETY: every x86-64 CPU has the instruction, and CR4.TSD is clear.
    Ticks(unsafe { _rdtsc() })
}

/// How long ago `start` was.
pub(crate) fn elapsed(start: Ticks) -> Duration {
    let per_ms = TICKS_PER_MS.load(Ordering::Relaxed).max(1);
    let ticks = now().0.saturating_sub(start.0);
    let (ms, rest) = (ticks / per_ms, ticks % per_ms);
    Duration::from_millis(ms) + Duration::from_nanos(rest * 1_000_000 / per_ms)
}

/// How long ago the kernel was entered.
pub(crate) fn since_boot() -> Duration {
    elapsed(Ticks(BOOT_TICKS.load(Ordering::Relaxed)))
}

/// Ticks in a millisecond.
pub(crate) fn ticks_per_ms() -> u64 {
    TICKS_PER_MS.load(Ordering::Relaxed)
}

/// Waits, polling as every spin loop does.
pub(crate) fn delay(time: Duration) {
    let start = now();
    while elapsed(start) < time {
        per_cpu::relax();
    }
}

/// Notes the time of boot.
pub(crate) fn start() {
    BOOT_TICKS.store(now().0, Ordering::Relaxed);
}

/// Runs the PIT's channel 2 once, measures the TSC meanwhile, and returns what `counter` (which
/// counts down) lost per millisecond; `None` where the PIT does not fire.
pub(crate) fn calibrate(mut counter: impl FnMut() -> u32) -> Option<u32> {
    let count = PIT_HZ * CALIBRATION_MS / 1000;
    let mut gate = Port::<u8>::new(0x61);
    let mut mode = Port::<u8>::new(0x43);
    let mut channel = Port::<u8>::new(0x42);
    // SAFETY: channel 2 drives the speaker and nothing else; its gate is raised with the
    // speaker off, and mode 0 counts down once.
    unsafe {
        let idle = gate.read() & !0x03;
        gate.write(idle);
        mode.write(0b1011_0000);
        channel.write(count as u8);
        channel.write((count >> 8) as u8);
        gate.write(idle | 1);
    }
    let (start, counter_start) = (now(), counter());
    for _ in 0..PIT_TURNS {
        // SAFETY: reading the gate port has no side effect.
        if unsafe { gate.read() } & 0x20 != 0 {
            let (ticks, counted) = (now().0 - start.0, counter_start.wrapping_sub(counter()));
            TICKS_PER_MS.store((ticks / CALIBRATION_MS).max(1), Ordering::Relaxed);
            return Some(counted / CALIBRATION_MS as u32);
        }
    }
    None
}
