//! Models of CPUs that join and leave domains, are lazy, and go off and on.
#![cfg(loom)]

mod loom_model;

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_model::*;
use topomem_shootdown::{Domain, Lazy, SwitchFlushed};

/// CPU 1 makes the domain active while CPU 0 changes a page of it: either CPU 1 sees the
/// generation, or CPU 0 the member.
fn activate(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let queue = queue(2);
        let (domain, other) = (Arc::new(Domain::new()), Arc::new(Domain::new()));
        // The other domain's generations are ahead of this one's.
        let _ = queue.invalidate(&run_as(0), &other, invalidation(1)).detach();
        let _ = queue.invalidate(&run_as(0), &other, invalidation(1)).detach();
        enter(&queue, 1, &other);
        // The model's TLB doesn't tell the domains apart: the other has nothing cached.
        for page in 0..2 {
            queue.tlb().tlb[1][page].store(0, Ordering::Relaxed);
        }
        prepare(&queue);
        let target = {
            let (queue, domain, other) = (queue.clone(), domain.clone(), other.clone());
            thread::spawn(move || {
                let pin = run_as(1);
                // SAFETY: the model keeps both domains to the end.
                unsafe {
                    queue.activate(&pin, &domain, |_| {
                        for page in 0..2 {
                            queue.tlb().tlb[1][page].store(0, Ordering::Relaxed);
                        }
                        // The walker fills in entries from the moment of the switch.
                        touch(&queue, 1, 0);
                        thread::yield_now();
                        SwitchFlushed::Yes
                    });
                }
                drop(other);
                deliver(&queue, 1);
            })
        };
        let mut ticket = change(&queue, 0, &domain, 0);
        check_complete(&queue, &mut ticket, 1, 0);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
        assert_eq!(touch(&queue, 1, 0), NEW, "a stale translation after completion");
    });
}

/// CPU 1 ceases to be lazy while CPU 0 changes a page that CPU 1 has cached.
fn leave_lazy(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let queue = queue(2);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        prepare(&queue);
        // SAFETY: the model touches nothing on CPU 1 before it leaves.
        unsafe { queue.enter_lazy(&run_as(1), Lazy::Space) };
        let target = beside(&queue, &domain, move |queue, domain| {
            queue.leave_lazy(&run_as(1));
            drop(domain);
            deliver(queue, 1);
        });
        let mut ticket = change(&queue, 0, &domain, 0);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
        assert_eq!(touch(&queue, 1, 0), NEW, "a stale translation after completion");
    });
}

#[test]
fn activating_meets_an_invalidation() {
    activate(|_| {});
}

#[test]
fn leaving_laziness_meets_an_invalidation() {
    leave_lazy(|_| {});
}

/// CPU 1 leaves the domain with a request in flight, which completes without its interrupt; who
/// then finds the domain idle finds its translations gone.
#[test]
fn leaving_completes_a_request() {
    explore_to(3, || {
        let queue = queue(2);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        let target = beside(&queue, &domain, move |queue, domain| {
            // SAFETY: the switch drops everything.
            unsafe { queue.deactivate(&run_as(1), |_| SwitchFlushed::No) };
            drop(domain);
        });
        let mut ticket = change(&queue, 0, &domain, 0);
        check_complete(&queue, &mut ticket, 1, 0);
        if domain.is_idle() {
            assert_eq!(cached(&queue, 1, 0), 0);
        }
        target.join().unwrap();
        assert!(ticket.is_complete() && domain.is_idle(), "a request was lost");
    });
}

/// A page table: loom finds a free that is not ordered behind every walk.
struct Table(UnsafeCell<()>);

// SAFETY: loom checks the accesses, which is what the models are for.
unsafe impl Sync for Table {}

impl Table {
    fn walk(&self) {
        self.0.with(|_| ());
    }

    fn free(&self) {
        self.0.with_mut(|_| ());
    }
}

