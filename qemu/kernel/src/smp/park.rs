//! A CPU that is offline waits in here.

use core::time::Duration;

use x86_64::instructions::interrupts;

use crate::arch::clock;
use crate::arch::interrupt::apic;

/// Halts the executing CPU, which is offline in the memory service, for about `time`. It takes
/// interrupts, whose handlers touch nothing whose mapping changes, but runs no task.
///
/// It stays on the kernel's page tables, though handlers may send a hardware's page walker ahead
/// there: TCG's never walks ahead, and its CR3 writes would flush what `--break online` leaves.
pub(crate) fn park(time: Duration) {
    let start = clock::now();
    while let Some(left) = time.checked_sub(clock::elapsed(start)).filter(|left| !left.is_zero()) {
        interrupts::disable();
        apic::tick_within(left);
        // One instruction's shadow: no interrupt fits between `sti` and `hlt`.
        interrupts::enable_and_hlt();
    }
}
