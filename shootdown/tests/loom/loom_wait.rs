//! Models of the blocking wait: CPUs that take no interrupt, and wait for each other.
#![cfg(loom)]

mod loom_model;

use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::Domain;

/// CPU 0 changes a page of a space, CPU 1 one of the kernel's; both have both cached, and wait
/// with interrupts masked. Each serves the other from its own wait.
fn both_wait(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let queue = queue(2);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        enter(&queue, 0, &domain);
        enter(&queue, 1, &domain);
        let other = beside(&queue, &domain, move |queue, domain| {
            change(queue, 1, queue.kernel(), 1).wait(&run_as(1));
            assert_ne!(cached(queue, 0, 1), OLD, "a stale translation after completion");
            drop(domain);
            take_interrupts_until_changed(queue, 1, 0);
        });
        change(&queue, 0, &domain, 0).wait(&run_as(0));
        assert_ne!(cached(&queue, 1, 0), OLD, "a stale translation after completion");
        take_interrupts_until_changed(&queue, 0, 1);
        other.join().unwrap();
    });
}

/// CPU `index` is back in its work, where it takes interrupts again.
fn take_interrupts_until_changed(queue: &Queue, index: usize, page: usize) {
    while cached(queue, index, page) == OLD {
        deliver(queue, index);
        thread::yield_now();
    }
}

#[test]
fn masked_cpus_wait_for_each_other() {
    both_wait(|_| {});
}

/// CPU 1 leaves the domain while CPU 0 waits for it, and never answers.
#[test]
fn a_wait_ends_when_its_target_leaves() {
    explore_to(3, || {
        let queue = queue(2);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = beside(&queue, &domain, move |queue, domain| {
            // SAFETY: the switch drops everything.
            unsafe { queue.deactivate(&run_as(1), |_| topomem_shootdown::SwitchFlushed::No) };
            drop(domain);
        });
        change(&queue, 0, &domain, 0).wait(&run_as(0));
        assert_eq!(cached(&queue, 1, 0), 0, "a stale translation after completion");
        target.join().unwrap();
    });
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    /// The deadlock: loom sees that no CPU gets on.
    #[test]
    #[should_panic(expected = "Model exceeded maximum number of branches")]
    fn waiting_without_polling() {
        both_wait(|queue| queue.inject(Some(Fault::WaitWithoutPolling)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn acknowledging_before_flushing() {
        both_wait(|queue| queue.inject(Some(Fault::AcknowledgeFirst)));
    }
}
