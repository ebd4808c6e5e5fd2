//! Wrong uses of memory, each of which the hardened heap must find: `break=` says which one is made.
//! Without one, the heap must find nothing, and all CPUs use all nodes' memory ([`nodes`]).

use alloc::alloc::Layout;
use alloc::boxed::Box;
use core::hint::black_box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use topomem::Topology;
use topomem::percpu::{AllocError, InvalidFree, LiveObjects, Report, Site};

use super::failure;
use crate::arch::exit::Outcome;
use crate::boot::command_line::CommandLine;
use crate::log;
use crate::memory::callers;
use crate::memory::platform::pin;
use crate::memory::service::HEAP;

extern crate alloc;

mod nodes;

/// What the heap has found. Relaxed: it orders nothing.
static FOUND: AtomicUsize = AtomicUsize::new(0);

/// Sizes of the objects that the scenario uses: of slabs, and large.
const SIZES: [usize; 6] = [8, 24, 64, 1000, 4096, 40_000];

/// A wrong use of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misuse {
    WriteAfterFree,
    /// Of the link to the next free object.
    BrokenLink,
    Overflow,
    DoubleFree,
    WildFree,
    OtherLayout,
    Leak,
    /// Of memory from the global allocator.
    LeakBox,
}

impl Misuse {
    fn named(name: &str) -> Option<Misuse> {
        match name {
            "write-after-free" => Some(Misuse::WriteAfterFree),
            "broken-link" => Some(Misuse::BrokenLink),
            "overflow" => Some(Misuse::Overflow),
            "double-free" => Some(Misuse::DoubleFree),
            "wild-free" => Some(Misuse::WildFree),
            "other-layout" => Some(Misuse::OtherLayout),
            "leak" => Some(Misuse::Leak),
            "leak-box" => Some(Misuse::LeakBox),
            _ => None,
        }
    }
}

/// Told of each finding of the heap, in any context.
pub(crate) fn note(report: &Report) {
    FOUND.fetch_add(1, Ordering::Relaxed);
    failure(format_args!("heap: {report}"), "heap");
}

/// Uses the heap rightly, but for what `break=` names.
pub(crate) async fn run(words: CommandLine<'_>, topology: &'static Topology) -> Outcome {
    let misuse = match words.value("break") {
        None => None,
        Some(name) => match Misuse::named(name) {
            Some(misuse) => Some(misuse),
            None => {
                failure(format_args!("no misuse is called {name}"), "command line");
                return Outcome::Failures;
            }
        },
    };
    if let Err(error) = HEAP.heap().live_by_site(note_held) {
        failure(format_args!("{error}"), "heap");
    }
    let outcome = SIZES.iter().try_for_each(|&size| use_objects(size, misuse));
    if let Err(error) = outcome {
        failure(format_args!("{error}"), "heap");
        return Outcome::Failures;
    }
    if let Err(error) = HEAP.heap().live_by_site(look_for_leak) {
        failure(format_args!("{error}"), "heap");
    }
    let is_right = misuse.is_some() || nodes::run(topology).await;
    log!("the heap has found {} wrong uses", FOUND.load(Ordering::Relaxed));
    if is_right && FOUND.load(Ordering::Relaxed) == 0 { Outcome::Success } else { Outcome::Failures }
}

/// Allocates objects of `size` bytes, writes to them, changes their size and frees them.
fn use_objects(size: usize, misuse: Option<Misuse>) -> Result<(), AllocError> {
    let heap = HEAP.heap();
    let Ok(layout) = Layout::from_size_align(size, 8) else { return Ok(()) };
    let mut objects = [NonNull::dangling(); 40];
    for object in &mut objects {
        *object = heap.try_alloc(layout)?;
        // SAFETY: the heap gave so many bytes.
        unsafe { object.write_bytes(0x11, size) };
    }
    let (first, others) = (objects[0], &objects[1..]);
    let Ok(half) = Layout::from_size_align(size / 2, 8) else { return Ok(()) };
    for &object in others {
        // SAFETY: allocated with that layout; what comes back takes its place.
        let freed = unsafe {
            match heap.try_realloc(object, layout, half.size()) {
                Ok(object) => heap.free(object, half),
                Err(_) => heap.free(object, layout),
            }
        };
        tell(freed);
    }
    match misuse {
        Some(misuse) if size == 64 => commit(misuse, first, layout),
        // SAFETY: allocated with that layout, and not used any more.
        _ => tell(unsafe { heap.free(first, layout) }),
    }
    // What was freed is looked at when it is handed out again.
    heap.drain(&pin());
    for object in &mut objects {
        *object = heap.try_alloc(layout)?;
    }
    // SAFETY: allocated with that layout, and not used any more.
    objects.iter().for_each(|&object| tell(unsafe { heap.free(object, layout) }));
    Ok(())
}

