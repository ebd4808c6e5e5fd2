//! What each call does, step by step, on the software machine.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use machine::*;
use topomem_shootdown::{Generation, Invalidation, Ticket, WakersDue};

#[test]
fn a_page_is_flushed_before_completion() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut ticket = issue(queue, 1, 1, domain);
    assert!(!ticket.is_complete());
    assert!(queue.tlb().deliver(queue, 1));
    assert!(ticket.is_complete());
    assert_eq!(queue.tlb().cached(1, 1, 0), None);
    assert_eq!(queue.tlb().cached(1, 1, 1), Some(0), "only the page named was flushed");
    let stats = queue.stats(cpu(1));
    assert_eq!((stats.partial_flushes, stats.pages_flushed, stats.ipis_received), (1, 1, 1));
    ticket.wait(&run_as(0));
    assert_eq!(queue.stats(cpu(0)).latency.iter().sum::<u64>(), 1);
}

#[test]
fn the_issuer_flushes_its_own() {
    let queue = queue(1);
    let domain = domain();
    enter(queue, 0, 1, domain);
    assert!(issue(queue, 1, 2, domain).is_complete());
    assert_eq!(queue.tlb().cached(0, 1, 1), None);
    assert_eq!(queue.tlb().sent(), 0);
}

#[test]
fn one_interrupt_serves_many_requests() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut tickets: Vec<_> = (0..5).map(|_| issue(queue, 1, 1, domain)).collect();
    assert_eq!(queue.tlb().sent(), 1);
    queue.tlb().deliver(queue, 1);
    assert!(tickets.iter_mut().all(Ticket::is_complete));
    let stats = queue.stats(cpu(0));
    assert_eq!((stats.requests, stats.ipis_sent, stats.elided_pending), (5, 1, 4));
}

#[test]
fn many_targets_are_one_send() {
    let queue = queue(4);
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    assert_eq!(*queue.tlb().sends.lock().unwrap(), [[1, 2, 3].map(cpu).into_iter().collect()]);
    for index in 1..4 {
        assert!(!ticket.is_complete());
        queue.tlb().deliver(queue, index);
    }
    assert!(ticket.is_complete());
    assert_eq!(queue.stats(cpu(0)).ipi_sends, 1);
}

#[test]
fn cpus_elsewhere_are_left_alone() {
    let queue = queue(3);
    let (here, there) = (domain(), domain());
    enter(queue, 1, 1, here);
    enter(queue, 2, 2, there);
    let _ = issue(queue, 1, 1, here).detach();
    assert_eq!(*queue.tlb().sends.lock().unwrap(), [topomem_percpu::CpuSet::of(cpu(1))]);
}

#[test]
fn over_the_threshold_everything_goes() {
    let queue = queue(2);
    queue.set_threshold(3);
    let domain = domain();
    enter(queue, 1, 1, domain);
    for (pages, partial, full) in [(3, 1, 0), (4, 1, 1)] {
        let before = queue.stats(cpu(1)).full_flushes;
        let _ = issue(queue, 1, pages, domain).detach();
        queue.tlb().deliver(queue, 1);
        let stats = queue.stats(cpu(1));
        assert_eq!((stats.partial_flushes, stats.full_flushes - before), (partial, full));
    }
    assert_eq!(queue.tlb().flushes[1].non_global.load(Ordering::Relaxed), 1);
    assert_eq!(queue.tlb().flushes[1].all.load(Ordering::Relaxed), 1, "only when it went online");
}

#[test]
fn an_overrun_log_is_a_full_flush() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    for _ in 0..32 {
        let _ = issue(queue, 1, 1, domain).detach();
    }
    queue.tlb().deliver(queue, 1);
    assert_eq!(queue.stats(cpu(1)).log_misses, 0);
    for _ in 0..33 {
        let _ = issue(queue, 1, 1, domain).detach();
    }
    queue.tlb().deliver(queue, 1);
    assert_eq!(queue.stats(cpu(1)).log_misses, 1);
    assert_eq!(queue.tlb().flushes[1].non_global.load(Ordering::Relaxed), 1);
}

