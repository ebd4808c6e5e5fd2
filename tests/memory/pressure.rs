//! Memory that gets scarce: the service tasks reclaim in the background, and a reserve stays for page tables and the
//! heap.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::Layout;
use std::future::Future;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use topomem::address_space::MapError;
use topomem::frames::{AllocError, NodeSet, Watermarks, ZoneWatermarks};
use topomem::sim::{Sim, SimService};
use topomem::{
    CpuId, CpuPin, FrameRequest, NodeId, Order, PageRange, PageSize, PhysAddr, PhysFrame, Policy, Protection,
    VirtAddr,
};

const MARKS: Watermarks = Watermarks { min: 128, low: 160, high: 400 };

fn booted(nodes: usize, cpus: usize) -> (&'static Sim, &'static SimService) {
    // Above the zone DMA, so that each node has one zone.
    let builder = Sim::builder().nodes(nodes).cpus(cpus).memory(nodes as u64 * (32 << 20));
    let builder = builder.base(PhysAddr::new(16 << 20));
    let sim = builder.watermarks(ZoneWatermarks::Frames(MARKS)).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

fn on(index: usize) -> FrameRequest {
    FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(index))))
}

/// What is free of a node at home.
fn home(service: &SimService, index: usize) -> u64 {
    service.frames().stats(node(index)).unwrap().free()
}

fn give(service: &SimService, pin: &CpuPin, frames: impl IntoIterator<Item = PhysFrame>) {
    for frame in frames {
        // SAFETY: allocated by the test, and used by nobody.
        unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
    }
}

fn allocate(service: &SimService, layout: Layout, most: usize) -> Vec<NonNull<u8>> {
    let heap = service.heap().unwrap().heap();
    (0..most).map_while(|_| heap.try_alloc(layout).ok()).collect()
}

fn free(service: &SimService, layout: Layout, objects: Vec<NonNull<u8>>) {
    let heap = service.heap().unwrap().heap();
    // SAFETY: allocated by the test with that layout, and used by nobody.
    objects.into_iter().for_each(|object| unsafe { heap.free(object, layout) }.unwrap());
}

