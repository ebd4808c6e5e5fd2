//! What is done on machines whose TLBs tag, remove selectively, or hear broadcasts, step by step.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::num::NonZeroU16;
use std::sync::atomic::Ordering;

use machine::*;
use topomem_shootdown::{Domain, Invalidation, Stats, Tables, TlbFeatures};

fn tagged() -> TlbFeatures {
    TlbFeatures::NONE.with_asids(2)
}

fn broadcasting(features: TlbFeatures) -> TlbFeatures {
    features.with_broadcast(NonZeroU16::new(3).unwrap())
}

/// A queue with `cpus` online on a machine with `features`.
fn offering(cpus: usize, features: TlbFeatures) -> &'static Queue {
    let queue = offline_queue();
    queue.tlb().features.store(features.to_bits(), Ordering::Relaxed);
    for index in 0..cpus {
        queue.cpu_online(&run_as(index)).unwrap();
    }
    run_as(0);
    queue
}

/// How many switches of CPU 1 kept its ASID's translations, and how many flushed them.
fn switches(queue: &Queue) -> (u64, u64) {
    let Stats { asids_kept, asids_flushed, .. } = queue.stats(cpu(1));
    (asids_kept, asids_flushed)
}

/// CPU 1 takes up `space` again.
fn go_back(queue: &Queue, space: usize, domain: &'static Domain) {
    // SAFETY: the domain lives for ever, and the switch is the machine's own.
    unsafe { queue.activate(&run_as(1), domain, |load| queue.tlb().load_root(load)) };
    let stale = (0..PAGES).any(|page| {
        let now = queue.tlb().entries[space][page].load(Ordering::Relaxed);
        queue.tlb().cached(1, space, page).is_some_and(|cached| cached < now)
    });
    assert!(!stale, "a stale translation is usable");
}

