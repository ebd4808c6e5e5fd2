//! Models of the future's registration against completion and against its own drop.
#![cfg(loom)]

mod loom_model;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Arc;
use loom_model::*;
use topomem_shootdown::{Domain, WakersDue};

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(queue: &Queue) {
    if queue.tlb().ipi[1].swap(false, Ordering::AcqRel) && queue.on_ipi(&run_as(1)) == WakersDue::Perhaps {
        queue.wake_completed(&run_as(1));
    }
}

/// A future that was told to wait is woken, whenever the answer comes.
fn register(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let queue = queue(2);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = beside(&queue, &domain, move |queue, domain| {
            answer(queue);
            drop(domain);
        });
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut future = pin!(change(&queue, 0, &domain, 0).into_future());
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        target.join().unwrap();
        answer(&queue);
        if poll.is_pending() {
            assert_eq!(count.0.load(Ordering::Relaxed), 1, "a wake-up was lost");
            assert_eq!(future.poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
        }
    });
}

#[test]
fn no_wake_up_is_lost() {
    register(|_| {});
}

/// A future may be dropped while its waker is being taken: the slot is free for the next.
#[test]
fn dropping_meets_waking() {
    explore_to(3, || {
        let queue = queue(2);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = beside(&queue, &domain, move |queue, domain| {
            answer(queue);
            drop(domain);
        });
        let waker = Waker::from(std::sync::Arc::new(Count(AtomicUsize::new(0))));
        for page in 0..2 {
            let future = pin!(change(&queue, 0, &domain, page).into_future());
            let _ = future.poll(&mut Context::from_waker(&waker));
        }
        target.join().unwrap();
        answer(&queue);
        assert_eq!(queue.wake_completed(&run_as(0)), 0, "a dropped future is still registered");
    });
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn registering_without_a_second_look() {
        register(|queue| queue.inject(Some(Fault::RegisterBlindly)));
    }
}
