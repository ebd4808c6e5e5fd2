//! CPUs that spin with interrupts masked, for each other and for locks that the service knows
//! nothing of: who polls while it spins keeps nobody waiting.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topomem::sim::Sim;
use topomem::{CpuId, FrameRequest, PageRange, PageSize, Platform, Protection};

/// A turn of a spin loop.
#[derive(Clone, Copy)]
enum Turn {
    /// [`Platform::relax`].
    Polling,
    /// Whatever a kernel's own lock does that was not told.
    Bare,
}

/// CPU 0 holds a lock of the kernel's own while it waits for an unmapping that concerns CPU 1,
/// which spins for that lock with interrupts masked. The CPUs that were reported meanwhile; after
/// a report CPU 1 gives the lock up.
fn spin_for_a_foreign_lock(turn: Turn) -> Vec<CpuId> {
    let sim = Sim::builder().cpus(2).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.set_unresponsive_timeout(match turn {
        // However long a busy host takes: if nobody answers, the test stands still.
        Turn::Polling => Duration::MAX,
        Turn::Bare => Duration::from_millis(50),
    });
    let reported: &'static Mutex<Vec<CpuId>> = Box::leak(Box::default());
    sim.on_unresponsive(|report| reported.lock().unwrap().push(report.cpu));
    let page = PageRange::page(Sim::WINDOW, PageSize::Size4KiB);
    let space = service.kernel_space().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        space.map(pin, page, FrameRequest::frame(), Protection::KERNEL_DATA).unwrap();
    });
    let (lock, masked) = (AtomicBool::new(false), AtomicBool::new(false));
    sim.run(|pin| {
        let taken = || lock.swap(true, Ordering::Acquire);
        if pin.cpu() == CpuId::BOOT {
            assert!(!taken());
            sim.barrier();
            while !masked.load(Ordering::Acquire) {
                sim.relax();
            }
            space.unmap(pin, page).unwrap().wait(pin);
        } else {
            sim.barrier();
            sim.load(page.start()).unwrap();
            sim.mask_interrupts();
            // The unmapping begins only now, however late this thread goes on.
            masked.store(true, Ordering::Release);
            while taken() {
                match turn {
                    Turn::Polling => sim.relax(),
                    Turn::Bare => std::thread::yield_now(),
                }
                if !reported.lock().unwrap().is_empty() {
                    break;
                }
            }
            sim.unmask_interrupts();
        }
        lock.store(false, Ordering::Release);
    });
    let reported = reported.lock().unwrap().clone();
    assert!(service.shootdown().stats(CpuId::new(1).unwrap()).polls_served > 0 || !reported.is_empty());
    reported
}

#[test]
fn a_polling_lock_keeps_nobody_waiting() {
    assert_eq!(spin_for_a_foreign_lock(Turn::Polling), []);
}

#[test]
fn a_lock_that_does_not_poll_is_reported() {
    assert_eq!(spin_for_a_foreign_lock(Turn::Bare).first(), CpuId::new(1).as_ref());
}