#[test]
fn a_space_that_did_not_change_is_kept() {
    let queue = offering(2, tagged());
    let (one, other) = (domain(), domain());
    enter(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    go_back(queue, 1, one);
    assert_eq!((switches(queue), queue.tlb().cached(1, 1, 3)), ((1, 2), Some(0)));
}

#[test]
fn a_space_that_was_left_is_not_waited_for_and_compared() {
    let queue = offering(2, tagged());
    let (one, other) = (domain(), domain());
    enter(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    assert!(issue(queue, 1, 1, one).is_complete());
    assert_eq!(queue.tlb().sent(), 0);
    go_back(queue, 1, one);
    assert_eq!((switches(queue), queue.tlb().cached(1, 1, 3)), ((0, 3), None));
}

#[test]
fn few_changes_are_flushed_page_by_page() {
    let queue = offering(2, tagged().with_selective());
    let (one, other) = (domain(), domain());
    enter(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    assert!(issue(queue, 1, 2, one).is_complete());
    let flushed = queue.stats(cpu(1)).pages_flushed;
    go_back(queue, 1, one);
    assert_eq!((switches(queue), queue.stats(cpu(1)).pages_flushed - flushed), ((1, 2), 2));
    assert_eq!((queue.tlb().cached(1, 1, 1), queue.tlb().cached(1, 1, 2)), (None, Some(0)));
}

#[test]
fn many_changes_and_freed_tables_flush_the_asid() {
    for (times, tables) in [(40, Tables::Kept), (1, Tables::Freed)] {
        let queue = offering(2, tagged().with_selective());
        let (one, other) = (domain(), domain());
        enter(queue, 1, 1, one);
        enter(queue, 1, 2, other);
        for _ in 0..times {
            queue.tlb().change(1, 0);
            let page = Invalidation::pages(range(1, 0, 1));
            let page = if tables == Tables::Freed { page.with_tables_freed() } else { page };
            assert!(queue.invalidate(&run_as(0), one, page).is_complete());
        }
        go_back(queue, 1, one);
        assert_eq!((switches(queue), queue.tlb().cached(1, 1, 3)), ((0, 3), None));
    }
}

#[test]
fn a_third_space_takes_the_asid_that_was_left_first() {
    let queue = offering(2, tagged());
    let (one, other, third) = (domain(), domain(), domain());
    enter(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    go_back(queue, 1, third);
    go_back(queue, 2, other);
    assert_eq!(switches(queue), (1, 3));
    go_back(queue, 1, one);
    assert_eq!(switches(queue), (1, 4));
}

#[test]
fn coming_online_forgets_all() {
    let queue = offering(2, tagged());
    let one = domain();
    enter(queue, 1, 1, one);
    let pin = run_as(1);
    // SAFETY: the CPU touches nothing while it is off.
    unsafe {
        queue.deactivate(&pin, |load| queue.tlb().load_root(load));
        queue.cpu_offline(&pin).unwrap();
    }
    queue.cpu_online(&pin).unwrap();
    go_back(queue, 1, one);
    assert_eq!(switches(queue), (0, 2));
}

#[test]
fn freed_tables_of_the_kernel_flush_all_asids() {
    for in_batch in [false, true] {
        let queue = offering(2, tagged());
        enter(queue, 1, 1, domain());
        queue.tlb().access(0, 0);
        let freed = Invalidation::pages(range(0, 0, 1)).with_tables_freed();
        let mut ticket = if in_batch {
            let mut batch = queue.batch(queue.kernel());
            batch.record(freed);
            batch.issue(&run_as(0))
        } else {
            queue.invalidate(&run_as(0), queue.kernel(), freed)
        };
        let before = queue.tlb().flushes[1].all.load(Ordering::Relaxed);
        queue.tlb().deliver(queue, 1);
        assert!(ticket.is_complete());
        assert_eq!(queue.tlb().flushes[1].all.load(Ordering::Relaxed), before + 1);
    }
}

#[test]
fn a_broadcast_interrupts_nobody_and_is_complete() {
    for features in [TlbFeatures::NONE, tagged()] {
        let queue = offering(2, broadcasting(features));
        let one = domain();
        enter(queue, 1, 1, one);
        let mut ticket = issue(queue, 1, 7, one);
        assert!(ticket.is_complete() && queue.is_done(one, ticket.request()));
        assert_eq!((queue.tlb().sent(), queue.stats(cpu(0)).broadcasts), (0, 1));
        assert_eq!((queue.tlb().cached(1, 1, 6), queue.tlb().cached(1, 1, 7)), (None, Some(0)));
    }
}

#[test]
fn a_broadcast_reaches_what_was_left() {
    let queue = offering(3, broadcasting(tagged().with_selective()));
    let (one, other) = (domain(), domain());
    enter(queue, 2, 1, one);
    enter(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    assert!(issue(queue, 1, 1, one).is_complete());
    go_back(queue, 1, one);
    assert_eq!((switches(queue), queue.tlb().cached(1, 1, 0)), ((1, 2), None));
}

#[test]
fn what_pages_cannot_name_is_not_broadcast() {
    let queue = offering(2, broadcasting(tagged()));
    let one = domain();
    enter(queue, 1, 1, one);
    queue.set_threshold(4);
    let freed = Invalidation::pages(range(1, 0, 1)).with_tables_freed();
    for invalidation in [freed, Invalidation::pages(range(1, 0, 5)), Invalidation::domain()] {
        let mut ticket = queue.invalidate(&run_as(0), one, invalidation);
        assert!(!ticket.is_complete());
        assert!(queue.tlb().deliver(queue, 1));
        assert!(ticket.is_complete());
    }
    // An empty batch stands for what was issued before.
    let before = queue.invalidate(&run_as(0), one, freed).detach();
    let mut ticket = queue.batch(one).issue(&run_as(0));
    assert!(!ticket.is_complete() && !queue.is_done(one, before));
    queue.tlb().deliver(queue, 1);
    assert!(ticket.is_complete());
    assert_eq!(queue.stats(cpu(0)).broadcasts, 0);
}

#[test]
fn the_kernel_broadcasts_everything() {
    let queue = offering(2, broadcasting(tagged()));
    enter(queue, 1, 1, domain());
    let freed = Invalidation::pages(range(0, 0, 1)).with_tables_freed();
    for invalidation in [freed, Invalidation::domain(), Invalidation::everything()] {
        queue.tlb().access(0, 0);
        run_as(1);
        queue.tlb().access(0, 0);
        queue.tlb().access(1, 0);
        assert!(queue.invalidate(&run_as(0), queue.kernel(), invalidation).is_complete());
        assert_eq!((queue.tlb().cached(1, 0, 0), queue.tlb().cached(1, 1, 0)), (None, None));
    }
    assert_eq!(queue.tlb().sent(), 0);
}

#[test]
fn freed_tables_of_the_kernel_flush_all_asids_of_the_issuer() {
    let queue = offering(1, tagged());
    enter(queue, 0, 1, domain());
    let before = queue.tlb().flushes[0].all.load(Ordering::Relaxed);
    let freed = Invalidation::pages(range(0, 0, 1)).with_tables_freed();
    assert!(queue.invalidate(&run_as(0), queue.kernel(), freed).is_complete());
    assert_eq!(queue.tlb().flushes[0].all.load(Ordering::Relaxed), before + 1);
}

#[test]
fn what_a_cpu_missed_before_it_left_is_flushed_at_its_return() {
    let queue = offering(2, tagged());
    let (one, other) = (domain(), domain());
    enter(queue, 1, 1, one);
    let mut ticket = issue(queue, 1, 1, one);
    enter(queue, 1, 2, other);
    assert!(ticket.is_complete(), "it has left");
    go_back(queue, 1, one);
    assert_eq!(switches(queue), (0, 3));
}

#[test]
fn nobody_waits_for_the_generation_of_a_broadcast() {
    let queue = offering(2, broadcasting(tagged()));
    let one = domain();
    enter(queue, 1, 1, one);
    let freed = Invalidation::pages(range(1, 0, 1)).with_tables_freed();
    let answered = queue.invalidate(&run_as(0), one, freed);
    queue.tlb().deliver(queue, 1);
    let mut both = issue(queue, 1, 1, one).merge(answered).unwrap();
    assert!(both.is_complete() && queue.is_done(one, both.request()));
}

#[test]
fn a_complete_broadcast_lets_off_nobody_else() {
    let queue = offering(2, broadcasting(tagged()));
    let one = domain();
    enter(queue, 1, 1, one);
    let freed = Invalidation::pages(range(1, 0, 1)).with_tables_freed();
    let outstanding = queue.invalidate(&run_as(0), one, freed);
    let mut both = issue(queue, 1, 1, one).merge(outstanding).unwrap();
    assert!(!both.is_complete() && !queue.is_done(one, both.request()));
    queue.tlb().deliver(queue, 1);
    assert!(both.is_complete());
}
