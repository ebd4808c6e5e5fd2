//! Models of issue, handling and completion.
#![cfg(loom)]

mod loom_model;

use std::cell::Cell;

use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::Domain;

/// A model in which CPU 1 uses both pages of a domain, and CPU 0 changes them.
struct Model {
    cpus: usize,
    preemptions: usize,
}

impl Model {
    /// Runs `target` as CPU 1 beside `issue` as CPU 0, on a queue changed by `prepare`. `issue` gets a closure that waits
    /// for the end of `target`, and then delivers an interrupt raised for CPU 1.
    fn run(
        self,
        prepare: impl Fn(&Arc<Queue>) + Send + Sync + 'static,
        target: fn(&Queue),
        issue: fn(&Arc<Queue>, &Arc<Domain>, &dyn Fn()),
    ) {
        explore_to(self.preemptions, move || {
            let queue = queue(self.cpus);
            let domain = Arc::new(Domain::new());
            enter(&queue, 1, &domain);
            prepare(&queue);
            let running = {
                let queue = queue.clone();
                Cell::new(Some(thread::spawn(move || target(&queue))))
            };
            issue(&queue, &domain, &|| {
                running.take().unwrap().join().unwrap();
                deliver(&queue, 1);
            });
        });
    }
}

const TWO: Model = Model { cpus: 2, preemptions: 2 };
/// One more preemption: these models are small.
const TWO_SMALL: Model = Model { preemptions: 3, ..TWO };

fn take_interrupt(queue: &Queue) {
    deliver(queue, 1);
}

fn take_interrupt_and_touch(queue: &Queue) {
    deliver(queue, 1);
    touch(queue, 1, 0);
}

/// CPU 0 changes a page that CPU 1 uses; nothing is stale once that is complete, and it
/// completes once the interrupt is delivered.
fn one_change(prepare: fn(&Queue)) {
    TWO_SMALL.run(
        move |queue| prepare(queue),
        take_interrupt_and_touch,
        |queue, domain, settle| {
            let mut ticket = change(queue, 0, domain, 0);
            check_complete(queue, &mut ticket, 1, 0);
            settle();
            assert!(ticket.is_complete(), "a request was lost");
            check_complete(queue, &mut ticket, 1, 0);
        },
    );
}

/// CPU 0 changes two pages one after the other: the second rides on the first's interrupt, or
/// sends its own.
fn coalesced(prepare: fn(&Queue)) {
    TWO_SMALL.run(
        move |queue| prepare(queue),
        take_interrupt_and_touch,
        |queue, domain, settle| {
            let _ = change(queue, 0, domain, 0).detach();
            let mut second = change(queue, 0, domain, 1);
            check_complete(queue, &mut second, 1, 0);
            settle();
            assert!(second.is_complete(), "a request was lost");
            assert_eq!((touch(queue, 1, 0), touch(queue, 1, 1)), (NEW, NEW));
        },
    );
}

/// Three changes overrun the log (of two entries here) while CPU 1 reads it: it flushes all.
fn overrun(prepare: fn(&Queue)) {
    TWO.run(
        move |queue| prepare(queue),
        take_interrupt,
        |queue, domain, settle| {
            let _ = change(queue, 0, domain, 0).detach();
            let _ = change(queue, 0, domain, 1).detach();
            let mut last = change(queue, 0, domain, 1);
            check_complete(queue, &mut last, 1, 0);
            settle();
            assert!(last.is_complete(), "a request was lost");
            assert_eq!((touch(queue, 1, 0), touch(queue, 1, 1)), (NEW, NEW));
        },
    );
}

/// CPU 1 is interrupted while it flushes in the handler: the older generation of the outer
/// handler does not cover up the newer one of the nested.
fn nested(prepare: fn(&Queue)) {
    let prepare = move |queue: &Arc<Queue>| {
        prepare(queue);
        nest(queue, 1);
    };
    TWO.run(prepare, take_interrupt, |queue, domain, settle| {
        let mut first = change(queue, 0, domain, 0);
        let mut second = change(queue, 0, domain, 1);
        check_complete(queue, &mut first, 1, 0);
        check_complete(queue, &mut second, 1, 1);
        settle();
        assert!(first.is_complete() && second.is_complete(), "a request was lost");
        assert_eq!((touch(queue, 1, 0), touch(queue, 1, 1)), (NEW, NEW));
    });
}

