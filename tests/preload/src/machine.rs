//! The machine below the heap: threads as CPUs, a range of address space as RAM.

use core::convert::Infallible;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use topomem_numa::frames::{BootMemory, FrameRequest, Frames, FramesConfig};
use topomem_numa::{MemoryRange, Piece};
use topomem_percpu::{
    CpuId, CpuPin, Heap, NodeId, Order, OutOfMemory, PageSource, PhysAddr, Platform, RunLength, Saved,
    forward_page_source,
};

use crate::{errno, threads};

/// The frames.
pub(crate) static FRAMES: Frames<Threads> = Frames::new(Threads);
/// The heap over them.
pub(crate) static HEAP: Heap<Threads, FramePages> = Heap::new(Threads, FramePages);

/// The physical address at which RAM begins: above the zones for devices, so there is one zone.
const BASE: u64 = 4 << 30;
/// The largest run of frames is aligned to its own size, in RAM and where programs see it.
const ALIGNMENT: usize = Order::GIANT.bytes() as usize;
/// The most and the least RAM that is reserved.
const MOST: usize = 64 << 30;
const LEAST: usize = 64 << 20;
/// How many CPUs have a magazine of frames. Each costs a part of a page at every program's start.
const CPUS_WITH_FRAMES: usize = 64;

/// Bytes of a run that the kernel zeroes: below, a call and the faults cost more than to write the zeroes.
const LONG: usize = 1 << 20;

/// Where RAM is; null before it is reserved.
static RAM: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static RAM_BYTES: AtomicU64 = AtomicU64::new(0);

/// Threads as CPUs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads;

// SAFETY: a number is one thread's, from its claim to its release, and what runs there meanwhile is
// the thread and its signal handlers, which nest. The shared number stands for a CPU that never comes
// online: nothing is local to it. RAM is the process's own as long as it lives.
unsafe impl Platform for Threads {
    #[inline(always)]
    fn current_cpu(&self) -> CpuId {
        threads::cpu()
    }

    #[inline]
    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        // Relaxed: whoever has a frame learned of it after RAM was reserved.
        let ram = RAM.load(Ordering::Relaxed);
        let address = ram.wrapping_add(addr.as_u64().wrapping_sub(BASE) as usize);
        NonNull::new(address).unwrap_or(NonNull::dangling())
    }

    #[inline(always)]
    fn disable_migration(&self) -> Saved {
        threads::enter();
        Saved::default()
    }

    #[inline(always)]
    fn enable_migration(&self, _: Saved) {
        threads::leave();
    }
}

/// Pages of the frame allocator, where programs see them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePages;

// SAFETY: a run of frames is its holder's alone, and RAM is mapped for reads and writes.
unsafe impl PageSource for FramePages {
    /// Has the kernel take the pages of a long run, and give zeroed ones when the program touches them: so each is
    /// written to once, and none that the program does not use.
    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.allocate_run(pin, node, length, align)?;
        let bytes = length.bytes() as usize;
        // SAFETY: the run is private memory of so many bytes, and nobody else's.
        let taken = bytes >= LONG
            && errno::preserved(|| unsafe {
                libc::madvise(run.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0
            });
        if !taken {
            // SAFETY: as above.
            unsafe { run.write_bytes(0, bytes) };
        }
        Ok(run)
    }

    forward_page_source!(|_this| &FRAMES;
        allocate, free, allocate_run, free_run, extend_run, shrink_run, node_of_cpu);
}

/// Reserves RAM, and hands it to the frame allocator. False if there is no address space.
pub(crate) fn start() -> bool {
    let mut bytes = wanted();
    let ram = loop {
        if let Some(ram) = reserve(bytes) {
            break ram;
        }
        bytes /= 2;
        if bytes < LEAST {
            return false;
        }
    };
    RAM.store(ram.as_ptr(), Ordering::Relaxed);
    RAM_BYTES.store(bytes as u64, Ordering::Relaxed);
    // A reserve would keep memory from the host: nothing here frees memory by using some.
    FRAMES.init(&mut Ram { next: BASE }, &FramesConfig::without_reserve()).is_ok()
}

