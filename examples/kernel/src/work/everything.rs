//! Tasks that use spaces of their own, the kernel's space and the heap while they are preempted, on all CPUs. A task
//! enters its space, in which the kernel must be where it was, and uses pages of it. What a page shows must be what was
//! written to its frame. At the end no frame is lost.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use topomem::{
    AddressSpace, CpuPin, FrameRequest, PageRange, PageSize, Platform, Protection, Ticks, Tlb, VirtAddr,
};

use crate::machine::at;
use crate::random::Random;
use crate::tier::{HEAP, Kernel, PROGRAMS, SERVICE, WINDOW};
use crate::{must, println, task};

/// Rounds of each task, at least.
const ROUNDS: usize = 300;
/// Pages of a task, in its space and in the kernel's.
const PAGES: usize = 64;

static AT_FIRST: AtomicU64 = AtomicU64::new(0);
static IN_SPACES: AtomicU64 = AtomicU64::new(0);
static IN_KERNEL: AtomicU64 = AtomicU64::new(0);
static BY_HANDLERS: AtomicU64 = AtomicU64::new(0);

fn free_frames() -> u64 {
    let pin = Kernel.pin();
    HEAP.heap().drain(&pin);
    SERVICE.run_pending_work(&pin);
    SERVICE.frames().drain(&pin);
    must("validate", SERVICE.frames().validate()).free
}

fn page(address: u64) -> PageRange {
    PageRange::page(VirtAddr::new_truncate(address), PageSize::Size4KiB)
}

pub(crate) fn begin() {
    AT_FIRST.store(free_frames(), Ordering::Relaxed);
}

/// Writes to a page, and checks that its frame shows that.
fn use_page(space: &AddressSpace<Kernel>, pin: &CpuPin, address: u64, value: u64) {
    let Some(found) = space.translate(pin, VirtAddr::new_truncate(address)) else {
        panic!("{address:#x} is not mapped");
    };
    // SAFETY: the page is this task's alone, and so is its frame, which is mapped to itself.
    unsafe {
        at::<u64>(address).write_volatile(value);
        assert_eq!(
            at::<u64>(found.address.as_u64()).read_volatile(),
            value,
            "{address:#x} shows another frame"
        );
    }
}

pub(crate) fn task(index: usize) {
    let mut random = Random::new(index);
    let kernel = must("the kernel's space", SERVICE.kernel_space().ok_or("not booted"));
    let own = must("a space", SERVICE.create_space(&Kernel.pin()));
    let mut list: Vec<u64> = Vec::new();
    for round in (0..).take_while(|&round| task::goes_on(round, ROUNDS)) {
        let place = random.below(PAGES) as u64;
        // In a space of the task's own: without preemption, since other tasks have other spaces.
        let address = PROGRAMS + (1 << 39) + ((place * 513) << 12);
        let pin = Kernel.pin();
        must("a page", own.map(&pin, page(address), FrameRequest::frame(), Protection::USER_DATA));
        // SAFETY: the CPU is online, and no call of the service is interrupted.
        unsafe {
            let _ = own.activate(&pin);
            use_page(&own, &pin, address, address ^ round as u64);
            let _ = kernel.activate(&pin);
        }
        must("unmapping", own.unmap(&pin, page(address))).wait(&pin);
        drop(pin);
        IN_SPACES.fetch_add(1, Ordering::Relaxed);

        // In the kernel's space: every CPU may go on.
        let address = WINDOW + (((index * PAGES) as u64 + place) << 12);
        must(
            "a page",
            kernel.map(&Kernel.pin(), page(address), FrameRequest::frame(), Protection::KERNEL_DATA),
        );
        use_page(&kernel, &Kernel.pin(), address, address);
        task::yield_now();
        // SAFETY: the page is this task's.
        assert_eq!(unsafe { at::<u64>(address).read_volatile() }, address, "the page has changed");
        let pin = Kernel.pin();
        must("unmapping", kernel.unmap(&pin, page(address))).wait(&pin);
        assert!(kernel.translate(&pin, VirtAddr::new_truncate(address)).is_none());
        drop(pin);
        IN_KERNEL.fetch_add(1, Ordering::Relaxed);

        // In the heap.
        list.push(round as u64 ^ (index as u64) << 32);
        if list.len() > 100 + random.below(4000) {
            let from = round as u64 + 1 - list.len() as u64;
            let marked = |place: usize| (from + place as u64) ^ (index as u64) << 32;
            assert!(
                list.iter().enumerate().all(|(place, &word)| word == marked(place)),
                "a list has changed"
            );
            list = Vec::new();
        }
    }
}

/// In the timer's handler, which may have interrupted anything.
pub(crate) fn tick() {
    let pin = Kernel.pin();
    if let Ok(frame) = SERVICE.alloc(&pin, &FrameRequest::frame()) {
        // SAFETY: allocated above, and not used.
        must("a free", unsafe { SERVICE.frames().free(&pin, frame, topomem::Order::FRAME) });
        BY_HANDLERS.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn end() {
    // What is left of spaces goes a piece at a time.
    let (first, begun) = (AT_FIRST.load(Ordering::Relaxed), Kernel.now());
    let kept = loop {
        let kept = first - free_frames();
        if kept < MOST || Kernel.now().since(begun) > Ticks(20_000_000_000) {
            break kept;
        }
    };
    let [spaces, kernel, handlers] =
        [&IN_SPACES, &IN_KERNEL, &BY_HANDLERS].map(|count| count.load(Ordering::Relaxed));
    must("validate", HEAP.heap().validate());
    println!("{spaces} pages of spaces, {kernel} of the kernel's, {handlers} frames by handlers");
    println!("free frames: {first} at first; {kept} are kept, in tables and by the heap");
    assert!(kept < MOST, "frames are lost");
    assert!(spaces.min(kernel) > 1000 && handlers > 100, "too little was done");
}

/// Frames that are kept at most: the window's tables, and the heap's records.
const MOST: u64 = 64;