#[test]
fn the_kernels_domain_flushes_globals() {
    let queue = queue(2);
    run_as(1);
    queue.tlb().access(0, 0);
    queue.tlb().change(0, 0);
    let domain = domain();
    enter(queue, 1, 1, domain);
    assert_eq!(queue.tlb().cached(1, 0, 0), Some(0), "a switch keeps globals");
    // Issued for a space, it reaches who left or never had it: globals outlive a switch.
    let ticket = queue.invalidate(&run_as(0), domain, Invalidation::everything());
    assert!(std::ptr::eq(ticket.domain(), queue.kernel()));
    queue.tlb().deliver(queue, 1);
    assert_eq!((queue.tlb().cached(1, 0, 0), queue.tlb().cached(1, 1, 0)), (None, None));
    assert_eq!(ticket.detach().generation(), queue.kernel().generation());
}

#[test]
fn non_global_leaves_globals() {
    let queue = queue(2);
    run_as(1);
    queue.tlb().access(0, 0);
    queue.tlb().access(1, 0);
    let _ = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::non_global()).detach();
    queue.tlb().deliver(queue, 1);
    assert_eq!((queue.tlb().cached(1, 0, 0), queue.tlb().cached(1, 1, 0)), (Some(0), None));
}

#[test]
fn a_batch_is_one_round() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut batch = queue.batch(domain);
    for page in [0, 1, 4] {
        batch.record(Invalidation::pages(range(1, page, 1)));
    }
    let mut ticket = batch.issue(&run_as(0));
    queue.tlb().deliver(queue, 1);
    assert!(ticket.is_complete());
    let left: Vec<_> = (0..PAGES).filter(|&page| queue.tlb().cached(1, 1, page).is_some()).collect();
    assert_eq!(left, [2, 3, 5, 6, 7]);
    assert_eq!((queue.tlb().sent(), queue.stats(cpu(1)).pages_flushed), (1, 3));
    assert!(batch.is_empty() && batch.issue(&run_as(0)).is_complete());
}

/// CPU 1 keeps a batch open, and has published the batch's first change when CPU 0 changes a page.
#[test]
fn a_batch_flushes_what_others_changed_between_its_changes() {
    for waits in [false, true] {
        let queue = queue(2);
        let domain = domain();
        enter(queue, 1, 1, domain);
        let pin = run_as(1);
        let mut batch = queue.batch(domain);
        batch.record(Invalidation::pages(range(1, 0, 1)));
        let _ = queue.on_ipi(&pin);
        queue.tlb().change(1, 5);
        let _ = queue.invalidate(&run_as(0), domain, Invalidation::pages(range(1, 5, 1))).detach();
        let pin = run_as(1);
        if waits {
            batch.wait_for_pending(range(1, 5, 1));
        } else {
            batch.record(Invalidation::pages(range(1, 1, 1)));
        }
        assert!(batch.issue(&pin).is_complete());
        assert_eq!(queue.tlb().cached(1, 1, 5), None);
    }
}

#[test]
fn a_batch_of_more_changes_than_the_log_holds_is_the_domain() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut batch = queue.batch(domain);
    for page in 0..33 {
        batch.record(Invalidation::page(address(1, page * 2), topomem_shootdown::PageSize::Size4KiB));
    }
    let _ = batch.issue(&run_as(0)).detach();
    queue.tlb().deliver(queue, 1);
    assert_eq!(queue.tlb().flushes[1].non_global.load(Ordering::Relaxed), 1);
}

/// Also by a CPU that has nothing to flush: it is no member.
#[test]
fn tables_are_published_before_others_learn_of_the_change() {
    thread_local! {
        static SEEN: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
        static DOMAIN: std::cell::Cell<Option<&'static topomem_shootdown::Domain>> =
            const { std::cell::Cell::new(None) };
    }
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    DOMAIN.set(Some(domain));
    *queue.tlb().hook.lock().unwrap() =
        Some(|_| SEEN.with_borrow_mut(|seen| seen.push(DOMAIN.get().unwrap().generation().get())));
    let before = domain.generation().get();
    let _ = issue(queue, 1, 1, domain).detach();
    let mut batch = queue.batch(domain);
    batch.record(Invalidation::pages(range(1, 0, 1)));
    let _ = batch.issue(&run_as(0)).detach();
    assert_eq!(queue.tlb().published.load(Ordering::Relaxed), 2);
    // Published, sent; published, with an interrupt on its way already.
    assert_eq!(SEEN.take(), [before, before + 1, before + 1]);
}

#[test]
fn spurious_and_polled_interrupts_are_harmless() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    assert_eq!(queue.on_ipi(&run_as(1)), WakersDue::No);
    let mut ticket = issue(queue, 1, 1, domain);
    queue.poll(&run_as(1));
    assert!(ticket.is_complete());
    assert!(queue.tlb().deliver(queue, 1), "the interrupt comes late, to nothing");
    let stats = queue.stats(cpu(1));
    assert_eq!((stats.polls_served, stats.partial_flushes), (1, 1));
}

