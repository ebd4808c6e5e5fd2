//! CPUs that are lazy, switch, leave, go off and on.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use std::sync::atomic::Ordering;

use machine::*;
use topomem_shootdown::{CpuState, Invalidation, Lazy, OfflineError, OnlineError, PlaceError, SwitchFlushed};

#[test]
fn a_lazy_cpu_is_skipped_and_catches_up() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    // SAFETY: CPU 1 touches nothing until it leaves.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Space) };
    assert!(issue(queue, 1, 1, domain).is_complete());
    assert_eq!((queue.tlb().sent(), queue.stats(cpu(0)).elided_lazy), (0, 1));
    let mut kernel = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    assert_eq!(queue.tlb().sent(), 1, "lazy in its space is not lazy in the kernel's");
    queue.tlb().deliver(queue, 1);
    assert!(kernel.is_complete());
    queue.leave_lazy(&run_as(1));
    assert_eq!(queue.tlb().cached(1, 1, 0), None);
}

#[test]
fn an_idle_cpu_is_skipped_by_the_kernels_domain_too() {
    let queue = queue(2);
    let pin = run_as(1);
    queue.tlb().access(0, 0);
    // SAFETY: CPU 1 touches nothing until it leaves.
    unsafe { queue.enter_lazy(&pin, Lazy::Idle) };
    queue.tlb().change(0, 0);
    let page = Invalidation::pages(range(0, 0, 1));
    assert!(queue.invalidate(&run_as(0), queue.kernel(), page).is_complete());
    assert_eq!(queue.tlb().sent(), 0);
    queue.leave_lazy(&run_as(1));
    assert_eq!(queue.tlb().access(0, 0), 1);
}

#[test]
fn freed_tables_are_waited_for_on_lazy_cpus() {
    let queue = queue(2);
    let domain = domain();
    enter(queue, 1, 1, domain);
    // SAFETY: CPU 1 touches nothing until it leaves.
    unsafe { queue.enter_lazy(&run_as(1), Lazy::Idle) };
    let freed = Invalidation::pages(range(1, 0, 1)).with_tables_freed();
    let mut ticket = queue.invalidate(&run_as(0), domain, freed);
    assert!(!ticket.is_complete());
    // A later change of entries only doesn't let the older one off.
    let mut both = ticket.merge(issue(queue, 1, 2, domain)).unwrap();
    assert!(!both.is_complete());
    assert!(queue.tlb().deliver(queue, 1));
    assert!(both.is_complete());
}

#[test]
fn leaving_completes_and_makes_idle() {
    let queue = queue(2);
    let (old, new) = (domain(), domain());
    enter(queue, 1, 1, old);
    let request = issue(queue, 1, 1, old).detach();
    assert!(!queue.is_done(old, request) && !old.is_idle());
    enter(queue, 1, 2, new);
    assert!(queue.is_done(old, request) && old.is_idle());
    // SAFETY: the root is loaded by the closure.
    unsafe { queue.deactivate(&run_as(1), |load| queue.tlb().load_root(load)) };
    assert!(new.is_idle());
}

#[test]
fn an_interrupt_in_a_switch_is_not_lost() {
    let queue = queue(2);
    let domain = domain();
    let pin = run_as(1);
    let mut request = None;
    // SAFETY: the domain lives for ever.
    unsafe {
        queue.activate(&pin, domain, |load| {
            queue.tlb().load_root(load);
            queue.tlb().access(1, 0);
            request = Some(issue(queue, 1, 1, domain).detach());
            queue.tlb().deliver(queue, 1);
            assert!(!queue.is_done(domain, request.unwrap()));
            run_as(1);
            SwitchFlushed::Yes
        });
    }
    assert!(queue.is_done(domain, request.unwrap()));
    assert_eq!(queue.tlb().cached(1, 1, 0), None);
}

#[test]
fn offline_cpus_are_not_waited_for() {
    let queue = queue(2);
    let domain = domain();
    assert_eq!(queue.cpu_online(&run_as(1)), Err(OnlineError::AlreadyOnline));
    enter(queue, 1, 1, domain);
    let pin = run_as(1);
    // SAFETY: CPU 1 touches nothing while it is offline.
    assert_eq!(unsafe { queue.cpu_offline(&pin) }, Err(OfflineError::SpaceActive));
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    let pin = run_as(1);
    // SAFETY: as above, and the root is loaded by the closure.
    unsafe {
        queue.deactivate(&pin, |load| queue.tlb().load_root(load));
        assert!(!ticket.is_complete());
        queue.cpu_offline(&pin).unwrap();
        assert_eq!(queue.cpu_offline(&pin), Err(OfflineError::NotOnline));
    }
    assert!(ticket.is_complete());
    // Its interrupt was lost; back again, it gets the next.
    queue.tlb().raised[1].store(false, Ordering::Relaxed);
    queue.cpu_online(&run_as(1)).unwrap();
    let mut ticket = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain());
    assert!(queue.tlb().deliver(queue, 1) && ticket.is_complete());
}

#[test]
fn going_online_flushes_everything() {
    let queue = offline_queue();
    let pin = run_as(1);
    queue.tlb().access(0, 0);
    queue.cpu_online(&pin).unwrap();
    assert_eq!(queue.tlb().cached(1, 0, 0), None);
}

#[test]
fn a_cpu_has_one_state_and_a_state_one_cpu() {
    let queue = offline_queue();
    let states: [&'static CpuState; 2] = [forever(CpuState::new()), forever(CpuState::new())];
    // The machine's CPUs have their states, which these two are beyond.
    let [first, second] = [cpu(CPUS), cpu(CPUS + 1)];
    assert_eq!(queue.cpu_online(&run_as(CPUS)), Err(OnlineError::NotPlaced));
    assert_eq!(queue.place(first, states[0]), Ok(()));
    assert_eq!(queue.place(second, states[0]), Err(PlaceError::StateInUse));
    assert_eq!(queue.place(first, states[1]), Err(PlaceError::CpuHasState));
    assert_eq!((queue.is_placed(first), queue.is_placed(second)), (true, false));
    assert_eq!(queue.place(second, states[1]), Ok(()), "a refused state can serve elsewhere");
    // A CPU without a state has counted nothing, and may be interrupted.
    let _ = queue.on_ipi(&run_as(CPUS + 2));
    assert_eq!(queue.stats(first).ipis_received, 0);
    assert!(queue.stats(cpu(CPUS + 2)).ipis_received >= 1, "CPUs without a state share one");
}
