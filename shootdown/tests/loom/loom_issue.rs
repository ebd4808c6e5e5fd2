//! Models of issue, handling and completion.
#![cfg(loom)]

mod loom_model;

use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::Domain;
#[cfg(feature = "fault-injection")]
use topomem_shootdown::Fault;

/// Breaks `queue` where the test was built to.
macro_rules! inject {
    ($queue:expr, $fault:expr) => {
        #[cfg(feature = "fault-injection")]
        $queue.inject($fault);
        #[cfg(not(feature = "fault-injection"))]
        let _: Option<()> = $fault;
    };
}

/// CPU 0 changes a page that CPU 1 uses; nothing is stale once that is complete, and it
/// completes once the interrupt is delivered.
fn one_change(fault: Option<Fault_>) {
    explore_to(3, move || {
        let queue = queue(2);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                deliver(&queue, 1);
                touch(&queue, 1, 0);
            })
        };
        let mut ticket = change(&queue, 0, &domain, 0);
        check_complete(&queue, &mut ticket, 1, 0);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
        check_complete(&queue, &mut ticket, 1, 0);
    });
}

/// CPU 0 changes two pages one after the other: the second rides on the first's interrupt, or
/// sends its own.
fn coalesced(fault: Option<Fault_>) {
    explore_to(3, move || {
        let queue = queue(2);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                deliver(&queue, 1);
                touch(&queue, 1, 0);
            })
        };
        let _ = change(&queue, 0, &domain, 0).detach();
        let mut second = change(&queue, 0, &domain, 1);
        check_complete(&queue, &mut second, 1, 0);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(second.is_complete(), "a request was lost");
        assert_eq!((touch(&queue, 1, 0), touch(&queue, 1, 1)), (NEW, NEW));
    });
}

/// Three changes overrun the log (of two entries here) while CPU 1 reads it: it flushes all.
fn overrun(fault: Option<Fault_>) {
    explore(move || {
        let queue = queue(2);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                deliver(&queue, 1);
            })
        };
        let _ = change(&queue, 0, &domain, 0).detach();
        let _ = change(&queue, 0, &domain, 1).detach();
        let mut last = change(&queue, 0, &domain, 1);
        check_complete(&queue, &mut last, 1, 0);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(last.is_complete(), "a request was lost");
        assert_eq!((touch(&queue, 1, 0), touch(&queue, 1, 1)), (NEW, NEW));
    });
}

/// CPU 1 is interrupted while it flushes in the handler: the older generation of the outer
/// handler does not cover up the newer one of the nested.
fn nested(fault: Option<Fault_>) {
    explore(move || {
        let queue = queue(2);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        nest(&queue, 1);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                deliver(&queue, 1);
            })
        };
        let mut first = change(&queue, 0, &domain, 0);
        let mut second = change(&queue, 0, &domain, 1);
        check_complete(&queue, &mut first, 1, 0);
        check_complete(&queue, &mut second, 1, 1);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(first.is_complete() && second.is_complete(), "a request was lost");
        assert_eq!((touch(&queue, 1, 0), touch(&queue, 1, 1)), (NEW, NEW));
    });
}

#[test]
fn one_change_is_seen() {
    one_change(None);
}

#[test]
fn a_change_rides_along() {
    coalesced(None);
}

#[test]
fn an_overrun_log_flushes_all() {
    overrun(None);
}

#[test]
fn a_nested_handler_is_not_covered_up() {
    nested(None);
}

/// CPUs 0 and 2 change a page each, at once; both fill the log while CPU 1 reads it, so that it
/// meets a generation whose entry is not written, or half. Neither takes the other's answer for
/// its own.
fn two_senders(fault: Option<Fault_>) {
    explore(move || {
        let queue = queue(3);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let other = {
            let (queue, domain) = (queue.clone(), domain.clone());
            thread::spawn(move || change(&queue, 2, &domain, 1).detach())
        };
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                deliver(&queue, 1);
            })
        };
        let mut ticket = change(&queue, 0, &domain, 0);
        check_complete(&queue, &mut ticket, 1, 0);
        let request = other.join().unwrap();
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(ticket.is_complete() && queue.is_done(&domain, request), "a request was lost");
        assert_ne!(cached(&queue, 1, 0), OLD, "a stale translation after completion");
        assert_ne!(cached(&queue, 1, 1), OLD, "a stale translation after completion");
    });
}

#[test]
fn two_senders_at_once() {
    two_senders(None);
}

/// An interrupt that nobody sent, and one that comes when a poll has served it already, promise
/// nothing about the change after them.
fn spurious_and_late(fault: Option<Fault_>) {
    explore_to(3, move || {
        let queue = queue(2);
        inject!(queue, fault);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                let pin = run_as(1);
                let _ = queue.on_ipi(&pin);
                queue.poll(&pin);
                deliver(&queue, 1);
            })
        };
        let mut first = change(&queue, 0, &domain, 0);
        check_complete(&queue, &mut first, 1, 0);
        let mut second = change(&queue, 0, &domain, 1);
        check_complete(&queue, &mut second, 1, 1);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(first.is_complete() && second.is_complete(), "a request was lost");
        check_complete(&queue, &mut first, 1, 0);
        check_complete(&queue, &mut second, 1, 1);
    });
}

#[test]
fn spurious_and_late_interrupts_are_harmless() {
    spurious_and_late(None);
}

#[cfg(feature = "fault-injection")]
type Fault_ = Fault;
#[cfg(not(feature = "fault-injection"))]
type Fault_ = ();

/// What others got wrong: each of these models fails when the mistake is made.
#[cfg(feature = "fault-injection")]
mod caught {
    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn acknowledging_without_flushing() {
        one_change(Some(Fault::SkipFlush));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn acknowledging_before_flushing() {
        one_change(Some(Fault::AcknowledgeFirst));
    }

    #[test]
    #[should_panic(expected = "a request was lost")]
    fn clearing_the_pending_word_late() {
        coalesced(Some(Fault::ClearPendingLate));
    }

    #[test]
    #[should_panic]
    fn dropping_what_the_log_lost() {
        overrun(Some(Fault::DropOnOverrun));
    }

    #[test]
    #[should_panic(expected = "a request was lost")]
    fn publishing_backwards() {
        nested(Some(Fault::PublishBackwards));
    }

    /// One flag for each CPU, reset by each sender: the second sender takes the first one's
    /// answer for its own.
    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn answering_by_one_flag() {
        two_senders(Some(Fault::OneFlag));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn skipping_an_entry_that_is_not_written_yet() {
        two_senders(Some(Fault::DropOnOverrun));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn counting_interrupts() {
        spurious_and_late(Some(Fault::CountInterrupts));
    }
}
