//! Models of the rule of completion: changes that are recorded under a lock and announced later, moved
//! pages, changes that find nothing to change, and batches that stay open.
#![cfg(loom)]

mod loom_model;

use loom::sync::atomic::Ordering;
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use loom_model::*;
#[cfg(feature = "fault-injection")]
use topomem_shootdown::Fault;
use topomem_shootdown::{ChangeRecord, Domain, Lazy, PageRange, PageSize, Ticket, VirtAddr};

/// The lock of the page table's entries. It says whether page 0 has been changed.
type Entries = Mutex<bool>;

/// CPU 1 has cached both pages, and is interrupted at any time.
#[derive(Clone)]
struct Model {
    queue: Arc<Queue>,
    domain: Arc<Domain>,
    entries: Arc<Entries>,
}

impl Model {
    fn new(prepare: fn(&Queue)) -> Model {
        let queue = queue(3);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        Model { queue, domain, entries: Arc::new(Mutex::new(false)) }
    }

    /// CPU 1 takes its interrupt and uses page 0.
    fn user(&self) -> thread::JoinHandle<()> {
        let queue = self.queue.clone();
        thread::spawn(move || {
            deliver(&queue, 1);
            touch(&queue, 1, 0);
        })
    }

    /// CPU 0 changes page 0 and records that under the lock; page 1 may have its frame from then on.
    fn change(&self) -> ChangeRecord<'_> {
        let mut entries = self.entries.lock().unwrap();
        *entries = true;
        self.queue.tlb().pte[0].store(NEW, Ordering::Relaxed);
        self.queue.record(&self.domain, invalidation(0))
    }

    /// No CPU has the old translation of page 0 if `ticket` is complete, and it completes once the
    /// interrupts are delivered.
    fn check(&self, ticket: &mut Ticket<'_, Machine>, user: thread::JoinHandle<()>) {
        check_complete(&self.queue, ticket, 1, 0);
        user.join().unwrap();
        deliver(&self.queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
        assert_eq!(touch(&self.queue, 1, 0), NEW);
    }
}

fn page(number: u64) -> PageRange {
    PageRange::page(VirtAddr::new_truncate(number << 12), PageSize::Size4KiB)
}

/// CPU 2 looks at what CPU 0 has done to page 0, with the entries locked.
fn look(entries: &Entries) -> Option<MutexGuard<'_, bool>> {
    let entries = entries.lock().unwrap();
    let changed = *entries;
    changed.then_some(entries)
}

/// CPU 0 moves page 0 to page 1. CPU 2 unmaps page 1 as soon as it finds the frame there, and frees the
/// frame when that is complete: CPU 1 must not use it as page 0.
fn moved_page(prepare: fn(&Queue)) {
    explore_to(3, move || {
        let model = Model::new(prepare);
        let user = model.user();
        let mover = {
            let model = model.clone();
            thread::spawn(move || {
                let record = model.change();
                let _ = model.queue.announce(&run_as(0), record).detach();
            })
        };
        run_as(2);
        if let Some(entries) = look(&model.entries) {
            model.queue.tlb().pte[1].store(NEW, Ordering::Relaxed);
            let record = model.queue.record(&model.domain, invalidation(1));
            drop(entries);
            let mut ticket = model.queue.announce(&run_as(2), record);
            model.check(&mut ticket, user);
        } else {
            user.join().unwrap();
        }
        mover.join().unwrap();
    });
}

/// CPU 2 is about to make the change that CPU 0 has just made: it waits for that one.
fn same_change(prepare: fn(&Queue)) {
    explore(move || {
        let model = Model::new(prepare);
        let user = model.user();
        let first = {
            let model = model.clone();
            thread::spawn(move || {
                let record = model.change();
                let _ = model.queue.announce(&run_as(0), record).detach();
            })
        };
        run_as(2);
        if look(&model.entries).is_some() {
            let mut ticket = model.queue.pending_in(&run_as(2), &model.domain, page(0));
            model.check(&mut ticket, user);
        } else {
            user.join().unwrap();
        }
        first.join().unwrap();
    });
}

/// CPU 0 keeps its batch open to the end: CPU 2's change of page 1, or its ticket for what is pending,
/// completes all the same, and not before CPU 1 has dropped page 0.
fn open_batch(pending: bool) {
    explore(move || {
        let model = Model::new(|_| {});
        let mut batch = model.queue.batch(&model.domain);
        run_as(0);
        model.queue.tlb().pte[0].store(NEW, Ordering::Relaxed);
        batch.record(invalidation(0));
        let user = model.user();
        let mut ticket = if pending {
            model.queue.pending_in(&run_as(2), &model.domain, page(0))
        } else {
            change(&model.queue, 2, &model.domain, 1)
        };
        model.check(&mut ticket, user);
        let mut last = batch.issue(&run_as(0));
        deliver(&model.queue, 1);
        assert!(last.is_complete());
    });
}

/// CPU 1 ceases to be lazy and uses page 0 while CPU 0 records a change of it and CPU 2 takes a ticket for
/// what is pending: either CPU 1 reads the new generation, or CPU 2 sees that it is not lazy.
#[test]
fn a_cpu_that_is_not_lazy_any_more_is_seen_or_sees() {
    explore_to(3, || {
        let queue = queue(3);
        let domain = Arc::new(Domain::new());
        enter(&queue, 1, &domain);
        // SAFETY: the model touches nothing on CPU 1 before it leaves.
        unsafe { queue.enter_lazy(&run_as(1), Lazy::Space) };
        let user = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.leave_lazy(&run_as(1));
                touch(&queue, 1, 0)
            })
        };
        run_as(0);
        queue.tlb().pte[0].store(NEW, Ordering::Relaxed);
        let record = queue.record(&domain, invalidation(0));
        let mut ticket = queue.pending_in(&run_as(2), &domain, page(0));
        let complete = ticket.is_complete();
        user.join().unwrap();
        assert!(!complete || cached(&queue, 1, 0) != OLD, "a stale translation after completion");
        deliver(&queue, 1);
        assert!(ticket.is_complete(), "a request was lost");
        assert_ne!(cached(&queue, 1, 0), OLD);
        let _ = queue.announce(&run_as(0), record).detach();
    });
}

#[test]
fn a_moved_page_is_gone_from_its_old_place() {
    moved_page(|_| {});
}

#[test]
fn the_same_change_waits_for_the_first() {
    same_change(|_| {});
}

#[test]
fn a_change_beside_an_open_batch() {
    open_batch(false);
}

#[test]
fn what_is_pending_in_an_open_batch() {
    open_batch(true);
}

#[cfg(feature = "fault-injection")]
mod caught {
    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn recorded_without_the_lock() {
        moved_page(|queue| queue.inject(Some(Fault::RecordUnlocked)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn the_same_change_recorded_without_the_lock() {
        same_change(|queue| queue.inject(Some(Fault::RecordUnlocked)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn completion_of_the_own_change_only() {
        same_change(|queue| queue.inject(Some(Fault::OwnChangeOnly)));
    }
}
