//! The end of laziness, switches, coming online and going off, stopped after each instruction while a
//! handler of the CPU runs, or another CPU changes a page and awaits that.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};

use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{
    Domain, Invalidation, Lazy, PageSize, Shootdown, SwitchFlushed, Ticks, Tlb, VirtAddr, WakersDue,
};

const CPUS: usize = 3;
/// "Not cached".
const NOTHING: u64 = u64::MAX;

/// One page of the kernel and one TLB for each CPU, which forgets nothing by itself.
struct Machine {
    entry: AtomicU64,
    cached: [AtomicU64; CPUS],
    raised: [AtomicBool; CPUS],
    here: AtomicUsize,
}

type Queue = Shootdown<Machine>;

impl Machine {
    fn drop_all(&self) {
        self.cached[self.here.load(SeqCst)].store(NOTHING, SeqCst);
    }

    fn access(&self) -> u64 {
        let cached = &self.cached[self.here.load(SeqCst)];
        let _ = cached.compare_exchange(NOTHING, self.entry.load(SeqCst), SeqCst, SeqCst);
        cached.load(SeqCst)
    }
}

// SAFETY: one thread plays all CPUs, one at a time; no memory is asked for.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(self.here.load(SeqCst)).unwrap()
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: each flush drops all that there is; `send_ipi` only delays.
unsafe impl Tlb for Machine {
    fn flush_page(&self, _: VirtAddr, _: PageSize) {
        self.drop_all();
    }

    // The page is global.
    fn flush_non_global(&self) {}

    fn flush_all(&self) {
        self.drop_all();
    }

    fn send_ipi(&self, to: &CpuSet) {
        to.iter().for_each(|cpu| self.raised[cpu.index()].store(true, SeqCst));
    }

    fn now(&self) -> Ticks {
        Ticks(0)
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(u64::MAX)
    }
}

fn run_as(queue: &Queue, index: usize) -> CpuPin {
    queue.tlb().here.store(index, SeqCst);
    // SAFETY: one thread plays all CPUs, and a context that runs inside another one puts back which.
    unsafe { CpuPin::new(CpuId::new(index).unwrap()) }
}

/// Runs `f` as CPU `index` inside whatever runs.
fn nested_as<R>(queue: &Queue, index: usize, f: impl FnOnce(&CpuPin) -> R) -> R {
    let before = queue.tlb().here.load(SeqCst);
    let result = f(&run_as(queue, index));
    run_as(queue, before);
    result
}

/// Takes CPU 1's interrupt, and calls wakers if the handler says so.
fn answer(queue: &Queue) {
    if queue.tlb().raised[1].swap(false, SeqCst) {
        let due = nested_as(queue, 1, |pin| queue.on_ipi(pin));
        heed(queue, due);
    }
}

fn heed(queue: &Queue, due: WakersDue) {
    if due == WakersDue::Perhaps {
        nested_as(queue, 1, |pin| queue.wake_completed(pin));
    }
}

/// A queue without CPUs.
fn machine() -> Box<Queue> {
    let queue = Box::new(Shootdown::new(Machine {
        entry: AtomicU64::new(0),
        cached: [const { AtomicU64::new(NOTHING) }; CPUS],
        raised: [const { AtomicBool::new(false) }; CPUS],
        here: AtomicUsize::new(0),
    }));
    for index in 0..CPUS {
        let cpu = CpuId::new(index).unwrap();
        assert!(queue.place(cpu, Box::leak(Box::default())).is_ok());
    }
    queue
}

/// All CPUs are online, CPU 1 in `domain`, and it alone has the page cached.
fn fresh(queue: &Queue, domain: &Domain) {
    for index in 0..CPUS {
        let pin = run_as(queue, index);
        if !queue.kernel().cpus().contains(pin.cpu()) {
            queue.cpu_online(&pin).unwrap();
        }
        let _ = queue.leave_lazy(&pin);
        queue.tlb().raised[index].store(false, SeqCst);
        let _ = queue.on_ipi(&pin);
        queue.tlb().cached[index].store(NOTHING, SeqCst);
    }
    queue.tlb().entry.store(0, SeqCst);
    let pin = run_as(queue, 1);
    // SAFETY: the domain outlives the queue; there are no tables to load.
    unsafe { queue.activate(&pin, domain, |_| SwitchFlushed::Yes) };
    queue.tlb().access();
}