/// Twice the host's memory: a program that needs more than that is killed before it gets there.
fn wanted() -> usize {
    // SAFETY: zeroes are a valid value.
    let mut info: libc::sysinfo = unsafe { core::mem::zeroed() };
    // SAFETY: the address is the variable's.
    if unsafe { libc::sysinfo(&mut info) } != 0 {
        return LEAST;
    }
    let bytes = info.totalram.saturating_mul(u64::from(info.mem_unit)).saturating_mul(2);
    usize::try_from(bytes).unwrap_or(MOST).clamp(LEAST, MOST).next_multiple_of(LEAST)
}

/// Address space for `bytes` bytes, aligned for the largest run. Pages exist once they are written.
fn reserve(bytes: usize) -> Option<NonNull<u8>> {
    let all = bytes + ALIGNMENT;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel has room.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), all, protection, flags, -1, 0) };
    if mapping == libc::MAP_FAILED {
        return None;
    }
    let before = mapping.addr().next_multiple_of(ALIGNMENT) - mapping.addr();
    let ram = mapping.cast::<u8>().wrapping_add(before);
    let behind = ALIGNMENT - before;
    // SAFETY: both are ends of the mapping, which nobody uses yet.
    unsafe {
        if before > 0 {
            libc::munmap(mapping, before);
        }
        if behind > 0 {
            libc::munmap(ram.wrapping_add(bytes).cast(), behind);
        }
    }
    NonNull::new(ram)
}

/// RAM as the frame allocator takes it over: one node, bookkeeping first.
struct Ram {
    next: u64,
}

// SAFETY: nobody else uses the reserved range, and what is placed lies before the piece.
unsafe impl BootMemory for Ram {
    type Error = Infallible;

    fn node_count(&self) -> usize {
        1
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        core::iter::once(node)
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        (0..CPUS_WITH_FRAMES).filter_map(CpuId::new).map(|cpu| (cpu, NodeId::ZERO))
    }

    fn weight(&self, _: NodeId) -> Option<u32> {
        None
    }

    fn free_ranges(&self) -> impl Iterator<Item = Piece> {
        let end = BASE + RAM_BYTES.load(Ordering::Relaxed);
        let range = MemoryRange::from_bounds(self.next.next_multiple_of(4096), end);
        range.map(|range| Piece { range, node: NodeId::ZERO }).into_iter()
    }

    fn alloc(&mut self, bytes: u64, align: u64, _: NodeId) -> Result<PhysAddr, Infallible> {
        let start = self.next.next_multiple_of(align);
        self.next = start + bytes;
        Ok(PhysAddr::new(start))
    }
}

/// Gives the kernel back the memory of all free runs of 2 MiB and more, and says how much address space
/// that was. It holds them all at the same time, so meanwhile no other thread may be inside.
pub(crate) fn trim(pin: &CpuPin) -> u64 {
    HEAP.reclaim(pin);
    let _ = FRAMES.drain(pin);
    let mut bytes = 0;
    // RAM has no more runs of the largest order, and of each smaller one some that are part of no larger.
    let mut held = [const { None }; MOST / ALIGNMENT + 2 * Order::GIANT.get() as usize];
    let mut orders = Order::all().rev().take_while(|&order| order >= Order::HUGE).peekable();
    for place in &mut held {
        let found = loop {
            let Some(&order) = orders.peek() else { break None };
            match FRAMES.alloc(pin, &FrameRequest::order(order)) {
                Ok(frame) => break Some((frame, order)),
                Err(_) => orders.next(),
            };
        };
        let Some((frame, order)) = found else { break };
        let run = Threads.phys_to_virt(frame.start_address());
        // SAFETY: the run is ours, and nobody expects anything in it.
        unsafe { libc::madvise(run.as_ptr().cast(), order.bytes() as usize, libc::MADV_DONTNEED) };
        bytes += order.bytes();
        *place = found;
    }
    for (frame, order) in held.into_iter().flatten() {
        // SAFETY: allocated above with this order.
        let freed = unsafe { FRAMES.free(pin, frame, order) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
    bytes
}
