//! Ranges of kernel addresses: all CPUs make, write, check and free them; the heap's large objects grow by moving
//! pages; and a CPU that answers no interrupt for a while must go on seeing what it has seen.

extern crate alloc;

use alloc::alloc::Layout;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use topomem::ranges::RangeError;
use topomem::{CpuId, KernelRange, KernelRanges, RangeRequest, RangesConfig, VirtAddr};
use topomem_stress::Break;
use x86_64::instructions::interrupts;

use super::{TIMEOUT, failure};
use crate::arch::clock;
use crate::arch::exit::Outcome;
use crate::executor::{sleep, spawn_on, yield_now};
use crate::log;
use crate::memory::bring_up::ranges_window;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::{HEAP, SERVICE};
use crate::smp::ipi;

type Ranges = KernelRanges<Kernel>;
type Range = KernelRange<Kernel>;

/// Objects of the heap from here on are ranges.
const HEAP_FROM: u64 = 4 << 20;
/// Ranges that each CPU makes.
const ROUNDS: u64 = 400;
/// Ranges that a CPU holds at a time.
const HELD: usize = 5;
/// How often a CPU that answers nothing looks on.
const LOOKS: u64 = 20;

/// How far the boot CPU and the one that looks on are.
static STEP: AtomicU32 = AtomicU32::new(IDLE);
const IDLE: u32 = 0;
const SEEN: u32 = 1;
const LOOK_AGAIN: u32 = 2;

/// Runs it on all CPUs.
pub(super) async fn run(fault: Option<Break>) -> Outcome {
    match ranges(fault).await {
        Ok(()) => Outcome::Success,
        Err(what) => {
            failure(format_args!("{what}"), "ranges");
            Outcome::Failures
        }
    }
}

async fn ranges(fault: Option<Break>) -> Result<(), &'static str> {
    let window = ranges_window().ok_or("there is no window")?;
    let config = RangesConfig::of(window).heap_from(HEAP_FROM);
    let ranges = SERVICE.add_kernel_ranges(&pin(), &config).map_err(|_| "no ranges can be had")?;
    inject(fault);
    let vacant = ranges.stats().vacant_pages;
    let mut tasks = Vec::new();
    for cpu in ipi::running().iter() {
        tasks.push(spawn_on(cpu, move || churn(ranges, cpu)).map_err(|_| "no task can be spawned")?);
    }
    for task in tasks {
        task.await?;
    }
    // The addresses are one stretch again, so the objects lie one behind the other.
    settle(ranges).await?;
    grow_objects(ranges)?;
    if let Some(witness) = ipi::running().iter().filter(|&cpu| cpu != CpuId::BOOT).last() {
        for look in 0..LOOKS {
            before_a_witness(ranges, witness, look).await?;
        }
    }
    settle(ranges).await?;
    ranges.validate(&pin()).map_err(|_| "the ranges do not validate")?;
    let stats = ranges.stats();
    log!("{stats:?}");
    if stats.live != 0 || stats.freed_pages != 0 || stats.vacant_pages != vacant {
        return Err("ranges were lost");
    }
    Ok(())
}