#[test]
fn one_change_is_seen() {
    one_change(|_| {});
}

#[test]
fn a_change_rides_along() {
    coalesced(|_| {});
}

#[test]
fn an_overrun_log_flushes_all() {
    overrun(|_| {});
}

#[test]
fn a_nested_handler_is_not_covered_up() {
    nested(|_| {});
}

/// CPUs 0 and 2 change a page each, at once; both fill the log while CPU 1 reads it, so that it
/// meets a generation whose entry is not written, or half. Neither takes the other's answer for
/// its own.
fn two_senders(prepare: fn(&Queue)) {
    let three = Model { cpus: 3, ..TWO };
    three.run(
        move |queue| prepare(queue),
        take_interrupt,
        |queue, domain, settle| {
            let other = {
                let (queue, domain) = (queue.clone(), domain.clone());
                thread::spawn(move || change(&queue, 2, &domain, 1).detach())
            };
            let mut ticket = change(queue, 0, domain, 0);
            check_complete(queue, &mut ticket, 1, 0);
            let request = other.join().unwrap();
            settle();
            assert!(ticket.is_complete() && queue.is_done(domain, request), "a request was lost");
            assert_ne!(cached(queue, 1, 0), OLD, "a stale translation after completion");
            assert_ne!(cached(queue, 1, 1), OLD, "a stale translation after completion");
        },
    );
}

#[test]
fn two_senders_at_once() {
    two_senders(|_| {});
}

/// An interrupt that nobody sent, and one that comes when a poll has served it already, promise
/// nothing about the change after them.
fn spurious_and_late(prepare: fn(&Queue)) {
    let target = |queue: &Queue| {
        let pin = run_as(1);
        let _ = queue.on_ipi(&pin);
        queue.poll(&pin);
        deliver(queue, 1);
    };
    TWO_SMALL.run(
        move |queue| prepare(queue),
        target,
        |queue, domain, settle| {
            let mut first = change(queue, 0, domain, 0);
            check_complete(queue, &mut first, 1, 0);
            let mut second = change(queue, 0, domain, 1);
            check_complete(queue, &mut second, 1, 1);
            settle();
            assert!(first.is_complete() && second.is_complete(), "a request was lost");
            check_complete(queue, &mut first, 1, 0);
            check_complete(queue, &mut second, 1, 1);
        },
    );
}

#[test]
fn spurious_and_late_interrupts_are_harmless() {
    spurious_and_late(|_| {});
}

/// What others got wrong: each of these models fails when the mistake is made.
#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn acknowledging_without_flushing() {
        one_change(|queue| queue.inject(Some(Fault::SkipFlush)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn acknowledging_before_flushing() {
        one_change(|queue| queue.inject(Some(Fault::AcknowledgeFirst)));
    }

    #[test]
    #[should_panic(expected = "a request was lost")]
    fn clearing_the_pending_word_late() {
        coalesced(|queue| queue.inject(Some(Fault::ClearPendingLate)));
    }

    #[test]
    #[should_panic]
    fn dropping_what_the_log_lost() {
        overrun(|queue| queue.inject(Some(Fault::DropOnOverrun)));
    }

    #[test]
    #[should_panic(expected = "a request was lost")]
    fn publishing_backwards() {
        nested(|queue| queue.inject(Some(Fault::PublishBackwards)));
    }

    /// One flag for each CPU, reset by each sender: the second sender takes the first one's
    /// answer for its own.
    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn answering_by_one_flag() {
        two_senders(|queue| queue.inject(Some(Fault::OneFlag)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn skipping_an_entry_that_is_not_written_yet() {
        two_senders(|queue| queue.inject(Some(Fault::DropOnOverrun)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn counting_interrupts() {
        spurious_and_late(|queue| queue.inject(Some(Fault::CountInterrupts)));
    }
}
