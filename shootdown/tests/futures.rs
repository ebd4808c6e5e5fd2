//! Completion as a future.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use machine::*;
use topomem_shootdown::{Invalidation, WAITERS, WakersDue};

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_future_is_woken_outside_the_handler() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut future = pin!(issue(queue, 1, 1, domain).into_future());
    assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
    assert_eq!(queue.wake_completed(&run_as(0)), 0);
    queue.tlb().raised[1].store(false, Ordering::Relaxed);
    assert_eq!(queue.on_ipi(&run_as(1)), WakersDue::Perhaps);
    assert_eq!(count.0.load(Ordering::Relaxed), 0, "no waker is called in the handler");
    assert_eq!(queue.wake_completed(&run_as(1)), 1);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(future.poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
}

/// An interrupt that comes in the middle of a switch is served too early: the switch's end completes
/// what was asked, and says so.
#[test]
fn a_switch_says_that_it_has_completed_something() {
    let queue = queue(2);
    let (last, next) = (domain(), domain());
    enter(queue, 1, 1, last);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(issue(queue, 1, 1, last).into_future());
    assert!(future.as_mut().poll(&mut context).is_pending());
    let pin = run_as(1);
    // SAFETY: the domains live for ever, and the switch is the machine's own.
    let due = unsafe {
        queue.activate(&pin, next, |load| {
            queue.tlb().deliver(queue, 1);
            // It may be: the CPU has an address space no longer, or not yet.
            queue.wake_completed(&run_as(1));
            run_as(0);
            assert!(future.as_mut().poll(&mut context).is_pending(), "cpu1 is a member still");
            count.0.store(0, Ordering::Relaxed);
            run_as(1);
            queue.tlb().load_root(load)
        })
    };
    assert!(queue.is_done(last, future.request()));
    assert_eq!(due, WakersDue::Perhaps);
    assert_eq!(queue.wake_completed(&pin), 1);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

/// Interrupts to a CPU that goes off may be lost.
#[test]
fn going_offline_says_that_it_has_completed_something() {
    let queue = queue(2);
    let mut future = pin!(queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain()).into_future());
    let waker = Waker::from(Arc::new(Count(AtomicUsize::new(0))));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // SAFETY: CPU 1 touches nothing while it is offline.
    assert_eq!(unsafe { queue.cpu_offline(&run_as(1)) }, Ok(WakersDue::Perhaps));
    assert_eq!(queue.wake_completed(&run_as(1)), 1);
    assert!(future.poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn futures_beyond_the_slots_wake_themselves() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let mut futures: Vec<_> =
        (0..=WAITERS).map(|_| Box::pin(issue(queue, 1, 1, domain).into_future())).collect();
    for future in &mut futures {
        assert_eq!(future.as_mut().poll(&mut context), Poll::Pending);
    }
    assert_eq!(count.0.swap(0, Ordering::Relaxed), 1, "the last found no slot");
    // Dropping one frees its slot, leaking one doesn't until its condition comes true.
    drop(futures.remove(0));
    forever(futures.remove(0));
    let last = futures.last_mut().unwrap();
    assert_eq!(last.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    queue.tlb().deliver(queue, 1);
    assert_eq!(queue.wake_completed(&run_as(1)), WAITERS);
    assert!(futures.iter_mut().all(|future| future.as_mut().poll(&mut context).is_ready()));
}
