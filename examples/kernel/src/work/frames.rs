//! Tasks that allocate and free runs of frames while they are preempted, on all CPUs. Every frame has its owner's
//! mark in it; the timer's handler allocates and frees, too. Frames that the kernel took before there was a frame
//! allocator are freed into it. At the end no frame is lost.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem_numa::frames::FrameRequest;
use topomem_numa::{BootAllocator, NodeId, Order, PhysFrame, Platform};

use crate::lock::Lock;
use crate::machine::at;
use crate::random::Random;
use crate::tier::{FRAMES, Kernel};
use crate::{must, println, task};

/// Rounds of each task, at least.
const ROUNDS: usize = 20_000;
/// Runs that a task holds at most.
const HELD: usize = 64;

/// Frames that the kernel takes early.
const EARLY: usize = 600;
/// The mark in these.
const KERNEL: usize = 0xee;

/// The early frames.
static EARLY_FRAMES: Lock<[Option<PhysFrame>; EARLY]> = Lock::new([None; EARLY]);
/// Free frames before the first task began.
static AT_FIRST: AtomicU64 = AtomicU64::new(0);
/// Frames that handlers allocated.
static BY_HANDLERS: AtomicU64 = AtomicU64::new(0);
/// Runs that tasks allocated.
static BY_TASKS: AtomicU64 = AtomicU64::new(0);

type Run = (PhysFrame, Order);

/// What stands in each frame of a run, at its beginning and its end.
fn mark(run: Run, owner: usize) {
    words(run).for_each(|word| {
        // SAFETY: the run is the caller's, and mapped to itself.
        unsafe { at::<u64>(word).write_volatile(word ^ (owner as u64) << 48) };
    });
}

fn check(run: Run, owner: usize) {
    for word in words(run) {
        // SAFETY: as in `mark`.
        let found = unsafe { at::<u64>(word).read_volatile() };
        assert_eq!(found, word ^ (owner as u64) << 48, "changed under task {owner}: {word:#x}");
    }
}

fn words((first, order): Run) -> impl Iterator<Item = u64> {
    let start = first.start_address().as_u64();
    (0..order.frames()).flat_map(move |frame| [start + frame * 4096, start + frame * 4096 + 4088])
}

fn free((first, order): Run) {
    // SAFETY: allocated with this order, and not used any more.
    must("a free", unsafe { FRAMES.free(&Kernel.pin(), first, order) });
}

fn all_free() -> u64 {
    (0..).map_while(NodeId::new).map_while(|node| FRAMES.stats(node)).map(|stats| stats.all_free()).sum()
}

/// Takes frames before the topology is known.
pub(crate) fn early(memory: &mut BootAllocator<'_>) {
    EARLY_FRAMES.with(|frames| {
        for place in frames {
            let frame = must("an early frame", memory.early_frame());
            mark((frame, Order::FRAME), KERNEL);
            *place = Some(frame);
        }
    });
}

pub(crate) fn begin() {
    AT_FIRST.store(all_free(), Ordering::Relaxed);
}

pub(crate) fn task(index: usize) {
    let mut random = Random::new(index);
    let mut held: [Option<Run>; HELD] = [None; HELD];
    for round in (0..).take_while(|&round| task::goes_on(round, ROUNDS)) {
        let place = &mut held[random.below(HELD)];
        if let Some(run) = place.take() {
            check(run, index);
            free(run);
            continue;
        }
        // Mostly frames, and runs of up to 2 MiB.
        let order = if random.below(8) > 0 { 0 } else { random.below(10) as u8 };
        let order = Order::new(order).unwrap_or(Order::FRAME);
        let request = FrameRequest::order(order);
        let request = match NodeId::new(random.below(4)).and_then(|node| FRAMES.node_with_memory(node)) {
            Some(node) => request.node(node),
            None => request,
        };
        if let Ok(first) = FRAMES.alloc(&Kernel.pin(), &request) {
            mark((first, order), index);
            *place = Some((first, order));
            BY_TASKS.fetch_add(1, Ordering::Relaxed);
        }
        if round % 1000 == 0 {
            task::yield_now();
        }
    }
    for run in held.into_iter().flatten() {
        check(run, index);
        free(run);
    }
}

/// In the timer's handler, which may have interrupted an allocation.
pub(crate) fn tick() {
    let pin = Kernel.pin();
    if let Ok(first) = FRAMES.alloc(&pin, &FrameRequest::frame()) {
        let run = (first, Order::FRAME);
        mark(run, 0xff);
        check(run, 0xff);
        free(run);
        BY_HANDLERS.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn end() {
    let totals = must("validate", FRAMES.validate());
    let (first, last) = (AT_FIRST.load(Ordering::Relaxed), all_free());
    let (tasks, handlers) = (BY_TASKS.load(Ordering::Relaxed), BY_HANDLERS.load(Ordering::Relaxed));
    println!("{tasks} runs by tasks, {handlers} frames by handlers; free frames: {first}, then {last}");
    assert_eq!(first, last, "frames are lost");
    EARLY_FRAMES.with(|frames| {
        for frame in frames.iter_mut().filter_map(Option::take) {
            check((frame, Order::FRAME), KERNEL);
            free((frame, Order::FRAME));
        }
    });
    must("validate", FRAMES.validate());
    assert_eq!(all_free(), last + EARLY as u64, "early frames are lost");
    println!("{EARLY} early frames were freed");
    assert_eq!(totals.in_magazines, 0, "a CPU that left holds frames");
    assert!(tasks > 1000 && handlers > 100, "too little was done");
}
