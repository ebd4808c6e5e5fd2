//! A run queue grows, so it allocates under its lock, while a task of the same queue waits for memory.
//!
//! The allocation brings retired memory home, for which the task waits. Were it woken there and then, it
//! would be put into the queue whose lock is held, and the CPU would spin for ever: the runner sees that
//! nothing is said any more.

extern crate alloc;

use alloc::alloc::{Layout, alloc};
use core::future::pending;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use topomem::{CpuId, FrameRequest, PageRange, PageSize, PhysFrame, Protection};

use super::{TIMEOUT, failure};
use crate::arch::clock;
use crate::arch::exit::Outcome;
use crate::executor::{room, sleep, spawn_on, yield_now};
use crate::log;
use crate::memory::bring_up::kernel_window;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;

/// How long nothing may come for the task to be said to wait: longer than all CPUs take to drain.
const QUIET: Duration = Duration::from_millis(150);
/// Frames that are kept to be freed at the end.
const KEPT: usize = 8;

/// Is no memory left? Relaxed, as `SERVED`: both tasks are on one CPU.
static EXHAUSTED: AtomicBool = AtomicBool::new(false);
/// How often the waiting task got a frame.
static SERVED: AtomicU32 = AtomicU32::new(0);

/// Runs it on the boot CPU.
pub(super) async fn run() -> Outcome {
    match shortage().await {
        Ok(()) => Outcome::Success,
        Err(what) => {
            failure(format_args!("{what}"), "shortage");
            Outcome::Failures
        }
    }
}

async fn shortage() -> Result<(), &'static str> {
    let pin = pin();
    let frame = any_frame();
    let kernel = SERVICE.kernel_space().ok_or("there is no kernel space")?;
    let window = kernel_window().ok_or("there is no window")?;
    let page = PageRange::page(window.base, PageSize::Size4KiB);
    kernel.map(&pin, page, frame, Protection::KERNEL_DATA).map_err(|_| "a page cannot be mapped")?;

    spawn_on(CpuId::BOOT, wait_for_frames).map_err(|_| "the waiting task cannot be spawned")?.detach();
    // The next task after these makes the queue grow.
    while room(CpuId::BOOT) > 0 {
        spawn_on(CpuId::BOOT, pending::<()>).map_err(|_| "the queue cannot be filled")?.detach();
    }
    yield_now().await;

    let kept: [Option<PhysFrame>; KEPT] = core::array::from_fn(|_| SERVICE.frames().alloc(&pin, &frame).ok());
    exhaust();
    EXHAUSTED.store(true, Ordering::Relaxed);
    // The task takes what other CPUs still had, then finds nothing, and waits.
    let before = loop {
        let before = SERVED.load(Ordering::Relaxed);
        sleep(QUIET).await;
        if SERVED.load(Ordering::Relaxed) == before {
            break before;
        }
    };

    kernel.unmap(&pin, page).map_err(|_| "the page cannot be unmapped")?.detach();
    log!("a frame has retired, a task waits for it, and the run queue grows");
    let spawned = spawn_on(CpuId::BOOT, pending::<()>);
    log!("the queue {}", if spawned.is_ok() { "has grown" } else { "could not grow" });
    if let Ok(task) = spawned {
        task.detach();
    }
    for frame in kept.into_iter().flatten() {
        // SAFETY: allocated above, and used by nobody.
        unsafe { SERVICE.frames().free(&pin, frame, topomem::Order::FRAME) }
            .map_err(|_| "a frame cannot be freed")?;
    }
    let start = clock::now();
    while SERVED.load(Ordering::Relaxed) == before {
        if clock::elapsed(start) > TIMEOUT {
            return Err("the task that waits for memory was not woken");
        }
        yield_now().await;
    }
    Ok(())
}

/// A request that may be served by the very last frame: the heap may use the reserve, too.
fn any_frame() -> FrameRequest {
    FrameRequest::frame().emergency()
}

/// Takes frames for good, as soon as there are some.
async fn wait_for_frames() {
    while !EXHAUSTED.load(Ordering::Relaxed) {
        yield_now().await;
    }
    while SERVICE.frames().alloc_async(any_frame()).await.is_ok() {
        SERVED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes all frames, and what the heap has that a growing queue could take.
fn exhaust() {
    let pin = pin();
    while SERVICE.frames().alloc(&pin, &any_frame()).is_ok() {}
    for size in [4096, 8192, 16384] {
        let Ok(layout) = Layout::from_size_align(size, 8) else { continue };
        // SAFETY: not of size zero.
        while !black_box(unsafe { alloc(layout) }).is_null() {}
    }
}
