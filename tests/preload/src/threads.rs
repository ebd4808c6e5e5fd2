//! Threads as CPUs.
//!
//! A thread claims a CPU's number at its first allocation. A destructor of a POSIX thread key gives
//! the number back when the thread ends. A thread without a number, since there are no more, or since
//! it is about to end, acts on [`SHARED`], whose CPU never comes online: nothing there is a CPU's own,
//! so any number of threads may act on it.
//!
//! Each entry into the heap is counted at the CPU's number, for the [`gate`]. The count is also what
//! tells a signal handler that its thread is inside already.

use core::arch::{asm, global_asm};
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

use topomem_percpu::{CpuId, CpuPin};

use crate::machine::{FRAMES, HEAP};
use crate::{errno, gate, start};

/// Number of CPUs: one for each of as many threads less one at a time.
const CPUS: usize = 512;

/// The CPU that never comes online.
const SHARED: usize = CPUS - 1;

/// What a thread knows of itself. All zero is a thread that has not allocated yet.
#[repr(C)]
pub(crate) struct Thread {
    /// The CPU's number plus one; 0 while the thread has none. Written by the thread only, but signal
    /// handlers look at it at any time.
    cpu: AtomicU32,
    stage: AtomicU32,
    /// How often the thread is inside the heap on [`SHARED`].
    nested: AtomicU32,
}

/// The thread has not allocated yet.
const NEW: u32 = 0;
/// The thread has a number, or it has tried to get one.
const KNOWN: u32 = 1;

// The thread's own variable, in the block of thread-local memory that exists from the thread's start
// on: reading it never allocates. `thread_local!` promises neither in a shared library.
global_asm!(
    ".pushsection .tbss.topomem_thread,\"awT\",@nobits",
    ".p2align 4",
    ".globl topomem_thread",
    ".hidden topomem_thread",
    ".type topomem_thread, @object",
    ".size topomem_thread, 16",
    "topomem_thread:",
    ".zero 16",
    ".popsection",
);

const _: () = assert!(size_of::<Thread>() <= 16);

/// The calling thread.
#[inline(always)]
pub(crate) fn current() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: two loads; `fs:0` holds the thread's base, from which the variable has a fixed distance.
    unsafe {
        asm!(
            "mov {thread}, qword ptr [rip + topomem_thread@GOTTPOFF]",
            "add {thread}, qword ptr fs:[0]",
            thread = out(reg) thread,
            options(pure, readonly, nostack),
        );
    }
    // SAFETY: the variable is there while the thread runs, and zeroes are valid atomics.
    unsafe { &*thread }
}

impl Thread {
    /// Where it is: tells threads apart.
    pub(crate) fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    #[inline(always)]
    fn number(&self) -> Option<usize> {
        // Relaxed: the thread's own.
        (self.cpu.load(Ordering::Relaxed) as usize).checked_sub(1)
    }
}

/// A CPU's number, on a line of its own.
#[repr(align(64))]
struct Entries {
    /// How often the CPU's thread is inside the heap; of [`SHARED`], how many threads are.
    inside: AtomicU32,
}

static ENTRIES: [Entries; CPUS] = [const { Entries { inside: AtomicU32::new(0) } }; CPUS];

const WORDS: usize = CPUS / 64;
/// A bit for each number that a thread has. [`SHARED`] has one from the beginning.
static CLAIMED: [AtomicU64; WORDS] = {
    let mut words = [const { AtomicU64::new(0) }; WORDS];
    words[SHARED / 64] = AtomicU64::new(1 << (SHARED % 64));
    words
};

/// The CPU that the calling thread acts as.
#[inline(always)]
pub(crate) fn cpu() -> CpuId {
    cpu_numbered(current().number().unwrap_or(SHARED))
}

#[inline(always)]
fn cpu_numbered(number: usize) -> CpuId {
    CpuId::new(number).unwrap_or(CpuId::BOOT)
}

/// Notes that the calling thread is inside the heap, until [`leave`]. Waits while another thread
/// forks, unless it was inside already.
#[inline(always)]
pub(crate) fn enter() {
    let thread = current();
    let Some(number) = thread.number() else { return enter_otherwise(thread) };
    let inside = &ENTRIES[number % CPUS].inside;
    // Relaxed: the thread's own. A signal handler between the two leaves the count as it was.
    let before = inside.load(Ordering::Relaxed);
    inside.store(before + 1, Ordering::Relaxed);
    // The gate is looked at after the store: `gate` makes that hold on other CPUs, too.
    compiler_fence(Ordering::SeqCst);
    if before == 0 && gate::is_closed() {
        gate::wait(thread, || inside.store(0, Ordering::Release), || inside.store(1, Ordering::SeqCst));
    }
}

/// Ends what the last [`enter`] of this thread began.
#[inline(always)]
pub(crate) fn leave() {
    let thread = current();
    let Some(number) = thread.number() else { return leave_shared(thread) };
    let inside = &ENTRIES[number % CPUS].inside;
    // Release pairs with the Acquire in `all_outside`.
    inside.store(inside.load(Ordering::Relaxed) - 1, Ordering::Release);
}

