//! Deliberate crashes: the tests check that each is reported, with a backtrace.

use core::hint::black_box;

use crate::arch::exit::Outcome;

/// An address in the kernel's half that is never mapped.
const NOWHERE: usize = 0xffff_c000_dead_0000;

/// Panics two calls deep.
#[inline(never)]
pub fn panic() -> Outcome {
    let outcome = give_up("on request");
    black_box(());
    outcome
}

#[inline(never)]
#[allow(clippy::panic, reason = "the scenario is there to see a panic reported")]
fn give_up(why: &str) -> Outcome {
    panic!("panicking {why}")
}

/// Reads an address that is not mapped.
#[inline(never)]
pub fn page_fault() -> Outcome {
    let nowhere: *const u64 = core::ptr::without_provenance(black_box(NOWHERE));
    // SAFETY: it is not; the fault handler ends the run, which the scenario is there to see.
    black_box(unsafe { nowhere.read_volatile() });
    Outcome::Failures
}

/// Uses up the stack: the page fault at its guard page has a stack of its own, so the report
/// names it; a double fault comes from a fault whose handler's stack is gone too.
#[inline(never)]
pub fn double_fault() -> Outcome {
    // SAFETY: it breaks the stack for good; the double fault has one of its own, and its
    // handler ends the run. A breakpoint's frame goes to the current stack, which then faults,
    // and the page fault's stack is made unusable first.
    unsafe {
        crate::arch::gdt::Segments::forget_page_fault_stack(crate::per_cpu::current().segments.get());
        core::arch::asm!("mov rsp, {nowhere}", "push rax", "ud2", nowhere = in(reg) NOWHERE, options(noreturn));
    }
}
