//! Deliberate crashes: the tests check that each is reported, with a backtrace.

use core::arch::asm;
use core::hint::black_box;

use super::machine::UNMAPPED;
use crate::arch::exit::Outcome;
use crate::arch::gdt::Segments;
use crate::per_cpu;

/// Panics two calls deep.
#[inline(never)]
pub(super) fn panic() -> Outcome {
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
pub(super) fn page_fault() -> Outcome {
    let nowhere: *const u64 = core::ptr::without_provenance(black_box(UNMAPPED as usize));
    // SAFETY: it is not; the fault handler ends the run, which the scenario is there to see.
    black_box(unsafe { nowhere.read_volatile() });
    Outcome::Failures
}

/// Faults on a stack that is gone, with no stack for the page fault that follows.
#[inline(never)]
pub(super) fn double_fault() -> Outcome {
    // SAFETY: it breaks the stack for good; the double fault has a stack of its own, and its
    // handler ends the run.
    unsafe {
        Segments::forget_page_fault_stack(per_cpu::current().segments.get());
        asm!("mov rsp, {nowhere}", "push rax", "ud2", nowhere = in(reg) UNMAPPED, options(noreturn));
    }
}
