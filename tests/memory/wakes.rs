//! Wake-ups on a simulated machine: none is lost, and none happens inside an allocation, a free or a
//! drop, where the kernel may hold the lock that its wakers take.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::Layout;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};

use topomem::address_space::Callback;
use topomem::sim::{Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, PageRange, PageSize, PhysFrame, Platform, Protection, VirtAddr,
};

const BASE: VirtAddr = VirtAddr::new_truncate(0x10_0000_0000);

type Space = AddressSpace<&'static Sim>;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn second() -> CpuId {
    CpuId::new(1).unwrap()
}

fn pages(count: u64) -> PageRange {
    PageRange::new(BASE, count, PageSize::Size4KiB).unwrap()
}

fn mapped(service: &'static SimService, pin: &CpuPin, count: u64) -> Space {
    let space = service.create_space(pin).unwrap();
    space.map(pin, pages(count), FrameRequest::frame(), Protection::USER_DATA).unwrap();
    space
}

fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

/// Takes all frames that the allocator has; nothing that waits to be collected.
fn take_all(service: &SimService, pin: &CpuPin) -> Vec<PhysFrame> {
    std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect()
}

/// A run queue whose wakers take its lock.
#[derive(Default)]
struct RunQueue {
    queue: Mutex<usize>,
    /// Wake-ups with the lock held: a kernel would spin for ever.
    deadlocks: AtomicUsize,
}

impl RunQueue {
    fn woken(&self) -> usize {
        *self.queue.lock().unwrap()
    }
}

impl Wake for RunQueue {
    fn wake(self: Arc<Self>) {
        match self.queue.try_lock() {
            Ok(mut woken) => *woken += 1,
            Err(_) => {
                self.deadlocks.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn nothing(_: usize) {}

/// What the other CPU has parked is collected by an allocation here, with the run queue locked.
fn collects_under_the_lock(allocate: impl Fn(&'static SimService, &CpuPin)) {
    let (sim, service) = booted(2);
    // A test's machine is never freed, nor is its callback.
    let callback: &'static Callback = Box::leak(Box::new(Callback::new(nothing, 0)));
    let queue = Arc::new(RunQueue::default());
    let waker = Waker::from(queue.clone());
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(service.task(CpuId::BOOT));
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = mapped(service, pin, 4);
        assert!(task.as_mut().poll(&mut context).is_pending());
        space
    });
    sim.on(second(), |pin| {
        space.unmap(pin, pages(4)).unwrap().detach_then(callback).unwrap();
        take_all(service, pin);
    });
    sim.on(CpuId::BOOT, |pin| {
        take_all(service, pin);
        let locked = queue.queue.lock().unwrap();
        allocate(service, pin);
        drop(locked);
        assert_eq!(queue.deadlocks.load(Ordering::SeqCst), 0, "a waker ran inside an allocation");
        assert!(callback.is_pending());
        assert!(service.wake_is_due(pin));
        assert_eq!((service.wake_due(pin), queue.woken()), (1, 1), "the task has a callback to call");
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert!(!callback.is_pending());
    });
}

#[test]
fn allocating_a_frame_wakes_no_task() {
    collects_under_the_lock(|service, pin| {
        service.alloc(pin, &FrameRequest::frame()).unwrap();
    });
}

#[test]
fn allocating_an_object_wakes_no_task() {
    collects_under_the_lock(|service, _| {
        // Whether four frames do for a slab is another matter.
        let _ = service.heap().unwrap().heap().try_alloc(Layout::from_size_align(4096, 8).unwrap());
    });
}

#[test]
fn a_dropped_space_is_seen_to() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let queue = Arc::new(RunQueue::default());
        let waker = Waker::from(queue.clone());
        let mut context = Context::from_waker(&waker);
        let mut task = pin!(service.task(CpuId::BOOT));
        assert!(task.as_mut().poll(&mut context).is_pending());
        let before = service.frames().validate().unwrap().allocated;
        let space = mapped(service, pin, 100);
        activate(&space, pin);
        drop(space);
        assert_eq!((service.wake_due(pin), queue.woken()), (1, 1), "there is a space to take apart");
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert!(!service.wake_is_due(pin), "it is active, and there is nothing to do");
        activate(&service.kernel_space().unwrap(), pin);
        assert_eq!((service.wake_due(pin), queue.woken()), (1, 2), "the last CPU has left it");
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(service.frames().validate().unwrap().allocated, before);
        activate(&service.create_space(pin).unwrap(), pin);
        service.run_pending_work(pin);
        activate(&service.kernel_space().unwrap(), pin);
    });
}

#[test]
fn what_a_cpu_parks_before_it_goes_offline_is_seen_to() {
    static CALLED: AtomicUsize = AtomicUsize::new(0);
    static CALLBACK: Callback = Callback::new(
        |_| {
            CALLED.fetch_add(1, Ordering::SeqCst);
        },
        0,
    );
    let (sim, service) = booted(2);
    let queues = [(); 2].map(|()| Arc::new(RunQueue::default()));
    let wakers = queues.each_ref().map(|queue| Waker::from(queue.clone()));
    let mut contexts = wakers.each_ref().map(Context::from_waker);
    let mut tasks = [CpuId::BOOT, second()].map(|cpu| Box::pin(service.task(cpu)));
    let space = sim.on(CpuId::BOOT, |pin| mapped(service, pin, 64));
    for cpu in [0, 1] {
        sim.on(CpuId::new(cpu).unwrap(), |_| {
            assert!(tasks[cpu].as_mut().poll(&mut contexts[cpu]).is_pending());
        });
    }
    sim.on(second(), |pin| {
        space.unmap(pin, pages(64)).unwrap().detach_then(&CALLBACK).unwrap();
        // Its task is woken, and never runs.
        assert_eq!((service.wake_due(pin), queues[1].woken()), (1, 1));
        // SAFETY: the CPU does nothing until the end.
        unsafe { service.cpu_offline(pin) }.unwrap();
        assert_eq!(service.wake_due(pin), 0, "an offline CPU's task does no work");
    });
    sim.on(CpuId::BOOT, |pin| {
        assert_eq!((service.wake_due(pin), queues[0].woken()), (1, 1));
        assert!(tasks[0].as_mut().poll(&mut contexts[0]).is_pending());
    });
    assert_eq!((CALLED.load(Ordering::SeqCst), space.retired_frames()), (1, 0));
}

