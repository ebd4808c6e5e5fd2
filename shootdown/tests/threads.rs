//! Threads as CPUs on the software machine, interrupts delivered when their CPU gets to it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
#[cfg(feature = "fault-injection")]
use std::time::Duration;

use machine::*;
use topomem_shootdown::{Domain, Invalidation, Lazy};

const ROUNDS: usize = if cfg!(miri) { 3 } else { 2_000 };

/// Each needs the other's thread to run.
const WAITS: usize = if cfg!(miri) { 3 } else { 200 };

/// CPU 0 changes pages of a space, CPU 1 pages of the kernel; both use both, take no interrupt,
/// and wait for each other. (In one domain whoever issues later has served the earlier by that.)
/// `rounds` counts the waits that have ended.
fn wait_for_each_other(queue: &'static Queue, rounds: &AtomicUsize) {
    let domain = domain();
    let domains = [domain, queue.kernel()];
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        for (index, space) in [(0, 1), (1, 0)] {
            let ready = &ready;
            scope.spawn(move || {
                let pin = run_as(index);
                // SAFETY: the domain lives for ever.
                unsafe { queue.activate(&pin, domain, |load| queue.tlb().load_root(load)) };
                ready.wait();
                for round in 0..WAITS {
                    let page = round % PAGES;
                    queue.tlb().access(0, page);
                    queue.tlb().access(1, page);
                    let version = queue.tlb().change(space, page);
                    let change = Invalidation::pages(range(space, page, 1));
                    queue.invalidate(&pin, domains[index], change).wait(&pin);
                    let other = queue.tlb().cached(1 - index, space, page);
                    // Once it is offline it may keep what it had of the kernel.
                    let is_gone = !queue.kernel().cpus().contains(cpu(1 - index));
                    assert!(is_gone || other.is_none_or(|cached| cached >= version));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                // SAFETY: the root is loaded by the closure; nothing is touched from then on.
                unsafe {
                    queue.deactivate(&pin, |load| queue.tlb().load_root(load));
                    queue.cpu_offline(&pin).unwrap();
                }
            });
        }
    });
}

#[test]
fn masked_cpus_wait_for_each_other() {
    wait_for_each_other(queue(2), &AtomicUsize::new(0));
}

/// Without its poll a waiter that takes no interrupt answers nobody: both stand still until the
/// mistake is mended.
#[cfg(feature = "fault-injection")]
#[test]
fn waiting_without_polling_is_a_deadlock() {
    let queue = queue(2);
    queue.inject(Some(topomem_shootdown::Fault::WaitWithoutPolling));
    let rounds = AtomicUsize::new(0);
    thread::scope(|scope| {
        let cpus = scope.spawn(|| wait_for_each_other(queue, &rounds));
        let mut before = usize::MAX;
        let stands_still = loop {
            thread::sleep(Duration::from_millis(100));
            let now = rounds.load(Ordering::Relaxed);
            let reports = queue.tlb().reports.lock().unwrap();
            if now == before && (0..2).all(|index| reports.iter().any(|report| report.cpu == cpu(index))) {
                break true;
            }
            before = now;
            if cpus.is_finished() {
                break false;
            }
        };
        queue.inject(None);
        assert!(stands_still, "nobody waited in vain");
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
            unsafe { queue.activate(&pin, domains[space], |load| queue.tlb().load_root(load)) };
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
            queue.deactivate(&pin, |load| queue.tlb().load_root(load));
            queue.cpu_offline(&pin).unwrap();
        }
        thread::yield_now();
    }
}