/// Makes the wrong use of an object of 64 bytes.
fn commit(misuse: Misuse, object: NonNull<u8>, layout: Layout) {
    let heap = HEAP.heap();
    // SAFETY: it is not, which is what the heap must find out; the writes reach memory of the heap only.
    unsafe {
        match misuse {
            Misuse::WriteAfterFree => {
                // Empties the quarantine, so that neighbours of the object are among these: they keep its slab
                // where it is.
                heap.drain(&pin());
                let neighbours = Held::allocate(layout, 512);
                tell(heap.free(object, layout));
                object.add(20).write(0x22);
                heap.drain(&pin());
                Held::allocate(layout, 4096).free();
                neighbours.free();
            }
            Misuse::BrokenLink => {
                heap.drain(&pin());
                let neighbours = Held::allocate(layout, 512);
                tell(heap.free(object, layout));
                heap.drain(&pin());
                // Before the object is what the heap has put there: the link, now that it is free.
                let link = object.sub(8);
                link.write(link.read() ^ 0x22);
                Held::allocate(layout, 4096).free();
                neighbours.free();
            }
            Misuse::Overflow => {
                object.add(layout.size()).write(0x22);
                tell(heap.free(object, layout));
            }
            Misuse::DoubleFree => {
                tell(heap.free(object, layout));
                tell(heap.free(object, layout));
            }
            Misuse::WildFree => {
                let mut local = [0u64; 8];
                tell(heap.free(NonNull::from(&mut local).cast(), layout));
                tell(heap.free(object, layout));
            }
            Misuse::OtherLayout => {
                let Ok(shorter) = Layout::from_size_align(layout.size() - 1, 8) else { return };
                tell(heap.free(object, shorter));
                tell(heap.free(object, layout));
            }
            Misuse::Leak => {}
            Misuse::LeakBox => {
                leak_box();
                tell(heap.free(object, layout));
            }
        }
    }
}

/// Objects of one layout; each names the one that was allocated before it.
struct Held {
    layout: Layout,
    last: Option<NonNull<u8>>,
}

impl Held {
    /// Allocates at most `count` objects, until the heap finds a wrong use.
    fn allocate(layout: Layout, count: usize) -> Held {
        let mut held = Held { layout, last: None };
        for _ in 0..count {
            if FOUND.load(Ordering::Relaxed) > 0 {
                break;
            }
            let Ok(object) = HEAP.heap().try_alloc(layout) else { break };
            // SAFETY: the heap gave at least a word.
            unsafe { held.push(object) };
        }
        held
    }

    /// Adds an object.
    ///
    /// # Safety
    ///
    /// The object is the caller's, with this layout, which has at least a word.
    unsafe fn push(&mut self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { object.cast::<Option<NonNull<u8>>>().write(self.last) };
        self.last = Some(object);
    }

    fn free(mut self) {
        while let Some(object) = self.last {
            // SAFETY: written in `push`, and allocated with that layout; it is not used any more.
            unsafe {
                self.last = object.cast::<Option<NonNull<u8>>>().read();
                tell(HEAP.heap().free(object, self.layout));
            }
        }
    }
}

/// A refused free was reported already.
fn tell(freed: Result<(), InvalidFree>) {
    if let Err(refused) = freed {
        log!("refused: {refused}");
    }
}

/// Leaks 136 bytes that come from the global allocator, which is told of no call site.
#[inline(never)]
fn leak_box() {
    core::mem::forget(black_box(Box::new([0x33u64; 17])));
}

/// What each caller of the global allocator held when the scenario began, in bytes, less what it still has at the end.
/// Relaxed: one context uses it.
static HELD: [AtomicU64; callers::TRACES] = [const { AtomicU64::new(0) }; callers::TRACES];

/// Notes what is out by a caller of the global allocator.
fn note_held(live: &LiveObjects) {
    if let Some(Site::Caller(caller)) = live.origin.and_then(|origin| origin.site) {
        HELD[callers::place(caller)].fetch_add(live.bytes, Ordering::Relaxed);
    }
}

/// The scenario has freed all that it allocated.
fn look_for_leak(live: &LiveObjects) {
    match live.origin.and_then(|origin| origin.site) {
        Some(Site::Call(site)) if site.file() == file!() => {
            FOUND.fetch_add(1, Ordering::Relaxed);
            failure(format_args!("heap: leak of {} bytes, allocated at {site}", live.bytes), "heap");
        }
        Some(Site::Caller(caller)) => {
            // One caller may be listed for several CPUs.
            let held = &HELD[callers::place(caller)];
            let leaked = live.bytes.saturating_sub(held.load(Ordering::Relaxed));
            held.store(held.load(Ordering::Relaxed).saturating_sub(live.bytes), Ordering::Relaxed);
            if leaked > 0 {
                FOUND.fetch_add(1, Ordering::Relaxed);
                callers::trace(caller).report_leak(leaked);
            }
        }
        _ => {}
    }
}