#[cold]
#[inline(never)]
fn enter_otherwise(thread: &'static Thread) {
    // A signal handler that comes before the swap does all of this; one that comes later is served on
    // `SHARED`, as is what the thread library allocates meanwhile.
    if thread.stage.swap(KNOWN, Ordering::Relaxed) == NEW && start::run(thread) && claim(thread) {
        enter();
        bring_online();
        return;
    }
    enter_shared(thread);
}

#[cold]
fn enter_shared(thread: &'static Thread) {
    let before = thread.nested.load(Ordering::Relaxed);
    thread.nested.store(before + 1, Ordering::Relaxed);
    if before > 0 {
        return;
    }
    let inside = &ENTRIES[SHARED].inside;
    // SeqCst: before the look at the gate. A read-modify-write, since other threads count here, too.
    inside.fetch_add(1, Ordering::SeqCst);
    if gate::is_closed() {
        let (leave, enter) = (
            || {
                inside.fetch_sub(1, Ordering::Release);
            },
            || {
                inside.fetch_add(1, Ordering::SeqCst);
            },
        );
        gate::wait(thread, leave, enter);
    }
}

#[cold]
fn leave_shared(thread: &'static Thread) {
    let left = thread.nested.load(Ordering::Relaxed) - 1;
    if left == 0 {
        // Release pairs with the Acquire in `all_outside`.
        ENTRIES[SHARED].inside.fetch_sub(1, Ordering::Release);
    }
    thread.nested.store(left, Ordering::Relaxed);
}

/// Gives the thread a number of its own. False if there is none, or if nobody would give it back.
fn claim(thread: &'static Thread) -> bool {
    let Some(number) =
        CLAIMED.iter().enumerate().find_map(|(index, word)| Some(index * 64 + claim_in(word)?))
    else {
        return false;
    };
    if !start::watch_end_of_thread(ptr::from_ref(thread).cast()) {
        release(number);
        return false;
    }
    thread.cpu.store(number as u32 + 1, Ordering::Relaxed);
    true
}

/// Sets a bit of `word` that is clear, if there is one.
#[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
fn claim_in(word: &AtomicU64) -> Option<usize> {
    // Acquire pairs with the Release in `release`: the number's last thread has done its work.
    let lowest = |claimed: u64| (claimed != u64::MAX).then_some(claimed | (claimed + 1));
    let before = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, lowest).ok()?;
    Some(before.trailing_ones() as usize)
}

fn release(number: usize) {
    CLAIMED[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Release);
}

/// Gives the thread's CPU its magazines. Without memory for them, the CPU goes on without.
fn bring_online() {
    // SAFETY: the thread is inside, and the number is its own until it ends.
    let pin = unsafe { CpuPin::new(cpu()) };
    let _ = FRAMES.cpu_online(&pin);
    let _ = HEAP.cpu_online(&pin);
}

/// The thread ends: its magazines go back, and its number is free again. What it frees after this,
/// or allocates, it does on [`SHARED`].
pub(crate) extern "C" fn end(_: *mut c_void) {
    let thread = current();
    let Some(number) = thread.number() else { return };
    errno::preserved(|| {
        enter();
        // SAFETY: the thread is inside, and the number is its own until it is released below.
        let pin = unsafe { CpuPin::new(cpu()) };
        let _ = HEAP.cpu_offline(&pin);
        let _ = FRAMES.cpu_offline(&pin);
        leave();
        thread.cpu.store(0, Ordering::Relaxed);
        release(number);
    });
}

/// Is no thread but the calling one inside the heap?
pub(crate) fn all_outside() -> bool {
    let thread = current();
    let own = thread.number().unwrap_or(SHARED);
    ENTRIES.iter().enumerate().all(|(number, entries)| {
        // Acquire pairs with the Releases where threads leave.
        let inside = entries.inside.load(Ordering::Acquire);
        inside == 0
            || (number == own
                && (own != SHARED || (inside == 1 && thread.nested.load(Ordering::Relaxed) > 0)))
    })
}

/// The process is a fork's child, which has no thread but this one. The numbers of its parent's other
/// threads are free, each with the magazines as they were, which the next thread that claims the
/// number goes on with. A number whose thread was inside the heap stays claimed.
pub(crate) fn forget_others() {
    let thread = current();
    let own = thread.number().unwrap_or(SHARED);
    for (number, entries) in
        ENTRIES.iter().enumerate().filter(|&(number, _)| number != own && number != SHARED)
    {
        if entries.inside.load(Ordering::Relaxed) == 0 {
            release(number);
        }
    }
    let inside = u32::from(own == SHARED && thread.nested.load(Ordering::Relaxed) > 0);
    ENTRIES[SHARED].inside.store(inside, Ordering::Relaxed);
}
