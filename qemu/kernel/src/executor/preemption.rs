//! Sharing a CPU with user threads, which do not stop by themselves.

use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use super::{queue, sleep};
use x86_64::instructions::interrupts;

use crate::arch::clock::{self, Ticks};
use crate::arch::interrupt::apic;
use crate::arch::user;
use crate::per_cpu;

/// How long a user thread runs if others of its CPU are runnable.
const SLICE_MS: u64 = 10;

/// Is another task of the executing CPU runnable?
fn others_are_runnable() -> bool {
    !queue::of(per_cpu::current().cpu).is_empty()
}

/// The time that a thread has had since it last let others run.
#[derive(Debug)]
pub(crate) struct Slice {
    start: Ticks,
    timed: Timed,
}

/// What the timer has been set for in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timed {
    Nothing,
    /// For those that sleep.
    Sleepers,
    /// For those that are runnable, too.
    Others,
}

impl Slice {
    /// A slice that begins now.
    pub(crate) fn begin() -> Slice {
        Slice { start: clock::now(), timed: Timed::Nothing }
    }

    /// Others are runnable, and have waited long enough?
    pub(crate) fn is_over(&self) -> bool {
        // In ticks: a thread asks after each system call, and a duration takes divisions.
        others_are_runnable()
            && clock::now().0.saturating_sub(self.start.0) >= SLICE_MS * clock::ticks_per_ms()
    }

    /// Runs the thread of `state` until it traps, unless `must_stop` says at the last moment that it must
    /// not run: another CPU that makes it say so, and then interrupts this one, is never missed. What becomes runnable on this CPU meanwhile interrupts
    /// it, and so does the end of the slice if something is runnable already.
    ///
    /// # Safety
    ///
    /// As for [`user::enter`], but for the interrupts, which it turns off and on.
    pub(crate) unsafe fn enter(
        &mut self,
        state: &mut user::UserState,
        must_stop: impl FnOnce() -> bool,
    ) -> user::Exit {
        let area = per_cpu::current();
        interrupts::disable();
        area.halted.store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake_cpu`: if a CPU queues something here after we have looked, it finds the
        // flag, and interrupts.
        fence(Ordering::SeqCst);
        let needed = if others_are_runnable() { Timed::Others } else { Timed::Sleepers };
        if self.timed != needed && self.timed != Timed::Others {
            self.timed = needed;
            let due = sleep::next_due().unwrap_or(Duration::MAX);
            apic::tick_within(if needed == Timed::Others {
                due.min(Duration::from_millis(SLICE_MS))
            } else {
                due
            });
        }
        let exit = if must_stop() {
            user::Exit::Interrupt
        } else {
            // SAFETY: the caller's promise; interrupts are off.
            unsafe { user::enter(state) }
        };
        area.halted.store(false, Ordering::Relaxed);
        interrupts::enable();
        exit
    }
}