/// The same, and CPU 0 has changed the page, complete without CPU 1, which is idle.
fn idle(queue: &Queue, domain: &Domain) {
    fresh(queue, domain);
    for index in 0..CPUS {
        // SAFETY: CPU 1 touches the page only after `leave_lazy`, the others nothing.
        unsafe { queue.enter_lazy(&run_as(queue, index), Lazy::Idle) };
    }
    queue.tlb().entry.store(1, SeqCst);
    assert!(queue.invalidate(&run_as(queue, 0), queue.kernel(), page()).is_complete());
    run_as(queue, 1);
}

fn page() -> Invalidation {
    Invalidation::page(VirtAddr::new_truncate(0), PageSize::Size4KiB)
}

type Step = fn(&Queue, &Domain) -> WakersDue;

const STEPS: [(&str, Step); 4] = [
    ("leave_lazy", |queue, _| queue.leave_lazy(&run_as(queue, 1))),
    // SAFETY: the domain outlives the queue; there are no tables to load.
    ("activate", |queue, domain| unsafe {
        queue.activate(&run_as(queue, 1), domain, |_| SwitchFlushed::Yes)
    }),
    // SAFETY: as above.
    ("deactivate", |queue, _| unsafe { queue.deactivate(&run_as(queue, 1), |_| SwitchFlushed::Yes) }),
    // SAFETY: the page is touched by CPU 1 only while it is a member of the kernel's domain.
    ("cpu_offline", |queue, _| unsafe {
        let pin = run_as(queue, 1);
        queue.deactivate(&pin, |_| SwitchFlushed::Yes);
        queue.cpu_offline(&pin).unwrap()
    }),
];

/// How far the stop points are apart: every instruction of a release build; a debug build has many
/// more, and each run steps up to its stop.
const STRIDE: usize = if cfg!(debug_assertions) { 19 } else { 1 };

/// Calls `check` for each stop point of each of CPU 1's steps, until it says that there is none.
fn at_each_stop(
    prepare: fn(&Queue, &Domain),
    check: impl Fn(&str, u64, &Queue, &dyn Fn() -> WakersDue) -> bool,
) {
    let (last, next, queue) = (Domain::new(), Domain::new(), machine());
    for (name, step) in STEPS {
        let mut stops = 0;
        for at in (0..).step_by(STRIDE) {
            prepare(&queue, &last);
            if !check(name, at, &queue, &|| step(&queue, &next)) {
                break;
            }
            stops += 1;
        }
        assert!(stops > 3, "{name} was not stopped");
    }
}

/// A handler that leaves laziness uses no translation whose removal is complete, wherever it nests.
#[test]
fn handlers_leave_laziness_anywhere() {
    at_each_stop(idle, |name, at, queue, step| {
        let seen = AtomicU64::new(NOTHING);
        let operation = || {
            let _ = step();
        };
        let stop = topomem_stepper::stop_after(at, operation, |_| {
            nested_as(queue, 1, |pin| {
                let _ = queue.leave_lazy(pin);
                if queue.kernel().cpus().contains(pin.cpu()) {
                    seen.store(queue.tlb().access(), SeqCst);
                }
            });
        });
        let seen = seen.load(SeqCst);
        assert!(seen == 1 || seen == NOTHING, "{name}: stale after instruction {at}");
        stop.is_some()
    });
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// CPU 0 changes the page and awaits that, wherever CPU 1 is. CPU 1's kernel calls wakers where the
/// answers say so, and nowhere else.
#[test]
fn changes_are_awaited_anywhere() {
    at_each_stop(fresh, |name, at, queue, step| {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut future = pin!(None);
        let mut due = WakersDue::No;
        let mut pending = false;
        let stop = {
            let (future, pending) = (&mut future, &mut pending);
            topomem_stepper::stop_after(
                at,
                || due = step(),
                |_| {
                    nested_as(queue, 0, |pin| {
                        queue.tlb().entry.store(1, SeqCst);
                        let ticket = queue.invalidate(pin, queue.kernel(), page());
                        future.set(Some(ticket.into_future()));
                        // CPU 2 answers at once.
                        nested_as(queue, 2, |pin| queue.on_ipi(pin));
                        let future = future.as_mut().as_pin_mut().unwrap();
                        *pending = future.poll(&mut Context::from_waker(&waker)).is_pending();
                    });
                },
            )
        };
        heed(queue, due);
        if name == "cpu_offline" {
            // Lost.
            queue.tlb().raised[1].store(false, SeqCst);
        }
        answer(queue);
        while pending {
            assert_ne!(count.0.swap(0, SeqCst), 0, "{name}: not woken after instruction {at}");
            let future = future.as_mut().as_pin_mut().unwrap();
            pending = future.poll(&mut Context::from_waker(&waker)).is_pending();
        }
        stop.is_some()
    });
}
