//! A thread, as other tasks see it.

use core::pin::pin;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::{Poll, Waker};

use spin::mutex::SpinMutex;
use topomem::CpuId;

use super::{Memory, Process, Shared, Signal, SignalSet, TaskId};
use crate::arch::interrupt::vector;
use crate::per_cpu::{self, Polling};
use crate::smp::ipi;

/// A wait ended because the thread has something else to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// A thread.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Its number.
    pub id: TaskId,
    /// What it is part of.
    pub process: Shared<Process>,
    /// The memory that it runs in: its process's, which all threads of that have. A child may borrow it.
    pub memory: Shared<Memory>,
    /// The CPU that it runs on, by its index.
    cpu: AtomicU32,
    /// The signals that it puts off; written by itself alone.
    blocked: AtomicU64,
    /// The signals sent to it that it has not taken.
    pending: AtomicU64,
    /// Wakes its task from a wait.
    waker: SpinMutex<Option<Waker>, Polling>,
}

impl Thread {
    /// A thread of `process` in `memory`, to run on `cpu`.
    pub(crate) fn new(
        id: TaskId,
        process: Shared<Process>,
        memory: Shared<Memory>,
        cpu: CpuId,
        blocked: SignalSet,
    ) -> Thread {
        Thread {
            id,
            process,
            memory,
            cpu: AtomicU32::new(cpu.index() as u32),
            blocked: AtomicU64::new(blocked.0),
            pending: AtomicU64::new(0),
            waker: SpinMutex::new(None),
        }
    }

    /// Its task goes on on the executing CPU.
    pub(crate) fn arrive(&self) {
        // SeqCst pairs with `Process::end` and `send`, which change what the thread looks at, then read this.
        self.cpu.store(per_cpu::current().cpu.index() as u32, Ordering::SeqCst);
    }

    /// The signals that it puts off.
    pub(crate) fn blocked(&self) -> SignalSet {
        SignalSet(self.blocked.load(Ordering::SeqCst))
    }

    /// Puts off other signals. Called by the thread itself.
    pub(crate) fn set_blocked(&self, blocked: SignalSet) {
        self.blocked.store(blocked.without_unblockable().0, Ordering::SeqCst);
    }

    /// Sends it `signal`.
    pub(crate) fn send(&self, signal: Signal) {
        self.pending.fetch_or(SignalSet::of(signal).0, Ordering::SeqCst);
        self.interrupt();
    }

    /// Takes a signal that is sent to it and not put off.
    pub(crate) fn take_signal(&self) -> Option<Signal> {
        let signal = SignalSet(self.pending.load(Ordering::SeqCst) & !self.blocked().0).first()?;
        self.pending.fetch_and(!SignalSet::of(signal).0, Ordering::SeqCst);
        Some(signal)
    }

    /// The signals sent to it.
    pub(crate) fn pending(&self) -> SignalSet {
        SignalSet(self.pending.load(Ordering::SeqCst))
    }

    /// Takes over what was sent to `other`, which nobody sends anything any more.
    pub(crate) fn inherit_signals(&self, other: &Thread) {
        self.pending.fetch_or(other.pending.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Must it end?
    pub(crate) fn must_end(&self) -> bool {
        self.process.ends(self.id)
    }

    /// Must it stop waiting, or not enter user mode?
    pub(crate) fn is_interrupted(&self) -> bool {
        self.must_end() || self.pending.load(Ordering::SeqCst) & !self.blocked().0 != 0
    }

    /// Has it look whether it is interrupted.
    pub(crate) fn interrupt(&self) {
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
        let cpu = CpuId::new(self.cpu.load(Ordering::SeqCst) as usize);
        if let Some(cpu) = cpu.filter(|&cpu| cpu != per_cpu::current().cpu) {
            ipi::send_one(vector::RESCHEDULE, cpu);
        }
    }

    /// Awaits `future`, unless the thread is interrupted first. Called by the thread itself.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]; the future is dropped.
    pub(crate) async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Interrupted> {
        self.wait_until(future, Thread::is_interrupted).await
    }

    /// As [`Thread::wait`], but only if the thread must end it waits no longer.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]; the future is dropped.
    pub(crate) async fn wait_despite_signals<F: Future>(&self, future: F) -> Result<F::Output, Interrupted> {
        self.wait_until(future, Thread::must_end).await
    }

    async fn wait_until<F: Future>(
        &self,
        future: F,
        stops: impl Fn(&Thread) -> bool,
    ) -> Result<F::Output, Interrupted> {
        let mut future = pin!(future);
        core::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            *self.waker.lock() = Some(context.waker().clone());
            // What interrupts between the two wakes the task.
            if stops(self) { Poll::Ready(Err(Interrupted)) } else { Poll::Pending }
        })
        .await
    }
}