/// Waits until all freed ranges have gone.
async fn settle(ranges: &Ranges) -> Result<(), &'static str> {
    let start = clock::now();
    while ranges.flush(&pin()).waiting {
        if clock::elapsed(start) > TIMEOUT {
            return Err("freed ranges wait for ever");
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

#[cfg(feature = "fault-injection")]
fn inject(fault: Option<Break>) {
    fault.into_iter().for_each(|fault| fault.inject(&SERVICE));
}

/// Without the feature there is no fault to inject: `broken::requested` has refused it.
#[cfg(not(feature = "fault-injection"))]
fn inject(_: Option<Break>) {}

/// The first word of a page that is mapped from `start` on.
fn word(start: VirtAddr, page: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut((start.as_u64() + page * 4096) as usize)
}

fn write(start: VirtAddr, page: u64, value: u64) {
    // SAFETY: the page is the caller's, and mapped.
    unsafe { word(start, page).write_volatile(value) };
}

fn read(start: VirtAddr, page: u64) -> u64 {
    // SAFETY: the page is mapped, and holds no Rust object.
    unsafe { word(start, page).read_volatile() }
}

/// Makes ranges of many lengths, and checks what they hold before they go.
async fn churn(ranges: &'static Ranges, cpu: CpuId) -> Result<(), &'static str> {
    let mut held: Vec<(Range, u64)> = Vec::new();
    let mut random = cpu.index() as u64 + 1;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pages = if round % 16 == 0 { 500 + (random >> 33) % 600 } else { 1 + (random >> 33) % 24 };
        match ranges.allocate(&pin(), &RangeRequest::pages(pages)) {
            Ok(range) => {
                (0..pages).for_each(|page| write(range.start(), page, random ^ page));
                held.push((range, random));
            }
            Err(RangeError::Busy | RangeError::OutOfFrames(_)) => {}
            Err(_) => return Err("a range is refused"),
        }
        if held.len() > HELD {
            let (range, tag) = held.swap_remove((random >> 40) as usize % held.len());
            check(&range, tag)?;
        }
        if round % 32 == 0 {
            ranges.flush(&pin());
            yield_now().await;
        }
    }
    held.iter().try_for_each(|(range, tag)| check(range, *tag))
}

fn check(range: &Range, tag: u64) -> Result<(), &'static str> {
    let right = (0..range.pages()).all(|page| read(range.start(), page) == tag ^ page);
    if right { Ok(()) } else { Err("wrong contents of a range") }
}

/// An object that cannot become longer where it is moves with its pages.
fn grow_objects(ranges: &Ranges) -> Result<(), &'static str> {
    let heap = HEAP.heap();
    let [small, large] = [5 << 20, 12 << 20].map(|size| Layout::from_size_align(size, 64));
    let (small, large) = (small.map_err(|_| "no layout")?, large.map_err(|_| "no layout")?);
    let out = "the heap has no memory";
    let (object, neighbour) =
        (heap.try_alloc_zeroed(small).map_err(|_| out)?, heap.try_alloc(small).map_err(|_| out)?);
    let start = VirtAddr::from_ptr(object.as_ptr());
    if !ranges.contains(start) {
        return Err("a large object is no range");
    }
    let pages = small.size() as u64 / 4096;
    if (0..pages).any(|page| read(start, page) != 0) {
        return Err("an object is not zeroed");
    }
    (0..pages).for_each(|page| write(start, page, page + 1));
    // SAFETY: the objects have these layouts, and are not used after they are freed.
    unsafe {
        let moved = heap.try_realloc(object, small, large.size()).map_err(|_| out)?;
        let start = VirtAddr::from_ptr(moved.as_ptr());
        if moved == object {
            return Err("an object has grown over the one behind it");
        }
        if (0..pages).any(|page| read(start, page) != page + 1) {
            return Err("wrong contents of an object that has grown");
        }
        let last = large.size() as u64 / 4096 - 1;
        write(start, last, 1);
        heap.free(moved, large).map_err(|_| "an object cannot be freed")?;
        heap.free(neighbour, small).map_err(|_| "an object cannot be freed")?;
    }
    Ok(())
}

/// Frees a range whose page `witness` has in its TLB, while that CPU answers no interrupt. Until it does, it must see
/// the page as it was, and nobody may get the addresses.
async fn before_a_witness(ranges: &'static Ranges, witness: CpuId, look: u64) -> Result<(), &'static str> {
    static PLACE: AtomicU64 = AtomicU64::new(0);
    // All addresses are one stretch, so the next range of this length would lie where the last one was.
    settle(ranges).await?;
    let (old, new) = (2 * look + 1, 2 * look + 2);
    let request = RangeRequest::pages(8);
    let range = ranges.allocate(&pin(), &request).map_err(|_| "a range is refused")?;
    let place = range.start();
    write(place, 0, old);
    // Relaxed: the task is spawned afterwards.
    PLACE.store(place.as_u64(), Ordering::Relaxed);
    STEP.store(IDLE, Ordering::Relaxed);
    let task = spawn_on(witness, || async {
        let place = VirtAddr::new_truncate(PLACE.load(Ordering::Relaxed));
        interrupts::without_interrupts(|| {
            let first = read(place, 0);
            STEP.store(SEEN, Ordering::Release);
            // Answers no shootdown meanwhile.
            while STEP.load(Ordering::Acquire) != LOOK_AGAIN {
                spin_loop();
            }
            (first, read(place, 0))
        })
    });
    let task = task.map_err(|_| "no task can be spawned")?;
    while STEP.load(Ordering::Acquire) != SEEN {
        yield_now().await;
    }
    drop(range);
    ranges.flush(&pin());
    let mut others = Vec::new();
    let mut reused = false;
    // Nothing may wait for the witness here.
    for _ in 0..HELD {
        if let Ok(range) = ranges.allocate(&pin(), &request) {
            write(range.start(), 0, new);
            reused |= range.start() == place;
            others.push(range);
        }
    }
    STEP.store(LOOK_AGAIN, Ordering::Release);
    let (first, second) = task.await;
    if first != old || second != old {
        return Err("changed under a stale translation of a range");
    }
    if reused {
        Err("stale translation: addresses were handed out before the acknowledgement")
    } else {
        Ok(())
    }
}
