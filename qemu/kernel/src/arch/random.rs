//! Numbers that programs cannot foresee, as far as the machine has any.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;

use super::clock;

/// How often RDRAND may fail before the clock serves.
const TRIES: usize = 16;
/// An odd constant without a pattern (the golden ratio's), as SplitMix64 steps by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Steps taken. Relaxed: only that each caller gets another.
static STEPS: AtomicU64 = AtomicU64::new(0);

/// RDRAND (CPUID 1 ECX bit 30).
fn has_rdrand() -> bool {
    static HAS: Once<bool> = Once::new();
    *HAS.call_once(|| __cpuid(1).ecx >> 30 & 1 == 1)
}

/// A number: the hardware's if it has some, else one that only hides the clock.
pub(crate) fn random() -> u64 {
    let drawn = if has_rdrand() { (0..TRIES).find_map(|_| draw()) } else { None };
    drawn.unwrap_or_else(|| {
        let steps = STEPS.fetch_add(1, Ordering::Relaxed);
        mix(clock::now().0.wrapping_add(steps.wrapping_mul(STEP)))
    })
}

fn draw() -> Option<u64> {
    let (number, done): (u64, u8);
    // SAFETY: the CPU has the instruction, which changes a register and flags.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) done, options(nomem, nostack)) };
    (done == 1).then_some(number)
}

/// SplitMix64's output function.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
