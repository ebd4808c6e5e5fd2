//! A thread's task: user mode, and what the program asks for.

extern crate alloc;

use alloc::boxed::Box;

use super::signal::delivery::Cause;
use super::start::fork::Loan;
use super::{AlternateStack, FutexKey, Shared, SignalSet, Thread, futex, table};
use crate::arch::user::{Exit, UserState};
use crate::executor::{Reserved, Slice, reserve, yield_now};
use crate::per_cpu;
use crate::syscall::{self, Begun, Errno, Flow};

/// What a thread has for itself.
#[derive(Debug)]
pub(crate) struct Task {
    /// The thread, as others see it.
    pub thread: Shared<Thread>,
    /// Its registers.
    pub state: Box<UserState>,
    /// Its stack for handlers.
    pub alternate_stack: AlternateStack,
    /// The word that is cleared when it ends; 0 for none.
    pub cleared_at_end: u64,
    /// The signals that it puts off, while it waits for one with others put off.
    pub saved_mask: Option<SignalSet>,
    /// The number of the system call that a signal has just interrupted, if it may be made again.
    pub interrupted_call: Option<u32>,
    /// The memory of the parent that the thread runs in; the parent waits until this goes.
    pub loan: Option<Loan>,
}

impl Task {
    /// `thread`, which begins with the registers of `state`.
    pub(crate) fn new(thread: Shared<Thread>, state: Box<UserState>) -> Task {
        Task {
            thread,
            state,
            alternate_stack: AlternateStack::NONE,
            cleared_at_end: 0,
            saved_mask: None,
            interrupted_call: None,
            loan: None,
        }
    }

    /// Runs it until it ends, or goes on on another CPU.
    async fn go(&mut self) -> Flow {
        let mut slice = Slice::begin();
        loop {
            while let Some(signal) = self.thread.take_signal() {
                self.deliver(Cause::sent(signal)).await;
            }
            self.interrupted_call = None;
            if let Some(mask) = self.saved_mask.take() {
                // The signal that it waited for had no handler.
                self.thread.set_blocked(mask);
            }
            if self.thread.must_end() {
                return Flow::End(0);
            }
            self.thread.memory.activate();
            let thread = &self.thread;
            // SAFETY: the process's space is active; the registers are boxed, and unloaded before they move to
            // another CPU or go.
            let exit = unsafe { slice.enter(&mut self.state, || thread.is_interrupted()) };
            match exit {
                Exit::SystemCall => {
                    let answer = match syscall::begin(&self.thread, &self.state.frame) {
                        Begun::Done(answer) => Some(answer),
                        Begun::Unmapping(unmapping) => {
                            unmapping.await;
                            Some(0)
                        }
                        Begun::Waits => None,
                    };
                    if let Some(answer) = answer {
                        self.state.frame.rax = answer;
                    } else if let flow @ (Flow::End(_) | Flow::Move(_)) = syscall::call(self).await {
                        return flow;
                    }
                }
                Exit::Exception { vector, error, address } => {
                    if !self.resolves_at_once(vector, error, address) {
                        self.on_exception(vector, error, address).await;
                    }
                }
                Exit::Interrupt => {
                    yield_now().await;
                    slice = Slice::begin();
                }
            }
            if slice.is_over() {
                yield_now().await;
                slice = Slice::begin();
            }
        }
    }

    /// Ends the thread.
    async fn end(mut self, code: u8) {
        self.state.unload();
        let process = &self.thread.process;
        let memory = &self.thread.memory;
        if self.cleared_at_end != 0 && !self.thread.must_end() && process.thread_count() > 1 {
            // A thread that has unmapped the word has nobody wait for it.
            if memory.write(self.cleared_at_end, &[0; 4]).await.is_ok() {
                futex::wake(FutexKey::of(memory, self.cleared_at_end), 1, u32::MAX);
            }
        }
        if self.thread.must_end() || process.thread_count() == 1 {
            // Before the last thread gives it back.
            memory.leave();
        }
        let last = process.remove(&self.thread, code);
        let Task { thread, loan, .. } = self;
        drop(loan);
        if let Some(ending) = last {
            table::end(thread, ending).await;
        }
    }

    /// Goes on on the CPU of `place`.
    fn move_to(mut self, place: Reserved) {
        self.state.unload();
        place.spawn(move || run(self)).detach();
    }
}

/// Runs a thread on the executing CPU until it ends, or goes on on another.
pub(crate) async fn run(mut task: Task) {
    task.thread.arrive();
    loop {
        match task.go().await {
            Flow::Continue => {}
            Flow::End(code) => return task.end(code).await,
            Flow::Move(cpu) if cpu == per_cpu::current().cpu => {}
            Flow::Move(cpu) => match reserve(cpu) {
                Ok(place) => return task.move_to(place),
                Err(_) => task.state.frame.rax = Errno::NO_MEMORY.value(),
            },
        }
    }
}
