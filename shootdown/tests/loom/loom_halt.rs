//! Models of waiters that halt: whoever completes what they wait for interrupts them.
#![cfg(loom)]

mod loom_model;

use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::{Domain, SwitchFlushed};

/// CPU 0 waits, and halts, for a change of the domain; CPU 1, a member of it, does `step`.
fn halts_beside(prepare: fn(&Queue), step: impl Fn(&Queue, &Domain) + Send + Sync + Copy + 'static) {
    // Each turn that CPU 0 spins lets CPU 1 run: it takes a preemption to halt before it has answered.
    explore_to(5, move || {
        let queue = queue(2);
        let_halt(&queue);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = beside(&queue, &domain, move |queue, domain| {
            step(queue, &domain);
            while cached(queue, 1, 0) == OLD {
                deliver(queue, 1);
                thread::yield_now();
            }
        });
        change(&queue, 0, &domain, 0).wait(&run_as(0));
        assert_ne!(cached(&queue, 1, 0), OLD, "a stale translation after completion");
        target.join().unwrap();
    });
}

#[test]
fn an_interrupt_that_is_served_wakes() {
    halts_beside(|_| {}, |_, _| {});
}

/// The CPU has interrupts masked, and spins for something that the halted CPU has.
#[test]
fn a_poll_wakes() {
    halts_beside(
        |_| {},
        |queue, _| {
            let pin = run_as(1);
            while cached(queue, 1, 0) == OLD {
                queue.poll(&pin);
                thread::yield_now();
            }
        },
    );
}

#[test]
fn a_member_that_leaves_wakes() {
    halts_beside(
        |_| {},
        |queue, _| {
            // SAFETY: the switch drops everything.
            let _ = unsafe { queue.deactivate(&run_as(1), |_| SwitchFlushed::No) };
        },
    );
}

/// Two CPUs answer, in any order and at once: the last to answer wakes.
#[test]
fn the_last_of_two_answers_wakes() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(1);
    // Three threads that yield to each other take more turns than two.
    model.max_branches = 10_000;
    model.check(|| {
        let queue = queue(3);
        let_halt(&queue);
        let domain = Arc::new(Domain::new());
        let members = [1, 2];
        for index in members {
            enter(&queue, index, &domain);
        }
        run_as(0);
        let targets = members.map(|index| {
            let queue = queue.clone();
            thread::spawn(move || {
                while cached(&queue, index, 0) == OLD {
                    deliver(&queue, index);
                    thread::yield_now();
                }
            })
        });
        change(&queue, 0, &domain, 0).wait(&run_as(0));
        for index in members {
            assert_ne!(cached(&queue, index, 0), OLD, "a stale translation after completion");
        }
        targets.into_iter().for_each(|target| target.join().unwrap());
    });
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    /// The CPU has answered before, and never again.
    #[test]
    #[should_panic(expected = "Model exceeded maximum number of branches")]
    fn halting_without_a_second_look() {
        halts_beside(|queue| queue.inject(Some(Fault::HaltBlindly)), |_, _| {});
    }
}
