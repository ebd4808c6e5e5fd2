//! Interrupt handlers that nest in switches, in the end of laziness and in `cpu_online`: they use no
//! translation whose removal is complete, and wait for no context that they have interrupted.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::cell::Cell;

use machine::*;
use topomem_shootdown::{Domain, Invalidation, Lazy, RootLoad, SwitchFlushed, WakersDue};

thread_local! {
    /// Which flush of CPU 1 the handler nests in, counted from 0.
    static NEST_IN: Cell<Option<usize>> = const { Cell::new(None) };
    static SEEN: Cell<Option<u64>> = const { Cell::new(None) };
    static DOMAIN: Cell<Option<&'static Domain>> = const { Cell::new(None) };
}

/// Is it time for the handler?
fn is_due() -> bool {
    match NEST_IN.get() {
        Some(0) => {
            NEST_IN.set(None);
            true
        }
        later => {
            NEST_IN.set(later.map(|flushes| flushes - 1));
            false
        }
    }
}

/// A handler of CPU 1 that needs a page of the kernel.
fn use_the_kernels(queue: &'static Queue) {
    if is_due() {
        let _ = queue.leave_lazy(&run_as(1));
        SEEN.set(Some(queue.tlb().access(0, 0)));
    }
}

/// A handler of CPU 1 that changes a page, of the kernel or of [`DOMAIN`], and waits for that.
fn change_and_wait(queue: &'static Queue) {
    if is_due() {
        let pin = run_as(1);
        let (space, domain) = DOMAIN.get().map_or((0, queue.kernel()), |domain| (1, domain));
        let version = queue.tlb().change(space, 0);
        let mut ticket = queue.invalidate(&pin, domain, Invalidation::pages(range(space, 0, 1)));
        ticket.block(&pin);
        assert!(ticket.is_complete(), "what has been waited for is complete");
        let cached = queue.tlb().cached(1, space, 0);
        assert!(cached.is_none_or(|cached| cached == version), "a stale translation after completion");
        SEEN.set(Some(version));
    }
}

fn nest(queue: &'static Queue, handler: fn(&'static Queue), flush: usize) {
    *queue.tlb().hook.lock().unwrap() = Some(handler);
    NEST_IN.set(Some(flush));
}

/// CPU 1 is lazy, and has missed a change of the kernel's page 0 that is complete.
fn missed_while_idle(queue: &'static Queue) {
    run_as(1);
    queue.tlb().access(0, 0);
    // SAFETY: CPU 1 touches nothing until it leaves.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
    queue.tlb().change(0, 0);
    let page = Invalidation::pages(range(0, 0, 1));
    assert!(queue.invalidate(&run_as(0), queue.kernel(), page).is_complete());
    run_as(1);
}

#[test]
fn a_handler_leaves_laziness_inside_the_end_of_laziness() {
    let queue = queue(2);
    missed_while_idle(queue);
    nest(queue, use_the_kernels, 0);
    let _ = queue.leave_lazy(&run_as(1));
    assert_eq!(SEEN.get(), Some(1), "a stale translation was used");
}

#[test]
fn a_handler_leaves_laziness_inside_each_flush_of_a_switch() {
    for flush in 0..2 {
        let queue = queue(2);
        missed_while_idle(queue);
        nest(queue, use_the_kernels, flush);
        // SAFETY: the domain lives for ever; nothing is loaded, and so all is to be flushed.
        unsafe { queue.activate(&run_as(1), domain(), |_| SwitchFlushed::No) };
        assert_eq!(SEEN.take(), Some(1), "a stale translation was used in flush {flush}");
    }
}

/// Inside the closures of `activate` and `deactivate` everything may be touched: the kernel's half,
/// and the space whose root is loaded.
#[test]
fn a_switch_of_a_lazy_cpu_runs_on_clean_translations() {
    for activates in [true, false] {
        let queue = queue(2);
        let (last, next) = (domain(), domain());
        enter(queue, 1, 1, last);
        missed_while_idle(queue);
        assert!(issue(queue, 1, 1, last).is_complete(), "a lazy CPU is not waited for");
        let pin = run_as(1);
        let mut seen = None;
        let switch = |load| {
            seen = Some((queue.tlb().access(0, 0), queue.tlb().access(1, 0)));
            queue.tlb().load_root(load)
        };
        // SAFETY: the domains live for ever, and the switch is the machine's own.
        unsafe {
            if activates { queue.activate(&pin, next, switch) } else { queue.deactivate(&pin, switch) }
        };
        assert_eq!(seen, Some((1, 1)), "a stale translation was used");
    }
}

/// A handler that interrupts the switch after it has ceased to be lazy, before the root is loaded.
#[test]
fn a_handler_in_a_switch_finds_the_cpu_busy() {
    let queue = queue(2);
    missed_while_idle(queue);
    let pin = run_as(1);
    // SAFETY: the domain lives for ever, and the switch is the machine's own.
    unsafe {
        queue.activate(&pin, domain(), |load| {
            assert_eq!(queue.leave_lazy(&run_as(1)), WakersDue::No);
            assert_eq!(queue.tlb().access(0, 0), 1);
            queue.tlb().load_root(load)
        });
    }
}