/// Leaves objects that are free with the calling CPU's heap magazines and its node's depots.
fn cache_objects(service: &SimService) {
    for size in [512, 1024, 2048, 4096, 16_384] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        free(service, layout, allocate(service, layout, 100));
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls the task of `cpu` once, on that CPU, with a waker that counts.
fn poll(sim: &'static Sim, service: &'static SimService, cpu: usize, woken: &Arc<Woken>) {
    let cpu = CpuId::new(cpu).unwrap();
    let waker = Waker::from(Arc::clone(woken));
    sim.on(cpu, move |_| {
        let task = pin!(service.task(cpu));
        assert_eq!(task.poll(&mut Context::from_waker(&waker)).map(|_| ()), Poll::Pending);
    });
}

#[test]
fn service_tasks_reclaim_from_the_low_watermark_up_to_the_high_one() {
    let (sim, service) = booted(2, 4);
    sim.run(|_| cache_objects(service));
    let woken: Vec<Arc<Woken>> = (0..4).map(|_| Arc::default()).collect();
    let wakes = |cpu: usize| woken[cpu].0.load(Ordering::Relaxed);
    (0..4).for_each(|cpu| poll(sim, service, cpu, &woken[cpu]));
    sim.run(|pin| service.wake_due(pin));
    assert_eq!((0..4).map(wakes).sum::<usize>(), 0, "nothing is scarce");

    let taken = sim.on(CpuId::BOOT, |pin| {
        let mut taken = Vec::new();
        while !service.wake_is_due(pin) {
            taken.push(service.frames().alloc(pin, &on(0)).unwrap());
        }
        taken
    });
    assert_eq!(home(service, 0), MARKS.low - 1);
    sim.on(CpuId::BOOT, |pin| service.wake_due(pin));
    assert_eq!(wakes(0), 1, "the CPU's service task has work");
    poll(sim, service, 0, &woken[0]);
    assert!(
        home(service, 0) >= MARKS.high,
        "{} frames, of {taken} taken",
        home(service, 0),
        taken = taken.len()
    );
    // The others were asked for what their own magazines hold: those of frames, and the heap's.
    let before = home(service, 0) + home(service, 1);
    for (cpu, woken) in woken.iter().enumerate().skip(1) {
        sim.on(CpuId::new(cpu).unwrap(), |pin| service.wake_due(pin));
        assert_eq!(wakes(cpu), 1, "CPU {cpu}");
        poll(sim, service, cpu, woken);
    }
    assert!(home(service, 0) + home(service, 1) > before);
    assert_eq!(sim.run(|pin| service.heap().unwrap().heap().drain(pin)).iter().sum::<u64>(), 0);
    assert_eq!((0..4).map(wakes).sum::<usize>(), 4, "no task was woken in vain");
    sim.on(CpuId::BOOT, move |pin| give(service, pin, taken));
    service.frames().validate().unwrap();
}

#[test]
fn the_reserve_is_for_page_tables_and_the_heap() {
    let (sim, service) = booted(1, 1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let page = |gib: u64| PageRange::page(VirtAddr::new(gib << 30).unwrap(), PageSize::Size4KiB);
        let map = |gib| space.map(pin, page(gib), FrameRequest::frame(), Protection::USER_DATA);
        let mut taken: Vec<PhysFrame> =
            std::iter::from_fn(|| service.alloc(pin, &FrameRequest::frame()).ok()).collect();
        let error = service.alloc(pin, &FrameRequest::frame()).unwrap_err();
        assert!(matches!(error, AllocError::Exhausted { .. }), "{error:?}");
        assert_eq!(home(service, 0), MARKS.min);
        // Not a page is left for the program: that is said as a value, and the tables that were made go back.
        assert!(matches!(map(1), Err(MapError::OutOfFrames(AllocError::Exhausted { .. }))));
        // A page that it has already is mapped: the three tables come from the reserve.
        let page_1 = page(1);
        let (frame, size) = (taken.pop().unwrap(), PageSize::Size4KiB);
        // SAFETY: the frame is the test's, which gives it up.
        unsafe { space.map_owned(pin, page_1.start(), size, frame, Protection::USER_DATA) }.unwrap();
        assert_eq!(home(service, 0), MARKS.min - 3);
        assert!(space.translate(pin, page_1.start()).is_some());
        // So does what the heap needs, to the last slab; then that is said as a value, too.
        let layout = Layout::from_size_align(4096, 8).unwrap();
        let objects = allocate(service, layout, 10_000);
        assert!(objects.len() as u64 > MARKS.min / 2, "{} objects", objects.len());
        assert!(home(service, 0) < 8, "no room for a slab: {} frames", home(service, 0));
        assert!(map(2).is_err());
        // The reserve fills first.
        free(service, layout, objects);
        service.run_pending_work(pin);
        assert!(home(service, 0) < MARKS.min);
        assert!(service.alloc(pin, &FrameRequest::frame()).is_err());
        space.unmap(pin, page_1).unwrap().wait(pin);
        give(service, pin, taken);
    });
    service.frames().validate().unwrap();
}

/// Nothing can be reclaimed, and somebody asks again and again: no task works without end for that.
#[test]
fn tasks_do_not_loop_for_memory_that_nobody_can_reclaim() {
    let (sim, service) = booted(1, 1);
    let woken: Arc<Woken> = Arc::default();
    poll(sim, service, 0, &woken);
    let frames = service.frames();
    let mut taken = Vec::new();
    let mut rounds = 0;
    for _ in 0..20_000 {
        let (frame, due) = sim.on(CpuId::BOOT, |pin| {
            let frame = frames.alloc(pin, &FrameRequest::frame());
            (frame, service.wake_is_due(pin))
        });
        taken.extend(frame.ok());
        if due {
            sim.on(CpuId::BOOT, |pin| service.wake_due(pin));
            poll(sim, service, 0, &woken);
            let still = sim.on(CpuId::BOOT, |pin| service.wake_is_due(pin));
            assert!(!still, "the task that has reclaimed in vain is not woken for that");
            rounds += 1;
        }
    }
    assert_eq!(home(service, 0), MARKS.min);
    assert!((2..=40).contains(&rounds), "{rounds} rounds for {} requests that failed", 20_000 - taken.len());
    sim.on(CpuId::BOOT, move |pin| give(service, pin, taken));
}