#[test]
fn tickets_of_two_domains_don_t_merge() {
    let queue = queue(1);
    let (first, second) = (domain(), domain());
    let (one, two) = (issue(queue, 1, 1, first), issue(queue, 2, 1, second));
    let (one, two) = one.merge(two).unwrap_err();
    assert!(std::ptr::eq(one.domain(), first) && std::ptr::eq(two.domain(), second));
    assert_eq!(one.detach().generation(), Generation::NONE, "there was nobody to wait for");
}

fn silent_cpu(prepare: fn(&Queue)) {
    let queue = queue(2);
    prepare(queue);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let mut future = pin!(issue(queue, 1, 1, domain).into_future());
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    queue.tlb().clock.fetch_add(1000, Ordering::Relaxed);
    assert_eq!(queue.wake_completed(&run_as(0)), 0);
    assert_eq!(queue.wake_completed(&run_as(0)), 0, "a silent CPU was counted as done");
    {
        let reports = queue.tlb().reports.lock().unwrap();
        assert_eq!(reports.len(), 1, "once a doubling of the timeout");
        assert_eq!((reports[0].cpu, reports[0].generation), (cpu(1), domain.generation()));
        assert!(reports[0].waited.0 >= 1000);
    }
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(queue.stats(cpu(0)).ipis_resent, 1);
    queue.tlb().deliver(queue, 1);
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn a_silent_cpu_is_reported_and_never_counted_done() {
    silent_cpu(|_| {});
}

/// A sender whose waiter has its answer may be followed by others: the answer stays.
fn kept_answer(prepare: fn(&Queue)) {
    let queue = queue(2);
    prepare(queue);
    let domain = domain();
    enter(queue, 1, 1, domain);
    let first = issue(queue, 1, 1, domain).detach();
    queue.tlb().deliver(queue, 1);
    let second = issue(queue, 1, 1, domain).detach();
    assert!(queue.is_done(domain, first), "an answer was taken back");
    assert!(!queue.is_done(domain, second));
}

#[test]
fn an_answer_is_kept() {
    kept_answer(|_| {});
}

#[test]
fn a_blocked_waiter_sends_again_and_reports() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    // CPU 1's interrupt is lost with the context that was to send it.
    let ticket = issue(queue, 1, 1, domain);
    queue.tlb().raised[1].store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while queue.tlb().reports.lock().unwrap().is_empty() {
                // The waiter's own looks at the clock take long to add up to its timeout.
                queue.tlb().clock.fetch_add(100, Ordering::Relaxed);
                std::thread::yield_now();
            }
            assert!(queue.tlb().deliver(queue, 1), "it was sent again");
        });
        ticket.wait(&run_as(0));
    });
    assert!(queue.stats(cpu(0)).ipis_resent >= 1);
    assert_eq!(queue.tlb().cached(1, 1, 0), None);
}

#[cfg(feature = "fault-injection")]
mod broken {
    use topomem_shootdown::Fault;

    use super::*;

    /// A sender is stopped before it writes its entry: the handler waits for nobody and flushes
    /// all.
    #[test]
    fn an_entry_that_is_not_written_is_a_full_flush() {
        let queue = queue(2);
        let domain = domain();
        enter(queue, 1, 1, domain);
        queue.inject(Some(Fault::LeaveUnwritten));
        let mut stopped = issue(queue, 1, 1, domain);
        queue.inject(None);
        let mut next = issue(queue, 1, 2, domain);
        queue.tlb().deliver(queue, 1);
        assert!(stopped.is_complete() && next.is_complete());
        assert_eq!((queue.tlb().cached(1, 1, 0), queue.tlb().cached(1, 1, 1)), (None, None));
        let stats = queue.stats(cpu(1));
        assert_eq!((stats.log_misses, stats.partial_flushes), (1, 0));
    }

    #[test]
    #[should_panic(expected = "once a doubling of the timeout")]
    fn reporting_nobody() {
        silent_cpu(|queue| queue.inject(Some(Fault::NeverReport)));
    }

    #[test]
    #[should_panic(expected = "a silent CPU was counted as done")]
    fn giving_up() {
        silent_cpu(|queue| queue.inject(Some(Fault::GiveUp)));
    }

    #[test]
    #[should_panic(expected = "an answer was taken back")]
    fn resetting_a_flag() {
        kept_answer(|queue| queue.inject(Some(Fault::OneFlag)));
    }
}