/// The idle loop's laziness ends with `cpu_offline`, whose handlers use the kernel's half until then.
#[test]
fn going_offline_ends_laziness_first() {
    let queue = queue(2);
    missed_while_idle(queue);
    nest(queue, use_the_kernels, 0);
    // SAFETY: CPU 1 touches nothing while it is offline.
    unsafe { queue.cpu_offline(&run_as(1)) }.unwrap();
    assert_eq!(SEEN.get(), Some(1), "a stale translation was used");
}

/// A CPU that was lazy while it was offline is not when it is back.
#[test]
fn nobody_comes_online_lazy() {
    let queue = queue(1);
    // SAFETY: CPU 1 touches nothing until it is online.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
    queue.cpu_online(&run_as(1)).unwrap();
    let page = Invalidation::pages(range(0, 0, 1));
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), page);
    assert!(!ticket.is_complete() && queue.tlb().deliver(queue, 1) && ticket.is_complete());
}

/// A refused `cpu_online` leaves the CPU lazy, and its pending word alone.
#[test]
fn a_refused_cpu_online_changes_nothing() {
    let queue = queue(2);
    // SAFETY: CPU 1 touches nothing until it leaves.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
    queue.cpu_online(&run_as(1)).unwrap_err();
    let page = Invalidation::pages(range(0, 0, 1));
    assert!(queue.invalidate(&run_as(0), queue.kernel(), page).is_complete());
    assert_eq!(queue.tlb().sent(), 0);
}

#[test]
fn a_handler_waits_inside_cpu_online() {
    let queue = offline_queue();
    queue.cpu_online(&run_as(0)).unwrap();
    nest(queue, change_and_wait, 0);
    // CPU 0 need not answer: it is lazy.
    // SAFETY: CPU 0 touches nothing.
    unsafe { queue.enter_lazy(&run_as(0), Lazy::Idle) };
    queue.cpu_online(&run_as(1)).unwrap();
    assert_eq!(SEEN.get(), Some(1));
    // What came later than the handler is served as always.
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    assert!(queue.tlb().deliver(queue, 1) && ticket.is_complete());
}

/// A CPU on its way online answers by its handler: who waits need not wait for more than that.
#[test]
fn a_handler_answers_inside_cpu_online() {
    fn ask_and_answer(queue: &'static Queue) {
        if is_due() {
            let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
            assert!(!ticket.is_complete() && queue.tlb().deliver(queue, 1) && ticket.is_complete());
            run_as(1);
            SEEN.set(Some(0));
        }
    }
    let queue = offline_queue();
    queue.cpu_online(&run_as(0)).unwrap();
    nest(queue, ask_and_answer, 0);
    queue.cpu_online(&run_as(1)).unwrap();
    assert_eq!(SEEN.get(), Some(0));
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    assert!(!ticket.is_complete() && queue.tlb().deliver(queue, 1) && ticket.is_complete());
}

/// The last space and the next, inside the closure, before the root is loaded and after it.
#[test]
fn a_handler_waits_inside_a_switch() {
    let both = |next: bool, loaded: bool, tagged: bool| {
        let queue = queue(2);
        if tagged {
            let features = topomem_shootdown::TlbFeatures::NONE.with_asids(2);
            queue.tlb().features.store(features.to_bits(), std::sync::atomic::Ordering::Relaxed);
        }
        let spaces = [domain(), domain()];
        enter(queue, 1, 1, spaces[0]);
        DOMAIN.set(Some(spaces[usize::from(next)]));
        let interrupt = || {
            NEST_IN.set(Some(0));
            change_and_wait(queue);
        };
        // The model's space 1 is both domains': what counts is that nothing old stays.
        let switch = |load: RootLoad| {
            if !loaded {
                interrupt();
            }
            let flushed = queue.tlb().load_root(load);
            queue.tlb().access(1, 0);
            if loaded {
                interrupt();
            }
            flushed
        };
        // SAFETY: the domains live for ever, and the switch is the machine's own.
        unsafe { queue.activate(&run_as(1), spaces[1], switch) };
        assert_eq!(SEEN.take(), Some(1));
        let current = queue.tlb().access(1, 0);
        assert_eq!(current, 1, "a stale translation after completion");
    };
    for case in 0..8 {
        both(case & 1 != 0, case & 2 != 0, case & 4 != 0);
    }
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation was used")]
    fn busy_before_catching_up() {
        let queue = queue(2);
        queue.inject(Some(Fault::BusyBeforeCatchingUp));
        missed_while_idle(queue);
        nest(queue, use_the_kernels, 0);
        let _ = queue.leave_lazy(&run_as(1));
        assert_eq!(SEEN.get(), Some(1), "a stale translation was used");
    }
}
