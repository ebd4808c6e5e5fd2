//! What the time stamp counter counts.

use core::arch::asm;

use crate::arch::clock;

/// The unit of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Under `-icount` with a shift of 0: the TSC advances by one for each instruction.
    Instructions,
    /// Everywhere else.
    Microseconds,
}

/// Turns of a loop of two instructions.
const TURNS: u64 = 1000;
/// How far an exact count may be off: the instructions around the loop.
const AROUND: u64 = 16;

impl Unit {
    /// The unit here: a loop of known length tells.
    pub(super) fn of_this_machine() -> Unit {
        let exact = (0..3).all(|_| (2 * TURNS..2 * TURNS + AROUND).contains(&counted_loop()));
        if exact { Unit::Instructions } else { Unit::Microseconds }
    }

    /// Its name in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Microseconds => "us",
        }
    }

    /// `ticks` in this unit.
    pub(super) fn of_ticks(self, ticks: u64) -> f64 {
        match self {
            Unit::Instructions => ticks as f64,
            Unit::Microseconds => ticks as f64 * 1000.0 / clock::ticks_per_ms() as f64,
        }
    }
}

/// The ticks that the loop takes.
fn counted_loop() -> u64 {
    let start = clock::now();
    // SAFETY: it changes nothing but the register that it names, and the flags.
    unsafe {
        asm!("2:", "dec {turns}", "jnz 2b", turns = inout(reg) TURNS => _, options(nomem, nostack));
    }
    clock::now().0 - start.0
}