/// How far the interrupt has come that arrives while the task's waker is being registered.
static HANDLER: AtomicUsize = AtomicUsize::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
static WORLD: OnceLock<(&'static Sim, &'static SimService)> = OnceLock::new();

/// A handler that allocates, frees, and ends as handlers do.
fn interrupt() {
    if ARMED.swap(false, Ordering::SeqCst) {
        let (sim, service) = *WORLD.get().unwrap();
        HANDLER.store(1, Ordering::SeqCst);
        let pin = sim.pin();
        service.alloc(&pin, &FrameRequest::frame()).unwrap();
        service.wake_due(&pin);
        HANDLER.store(2, Ordering::SeqCst);
    }
}

static WOKEN: AtomicUsize = AtomicUsize::new(0);

fn wake() {
    WOKEN.fetch_add(1, Ordering::SeqCst);
}

/// Never interrupted.
const PLAIN: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &PLAIN), |_| wake(), |_| wake(), |_| ());

/// Interrupted where it is cloned.
const CLONED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        interrupt();
        RawWaker::new(data, &CLONED)
    },
    |_| wake(),
    |_| wake(),
    |_| (),
);

/// Interrupted where it is dropped.
const DROPPED: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &DROPPED), |_| wake(), |_| wake(), |_| interrupt());

/// A task that is polled while an interrupt's handler allocates, collects what needs the task, and
/// says so.
#[test]
fn an_allocation_in_a_handler_waits_for_no_registration() {
    static CALLBACKS: [Callback; 2] = [const { Callback::new(nothing, 0) }; 2];
    let (sim, service) = booted(2);
    assert!(WORLD.set((sim, service)).is_ok());
    // SAFETY: the functions of the tables take any data.
    let waker = |table| unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), table)) };
    let space = sim.on(CpuId::BOOT, |pin| mapped(service, pin, 8));
    let mut task = pin!(service.task(CpuId::BOOT));
    for ((index, callback), tables) in
        CALLBACKS.iter().enumerate().zip([[&PLAIN, &CLONED], [&DROPPED, &PLAIN]])
    {
        let [first, interrupted] = tables.map(waker);
        ARMED.store(false, Ordering::SeqCst);
        sim.on(CpuId::BOOT, |pin| {
            assert!(task.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
            service.wake_due(pin);
        });
        sim.on(second(), |pin| {
            let range = PageRange::new(
                VirtAddr::new_truncate(BASE.as_u64() + index as u64 * 4096),
                1,
                PageSize::Size4KiB,
            )
            .unwrap();
            space.unmap(pin, range).unwrap().detach_then(callback).unwrap();
            take_all(service, pin);
        });
        sim.on(CpuId::BOOT, |pin| {
            take_all(service, pin);
            sim.take_interrupts();
            HANDLER.store(0, Ordering::SeqCst);
            ARMED.store(true, Ordering::SeqCst);
            let before = WOKEN.load(Ordering::SeqCst);
            assert!(task.as_mut().poll(&mut Context::from_waker(&interrupted)).is_pending());
            assert_eq!(HANDLER.load(Ordering::SeqCst), 2, "no interrupt came, or it did not end");
            let woken = WOKEN.load(Ordering::SeqCst) > before;
            assert!(woken || !callback.is_pending(), "the handler's note is lost");
        });
    }
}

/// The memory that somebody waits for is in empty page tables, in the heap's reserve, and in a space
/// that is dropped meanwhile.
#[test]
fn a_future_gets_what_has_to_be_freed_first() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let queues = [(); 2].map(|()| Arc::new(RunQueue::default()));
        let wakers = queues.each_ref().map(|queue| Waker::from(queue.clone()));
        let mut contexts = wakers.each_ref().map(Context::from_waker);
        let mut task = pin!(service.task(CpuId::BOOT));
        assert!(task.as_mut().poll(&mut contexts[0]).is_pending());
        let kept = mapped(service, pin, 512);
        kept.unmap(pin, PageRange::new(BASE, 512, PageSize::Size4KiB).unwrap()).unwrap().wait(pin);
        let dropped = mapped(service, pin, 16);
        service.run_pending_work(pin);
        // An empty table, and then the space.
        let mut spaces = [None, Some(dropped)];
        for space in &mut spaces {
            take_all(service, pin);
            let mut waiting = pin!(service.alloc_async(FrameRequest::frame()));
            assert!(waiting.as_mut().poll(&mut contexts[1]).is_pending());
            drop(space.take());
            let before = queues.each_ref().map(|queue| queue.woken());
            service.wake_due(pin);
            assert!(queues[0].woken() > before[0], "the task does not hear that frames are wanted");
            assert!(task.as_mut().poll(&mut contexts[0]).is_pending());
            assert!(queues[1].woken() > before[1], "frames are free, and nobody is woken");
            assert!(waiting.as_mut().poll(&mut contexts[1]).is_ready());
        }
        drop(kept);
        service.run_pending_work(pin);
    });
}