/// CPU 1 walks a table of the domain until its switch to `next`, or to none; CPU 0 frees the
/// table as soon as its request is complete.
fn leaving_ends_the_walks(next: Option<fn() -> Domain>) {
    explore_to(3, move || {
        let queue = queue(2);
        let domain = Arc::new(Domain::new());
        let table = Arc::new(Table(UnsafeCell::new(())));
        enter(&queue, 1, &domain);
        let target = {
            let (queue, domain, table) = (queue.clone(), domain.clone(), table.clone());
            thread::spawn(move || {
                let pin = run_as(1);
                let switch = |_| {
                    table.walk();
                    SwitchFlushed::Yes
                };
                let next = next.map(|make| make());
                // SAFETY: the model keeps both domains to the end of its thread.
                unsafe {
                    match &next {
                        Some(next) => {
                            queue.activate(&pin, next, switch);
                            queue.deactivate(&pin, |_| SwitchFlushed::Yes)
                        }
                        None => queue.deactivate(&pin, switch),
                    }
                };
                drop(domain);
            })
        };
        let freed = invalidation(0).with_tables_freed();
        let mut ticket = queue.invalidate(&run_as(0), &domain, freed);
        if ticket.is_complete() {
            table.free();
        }
        target.join().unwrap();
        assert!(ticket.is_complete(), "a request was lost");
    });
}

#[test]
fn a_table_is_free_once_its_walker_has_left() {
    leaving_ends_the_walks(None);
}

#[test]
fn a_table_is_free_once_its_walker_has_switched() {
    leaving_ends_the_walks(Some(Domain::new));
}

/// CPU 1 is lazy, and walks a table of the domain all the same, as processors do ahead of the
/// program, until a flush has dropped what leads there. CPU 0 frees the table once its request is
/// complete.
fn lazy_walker(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let queue = queue(2);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        let table = Arc::new(Table(UnsafeCell::new(())));
        enter(&queue, 1, &domain);
        // SAFETY: the model touches nothing on CPU 1 before it leaves.
        unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
        let walker = {
            let (queue, domain, table) = (queue.clone(), domain.clone(), table.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    // The entry for page 0 stands for the way to the table.
                    if cached(&queue, 1, 0) == OLD {
                        table.walk();
                    }
                    deliver(&queue, 1);
                }
                drop(domain);
            })
        };
        queue.tlb().pte[0].store(NEW, Ordering::Relaxed);
        let freed = invalidation(0).with_tables_freed();
        let mut ticket = queue.invalidate(&run_as(0), &domain, freed);
        if ticket.is_complete() {
            table.free();
        }
        walker.join().unwrap();
        deliver(&queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
    });
}

#[test]
fn a_table_is_free_once_its_lazy_walker_has_flushed() {
    lazy_walker(|_| {});
}

/// CPU 1 goes off, loses an interrupt, and comes back, while CPU 0 changes kernel pages: nothing
/// waits for it for ever, and it comes back with an empty TLB.
#[test]
fn going_off_and_on_loses_nothing() {
    explore(|| {
        let queue = queue(2);
        touch(&queue, 1, 0);
        let target = {
            let queue = queue.clone();
            thread::spawn(move || {
                let pin = run_as(1);
                // SAFETY: the model touches nothing on CPU 1 while it is offline.
                unsafe { queue.cpu_offline(&pin) }.unwrap();
                queue.tlb().ipi[1].swap(false, Ordering::AcqRel);
                queue.cpu_online(&pin).unwrap();
                touch(&queue, 1, 0);
            })
        };
        let mut first = change(&queue, 0, queue.kernel(), 0);
        let mut second = change(&queue, 0, queue.kernel(), 1);
        target.join().unwrap();
        deliver(&queue, 1);
        assert!(first.is_complete() && second.is_complete(), "a request was lost");
        assert_eq!((touch(&queue, 1, 0), touch(&queue, 1, 1)), (NEW, NEW));
    });
}

/// An offline CPU's requests complete without it.
#[test]
fn going_off_completes_a_request() {
    explore_to(3, || {
        let queue = queue(2);
        let target = {
            let queue = queue.clone();
            // SAFETY: the model touches nothing on CPU 1 from then on.
            thread::spawn(move || unsafe { queue.cpu_offline(&run_as(1)) }.unwrap())
        };
        let mut ticket = change(&queue, 0, queue.kernel(), 0);
        let _ = ticket.is_complete();
        target.join().unwrap();
        assert!(ticket.is_complete(), "a request was lost");
    });
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn reading_the_generation_first() {
        leave_lazy(|queue| queue.inject(Some(Fault::ReadGenerationFirst)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn keeping_what_was_seen_of_the_last_domain() {
        activate(|queue| queue.inject(Some(Fault::KeepSeen)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn ceasing_to_be_lazy_without_a_barrier() {
        leave_lazy(|queue| queue.inject(Some(Fault::SkipBarrier)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn joining_without_a_barrier() {
        activate(|queue| queue.inject(Some(Fault::SkipBarrier)));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn sparing_lazy_cpus_where_tables_are_freed() {
        lazy_walker(|queue| queue.inject(Some(Fault::SpareLazy)));
    }
}
