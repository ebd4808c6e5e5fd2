//! A CPU that does not answer is reported once for each waiter, and again at each doubling.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use machine::*;

fn advance(queue: &Queue, ticks: u64) {
    queue.tlb().clock.fetch_add(ticks, Ordering::Relaxed);
}

fn reports(queue: &Queue) -> usize {
    queue.tlb().reports.lock().unwrap().len()
}

/// A future is polled for many reasons: it is part of a join, or raced with a timer. Each time it
/// registers anew, with another waker perhaps.
#[test]
fn a_future_that_is_polled_again_reports_no_sooner() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut future = pin!(issue(queue, 1, 1, domain).into_future());
    let mut context = Context::from_waker(Waker::noop());
    let mut poll_often = || {
        for _ in 0..20 {
            assert_eq!(future.as_mut().poll(&mut context), Poll::Pending);
            queue.wake_completed(&run_as(0));
        }
    };
    poll_often();
    assert_eq!(reports(queue), 0);
    advance(queue, 1000);
    poll_often();
    assert_eq!((reports(queue), queue.stats(cpu(0)).ipis_resent), (1, 1));
    advance(queue, 1100);
    poll_often();
    assert_eq!((reports(queue), queue.stats(cpu(0)).ipis_resent), (2, 2));
    advance(queue, 2300);
    poll_often();
    assert_eq!(reports(queue), 3);
    let reports = queue.tlb().reports.lock().unwrap();
    for (report, waited) in reports.iter().zip([1000, 2000, 4000]) {
        assert_eq!(report.cpu, cpu(1));
        assert!(report.waited.0 >= waited && report.waited.0 < waited + 500, "{report:?}");
    }
}

/// One that was woken for a CPU that is done, and waits for another then, goes on counting.
#[test]
fn a_future_that_goes_on_to_another_cpu_reports_no_sooner() {
    let queue = queue(3);
    let domain = domain();
    enter(queue, 1, 1, domain);
    enter(queue, 2, 1, domain);
    let mut future = pin!(issue(queue, 1, 1, domain).into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    advance(queue, 1000);
    queue.wake_completed(&run_as(0));
    assert_eq!(reports(queue), 1);
    queue.tlb().deliver(queue, 1);
    assert_eq!(queue.wake_completed(&run_as(1)), 1);
    assert!(future.as_mut().poll(&mut context).is_pending(), "CPU 2 has not answered");
    queue.wake_completed(&run_as(0));
    assert_eq!(reports(queue), 1, "the wait has not doubled");
    advance(queue, 1100);
    queue.wake_completed(&run_as(0));
    assert_eq!(queue.tlb().reports.lock().unwrap().last().unwrap().cpu, cpu(2));
    assert_eq!(reports(queue), 2);
}
