//! Nothing of the queue allocates: not issuing, not the handler, not waiting, not waking.
// Miri, which runs the same steps in other tests, would take the queues that stay for leaks.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::*;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread allocates.
struct Counting;

// SAFETY: the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

type Queue = Shootdown<Machine>;

/// Two CPUs whose TLBs don't matter, in a machine that allocates nothing itself. A look at the
/// clock lets a raised interrupt through.
struct Machine {
    queue: OnceLock<&'static Queue>,
    raised: AtomicBool,
    clock: AtomicU64,
}

fn run_as(index: usize) -> CpuPin {
    CPU.set(index);
    // SAFETY: one thread plays all CPUs.
    unsafe { CpuPin::new(CpuId::new(index).unwrap()) }
}

impl Machine {
    fn deliver(&self) {
        if self.raised.swap(false, Ordering::Relaxed)
            && let Some(queue) = self.queue.get()
        {
            let before = CPU.get();
            let _ = queue.on_ipi(&run_as(1));
            run_as(before);
        }
    }
}

// SAFETY: the ids are those that the thread plays; memory is never asked for.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(CPU.get()).unwrap()
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: there is no TLB, and interrupts are only delayed.
unsafe impl Tlb for Machine {
    fn flush_page(&self, _: VirtAddr, _: PageSize) {}

    fn flush_non_global(&self) {}

    fn flush_all(&self) {}

    fn send_ipi(&self, _: &CpuSet) {
        self.raised.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> Ticks {
        self.deliver();
        Ticks(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(8)
    }
}

/// How often memory is allocated in `steps`, of CPU 0 while CPU 1 is in the domain too.
fn allocations(prepare: impl FnOnce(&Queue), steps: impl FnOnce(&'static Queue, &'static Domain)) -> usize {
    let machine =
        Machine { queue: OnceLock::new(), raised: AtomicBool::new(false), clock: AtomicU64::new(0) };
    let queue: &'static Queue = Box::leak(Box::new(Shootdown::new(machine)));
    queue.tlb().queue.set(queue).ok().unwrap();
    let domain: &'static Domain = Box::leak(Box::new(Domain::new()));
    for index in 0..2 {
        let pin = run_as(index);
        assert!(queue.place(pin.cpu(), Box::leak(Box::default())).is_ok());
        queue.cpu_online(&pin).unwrap();
        // SAFETY: the domain lives for ever.
        unsafe { queue.activate(&pin, domain, |_| SwitchFlushed::Yes) };
    }
    prepare(queue);
    run_as(0);
    let before = ALLOCATIONS.get();
    steps(queue, domain);
    ALLOCATIONS.get() - before
}

fn page(number: u64) -> Invalidation {
    Invalidation::page(VirtAddr::new_truncate(number << 12), PageSize::Size4KiB)
}

#[test]
fn issuing_handling_and_waiting() {
    let count = allocations(
        |_| {},
        |queue, domain| {
            let pin = run_as(0);
            for number in 0..100 {
                queue.invalidate(&pin, domain, page(number)).wait(&pin);
                queue.invalidate(&pin, queue.kernel(), Invalidation::domain()).wait(&pin);
            }
            // Overrun, in batches.
            for number in 0..20 {
                let mut batch = queue.batch(domain);
                (0..8).for_each(|other| batch.record(page(number * 32 + other * 2)));
                let _ = batch.issue(&pin).detach();
                let _ = queue.pending(&pin, domain).detach();
            }
            queue.tlb().deliver();
        },
    );
    assert_eq!(count, 0);
}

#[test]
fn awaiting_reporting_and_waking() {
    let count = allocations(
        |_| {},
        |queue, domain| {
            let pin = run_as(0);
            let mut future = pin!(queue.invalidate(&pin, domain, page(1)).into_future());
            queue.tlb().raised.store(false, Ordering::Relaxed);
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            for _ in 0..20 {
                queue.tlb().raised.store(false, Ordering::Relaxed);
                queue.wake_completed(&pin);
            }
            assert!(queue.stats(CpuId::BOOT).ipis_resent > 0);
            let _ = queue.on_ipi(&run_as(1));
            run_as(0);
            queue.wake_completed(&pin);
            assert!(future.poll(&mut context).is_ready());
        },
    );
    assert_eq!(count, 0);
}

#[test]
fn switching_and_being_lazy() {
    let count = allocations(
        |_| {},
        |queue, domain| {
            let pin = run_as(1);
            // SAFETY: there is nothing to touch, and the domain lives for ever.
            unsafe {
                queue.enter_lazy(&pin, Lazy::Idle);
                let _ = queue.invalidate(&run_as(0), domain, page(1)).detach();
                queue.leave_lazy(&run_as(1));
                queue.deactivate(&pin, |_| SwitchFlushed::No);
                queue.cpu_offline(&pin).unwrap();
                queue.cpu_online(&pin).unwrap();
                queue.activate(&pin, domain, |_| SwitchFlushed::No);
            }
        },
    );
    assert_eq!(count, 0);
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_handler_that_allocates_is_found() {
    let count = allocations(
        |queue| queue.inject(Some(Fault::AllocateInHandler)),
        |queue, domain| {
            let pin = run_as(0);
            queue.invalidate(&pin, domain, page(1)).wait(&pin);
        },
    );
    assert_eq!(count, 1);
}
