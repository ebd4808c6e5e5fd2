//! Models of futures whose CPU completes without an interrupt that could tell: in switches, at the
//! end of laziness, coming online and going off. A kernel that calls wakers where the answers say so,
//! and nowhere else, loses no wake-up.
#![cfg(loom)]

mod loom_model;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::{Domain, Lazy, SwitchFlushed, WakersDue};

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the kernel on CPU 1 does with an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Heeds,
    /// Until the next slow tick, at least.
    Ignores,
}

impl Kernel {
    fn take(self, queue: &Queue, due: WakersDue) {
        if self == Kernel::Heeds && due == WakersDue::Perhaps {
            queue.wake_completed(&run_as(1));
        }
    }
}

/// Interrupts are always heeded.
fn answer(queue: &Queue) {
    if queue.tlb().ipi[1].swap(false, Ordering::AcqRel) {
        Kernel::Heeds.take(queue, queue.on_ipi(&run_as(1)));
    }
}

/// CPU 2 awaits a change of the domain, or of the kernel's where there is none, while CPU 1 does
/// `step`. CPU 0, where it is concerned, comes before CPU 1 in the order of waiting: lazy CPUs below the
/// first busy one are not waited for.
fn awaited_beside(
    prepare: fn(&Queue, &Domain),
    kernels: bool,
    step: impl Fn(&Queue, &Domain) -> WakersDue + Send + Sync + Copy + 'static,
    kernel: Kernel,
) {
    explore_to(2, move || {
        let queue = queue(3);
        let domain = Arc::new(Domain::new());
        prepare(&queue, &domain);
        run_as(2);
        let target = beside(&queue, &domain, move |queue, domain| {
            let due = step(queue, &domain);
            kernel.take(queue, due);
            answer(queue);
            drop(domain);
        });
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let changed = if kernels { queue.kernel() } else { &*domain };
        let mut future = pin!(change(&queue, 2, changed, 0).into_future());
        // CPU 0 answers at once. Where it is a member, the ticket waits for more than lazy CPUs, and
        // is not complete from the start.
        deliver(&queue, 0);
        run_as(2);
        let mut pending = future.as_mut().poll(&mut context).is_pending();
        if pending && count.0.swap(0, Ordering::Relaxed) > 0 {
            pending = future.as_mut().poll(&mut context).is_pending();
        }
        target.join().unwrap();
        answer(&queue);
        run_as(2);
        while pending {
            assert_ne!(count.0.swap(0, Ordering::Relaxed), 0, "a wake-up was lost");
            pending = future.as_mut().poll(&mut context).is_pending();
        }
    });
}

fn none(_: &Queue, _: &Domain) {}

fn entered(queue: &Queue, domain: &Domain) {
    enter(queue, 1, domain);
}

fn lazy(queue: &Queue, domain: &Domain) {
    enter(queue, 1, domain);
    enter(queue, 0, domain);
    // SAFETY: the model touches nothing on CPU 1 until it leaves.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
}

fn offline(queue: &Queue, _: &Domain) {
    // As if it had been asked, and its interrupt been lost.
    let _ = queue.invalidate(&run_as(2), queue.kernel(), invalidation(1)).detach();
    // SAFETY: the model touches nothing on CPU 1 until it is online again.
    let _ = unsafe { queue.cpu_offline(&run_as(1)) }.unwrap();
    queue.tlb().ipi[1].store(false, Ordering::Relaxed);
}

fn join(queue: &Queue, domain: &Domain) -> WakersDue {
    // SAFETY: the model keeps its domains to the end.
    unsafe {
        queue.activate(&run_as(1), domain, |_| {
            // An interrupt comes too early to be answered.
            answer(queue);
            SwitchFlushed::No
        })
    }
}

fn leave(queue: &Queue, _: &Domain) -> WakersDue {
    // SAFETY: the queue flushes.
    unsafe {
        queue.deactivate(&run_as(1), |_| {
            answer(queue);
            SwitchFlushed::No
        })
    }
}

fn leave_lazy(queue: &Queue, _: &Domain) -> WakersDue {
    queue.leave_lazy(&run_as(1))
}

fn come_online(queue: &Queue, _: &Domain) -> WakersDue {
    queue.cpu_online(&run_as(1)).unwrap()
}

fn go_offline(queue: &Queue, _: &Domain) -> WakersDue {
    // So that CPU 2 comes before us, too: each flush of its model yields to us.
    (0..4).for_each(|_| thread::yield_now());
    // SAFETY: the model touches nothing on CPU 1 from then on.
    let due = unsafe { queue.cpu_offline(&run_as(1)) }.unwrap();
    // What is on its way is lost.
    queue.tlb().ipi[1].store(false, Ordering::Relaxed);
    due
}

#[test]
fn joining_wakes() {
    awaited_beside(none, false, join, Kernel::Heeds);
}

#[test]
fn leaving_wakes() {
    awaited_beside(entered, false, leave, Kernel::Heeds);
}

#[test]
fn the_end_of_laziness_wakes() {
    awaited_beside(lazy, false, leave_lazy, Kernel::Heeds);
}

#[test]
fn coming_online_wakes() {
    awaited_beside(offline, true, come_online, Kernel::Heeds);
}

/// The model loses the interrupt at the very end of `cpu_offline`, which a CPU that asks later than
/// that sees it has left.
#[test]
fn going_offline_wakes() {
    awaited_beside(none, true, go_offline, Kernel::Heeds);
}

/// Each of the answers is needed: without it a wake-up is lost until a slow tick.
mod caught {
    use super::*;

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn joining() {
        awaited_beside(none, false, join, Kernel::Ignores);
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn leaving() {
        awaited_beside(entered, false, leave, Kernel::Ignores);
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn the_end_of_laziness() {
        awaited_beside(lazy, false, leave_lazy, Kernel::Ignores);
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn coming_online() {
        awaited_beside(offline, true, come_online, Kernel::Ignores);
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn going_offline() {
        awaited_beside(none, true, go_offline, Kernel::Ignores);
    }
}
