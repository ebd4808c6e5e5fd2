//! Drives a future on a simulated CPU, which halts while there is nothing to do.

use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;
use std::task::{Wake, Waker};

use topomem_percpu::{CpuId, CpuSet, Platform};

use crate::sim::{Sim, Vector};

/// The idle CPU's timer tick: it looks around at least so often.
const TICK: Duration = Duration::from_micros(500);

/// Wakes the one future that a CPU runs.
struct CpuWaker {
    sim: &'static Sim,
    cpu: CpuId,
    woken: AtomicBool,
}

impl Wake for CpuWaker {
    fn wake(self: Arc<CpuWaker>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<CpuWaker>) {
        // Release pairs with the Acquire in `block_on`: the poll sees what the waker did before.
        self.woken.store(true, Ordering::Release);
        self.sim.send(&CpuSet::of(self.cpu), Vector::Wake);
    }
}

impl Sim {
    /// Runs `future` to its end on the calling CPU.
    ///
    /// `turn` runs between polls: a kernel's executor polls the service there. While nothing
    /// woke the future the CPU halts, and takes interrupts.
    pub fn block_on<F: Future>(&'static self, future: F, mut turn: impl FnMut()) -> F::Output {
        let waker = Arc::new(CpuWaker { sim: self, cpu: self.current_cpu(), woken: AtomicBool::new(true) });
        let as_waker = Waker::from(waker.clone());
        let mut context = Context::from_waker(&as_waker);
        let mut future = pin!(future);
        loop {
            if waker.woken.swap(false, Ordering::Acquire) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return output;
                }
                // A future that yields has woken itself; let the host run other CPUs' threads.
                std::thread::yield_now();
            } else {
                self.halt(TICK);
            }
            self.take_interrupts();
            turn();
        }
    }
}
