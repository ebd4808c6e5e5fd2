//! Threads as CPUs on the software machine, interrupts delivered when their CPU gets to it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use machine::*;
use topomem_shootdown::{Domain, Invalidation, Lazy};

const ROUNDS: usize = if cfg!(miri) { 3 } else { 2_000 };

/// Two CPUs change pages that both use and wait for each other. Neither takes an interrupt.
#[test]
fn masked_cpus_wait_for_each_other() {
    let queue = queue(2);
    let domain = domain();
    thread::scope(|scope| {
        for index in 0..2 {
            scope.spawn(move || {
                let pin = run_as(index);
                // SAFETY: the domain lives for ever.
                unsafe { queue.activate(&pin, domain, || queue.tlb().load_root()) };
                for round in 0..ROUNDS {
                    queue.tlb().access(1, round % PAGES);
                    let version = queue.tlb().change(1, index);
                    let page = Invalidation::pages(range(1, index, 1));
                    queue.invalidate(&pin, domain, page).wait(&pin);
                    let other = queue.tlb().cached(1 - index, 1, index);
                    assert!(other.is_none_or(|cached| cached >= version));
                }
                // SAFETY: the root is loaded by the closure.
                unsafe { queue.deactivate(&pin, || queue.tlb().load_root()) };
            });
        }
    });
}

/// CPU 0 changes pages and waits; the others use them, switch, are lazy, go off and on, and
/// never use what was removed.
#[test]
fn nothing_stale_after_a_wait() {
    let queue = offline_queue();
    let domains = [queue.kernel(), domain(), domain()];
    let floor: [[AtomicU64; PAGES]; SPACES] = Default::default();
    let done = AtomicBool::new(false);
    queue.cpu_online(&run_as(0)).unwrap();
    thread::scope(|scope| {
        for index in 1..3 {
            let (floor, done) = (&floor, &done);
            scope.spawn(move || target(queue, index, domains, floor, done));
        }
        let pin = run_as(0);
        for round in 0..ROUNDS {
            let (space, page) = (round % SPACES, round / 3 % PAGES);
            let version = queue.tlb().change(space, page);
            let mut invalidation = Invalidation::pages(range(space, page, 1));
            if round.is_multiple_of(7) {
                invalidation = invalidation.with_tables_freed();
            }
            queue.invalidate(&pin, domains[space], invalidation).wait(&pin);
            floor[space][page].store(version, Ordering::SeqCst);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(queue.tlb().reports.lock().unwrap().len() <= ROUNDS * 4);
}

fn target(
    queue: &'static Queue,
    index: usize,
    domains: [&'static Domain; SPACES],
    floor: &[[AtomicU64; PAGES]; SPACES],
    done: &AtomicBool,
) {
    let pin = run_as(index);
    let use_page = |space: usize, page: usize| {
        let least = floor[space][page].load(Ordering::SeqCst);
        assert!(queue.tlb().access(space, page) >= least, "a stale translation");
    };
    let mut turn = index;
    while !done.load(Ordering::Relaxed) {
        queue.cpu_online(&pin).unwrap();
        for _ in 0..40 {
            turn += 1;
            let space = 1 + turn / 8 % 2;
            // SAFETY: the domains live for ever, and the machine's root is loaded.
            unsafe { queue.activate(&pin, domains[space], || queue.tlb().load_root()) };
            use_page(space, turn % PAGES);
            use_page(0, turn % PAGES);
            if turn.is_multiple_of(5) {
                // SAFETY: nothing is touched before the CPU leaves.
                unsafe { queue.enter_lazy(&pin, Lazy::Idle) };
                queue.wake_completed(&pin);
                thread::yield_now();
                queue.leave_lazy(&pin);
                use_page(0, turn % PAGES);
                use_page(space, turn % PAGES);
            }
            if turn.is_multiple_of(3) {
                queue.tlb().deliver(queue, index);
            }
        }
        // SAFETY: the root is loaded; nothing is touched before the CPU is online again.
        unsafe {
            queue.deactivate(&pin, || queue.tlb().load_root());
            queue.cpu_offline(&pin).unwrap();
        }
        thread::yield_now();
    }
}
