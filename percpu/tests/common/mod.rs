//! A machine for the heap's tests: an arena as RAM, cut into nodes; threads that play CPUs.
//! Lock-free throughout, so that signal handlers can play interrupt handlers on it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod counting;
#[cfg(feature = "hardening")]
pub(crate) mod recorder;

use std::alloc::Layout;
use std::cell::Cell;
// The crate's own tests are `no_std`, and include this file too.
use std::prelude::rust_2024::*;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use topomem_percpu::{
    CpuId, CpuPin, Heap, InvalidFree, NodeId, NotInPlace, Order, OutOfMemory, PageSource, Platform,
    RunLength, SizeClass,
};

const PAGE: usize = 4096;
/// A word of the page bitmap.
const CHUNK: usize = 64 * PAGE;
/// What the arena is aligned to: a heap's record of its runs has a table for so much, and tests that
/// count pages want no second one.
const ALIGNMENT: usize = 16 << 20;

std::thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static HOOK_DEPTH: Cell<usize> = const { Cell::new(0) };
}

pub(crate) type TestHeap<'a> = Heap<&'a Machine, &'a Machine>;

pub(crate) struct Machine {
    memory: NonNull<u8>,
    nodes: usize,
    cpus_per_node: usize,
    chunks_per_node: usize,
    used: Vec<AtomicU64>,
    /// Allocations until they begin to fail; negative: never.
    pub(crate) allowance: AtomicI64,
    /// Allocations until a single one fails; negative: none.
    pub(crate) failing: AtomicI64,
    pub(crate) refused: AtomicUsize,
    /// Runs inside `allocate` and `free`, once per nesting.
    hook: Option<Box<dyn Fn() + Send + Sync>>,
}

// SAFETY: the arena is plain memory, the machine's own.
unsafe impl Send for Machine {}
// SAFETY: runs are handed out by atomic bits, each to one holder at a time.
unsafe impl Sync for Machine {}

impl Machine {
    pub(crate) fn new(nodes: usize, cpus_per_node: usize, bytes_per_node: usize) -> Machine {
        let chunks_per_node = bytes_per_node / CHUNK;
        // SAFETY: there is at least one chunk, so the size is not 0.
        let memory = unsafe { std::alloc::alloc(Machine::layout(nodes * chunks_per_node)) };
        Machine {
            memory: NonNull::new(memory).unwrap(),
            nodes,
            cpus_per_node,
            chunks_per_node,
            used: (0..nodes * chunks_per_node).map(|_| AtomicU64::new(0)).collect(),
            allowance: AtomicI64::new(-1),
            failing: AtomicI64::new(-1),
            refused: AtomicUsize::new(0),
            hook: None,
        }
    }

    pub(crate) fn hooked(mut self, hook: impl Fn() + Send + Sync + 'static) -> Machine {
        self.hook = Some(Box::new(hook));
        self
    }

    fn layout(chunks: usize) -> Layout {
        Layout::from_size_align(chunks * CHUNK, ALIGNMENT).unwrap()
    }

    /// `pages` pages near `node`, the first at a multiple of `align` pages.
    fn allocate_pages(&self, node: NodeId, pages: u64, align: u64) -> Result<NonNull<u8>, OutOfMemory> {
        self.run_hook();
        if pages > 64 || align > 64 {
            return Err(OutOfMemory);
        }
        self.allow()?;
        let (pages, align) = (pages as usize, align as usize);
        for distance in 0..self.nodes {
            let node = (node.index() + distance) % self.nodes;
            for chunk in node * self.chunks_per_node..(node + 1) * self.chunks_per_node {
                if let Some(run) = self.allocate_in(chunk, pages, align) {
                    // Whoever reads memory it was not given reads this.
                    // SAFETY: the run's bits were clear, so it is this call's alone.
                    unsafe { run.write_bytes(0xa5, pages * PAGE) };
                    return Ok(run);
                }
            }
        }
        Err(OutOfMemory)
    }

    /// # Safety
    ///
    /// The pages are out, and the caller gives them up.
    unsafe fn free_pages(&self, run: NonNull<u8>, pages: u64) {
        self.run_hook();
        let (pages, offset) = (pages as usize, run.addr().get() - self.memory.addr().get());
        // SAFETY: the caller gives the run up.
        unsafe { run.write_bytes(0x5a, pages * PAGE) };
        let mask = mask(offset % CHUNK / PAGE, pages);
        let before = self.used[offset / CHUNK].fetch_and(!mask, Ordering::AcqRel);
        assert_eq!(before & mask, mask, "the run was out");
    }

    /// Counts a call that may fail; an error if it is to.
    fn allow(&self) -> Result<(), OutOfMemory> {
        let left = self.allowance.load(Ordering::SeqCst);
        if left == 0 {
            return Err(OutOfMemory);
        }
        if left > 0 {
            self.allowance.fetch_sub(1, Ordering::SeqCst);
        }
        if self.failing.load(Ordering::SeqCst) >= 0 && self.failing.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(OutOfMemory);
        }
        Ok(())
    }

    fn run_hook(&self) {
        if let Some(hook) = &self.hook
            && HOOK_DEPTH.replace(1) == 0
        {
            hook();
            HOOK_DEPTH.set(0);
        }
    }

    /// Pages that are out.
    pub(crate) fn outstanding(&self) -> usize {
        self.used.iter().map(|word| word.load(Ordering::SeqCst).count_ones() as usize).sum()
    }

    pub(crate) fn cpus(&self) -> usize {
        self.nodes * self.cpus_per_node
    }

    /// The node whose memory holds `address`.
    pub(crate) fn node_of(&self, address: NonNull<u8>) -> NodeId {
        let offset = address.addr().get() - self.memory.addr().get();
        NodeId::new(offset / CHUNK / self.chunks_per_node).unwrap()
    }

    /// Pages of `chunk`, `pages` of them, the first at a multiple of `align` pages.
    fn allocate_in(&self, chunk: usize, pages: usize, align: usize) -> Option<NonNull<u8>> {
        for start in (0..=64 - pages).step_by(align) {
            let mask = mask(start, pages);
            let mut word = self.used[chunk].load(Ordering::Relaxed);
            while word & mask == 0 {
                match self.used[chunk].compare_exchange(
                    word,
                    word | mask,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        let offset = chunk * CHUNK + start * PAGE;
                        // SAFETY: the chunk is one of the arena's, and the run lies in it.
                        return Some(unsafe { self.memory.add(offset) });
                    }
                    Err(seen) => word = seen,
                }
            }
        }
        None
    }
}

/// The bits of `pages` pages of a chunk, from `start` on.
fn mask(start: usize, pages: usize) -> u64 {
    u64::MAX >> (64 - pages) << start
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same count of chunks.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), Machine::layout(self.used.len())) };
    }
}

/// The calling thread is `cpu` from here on.
pub(crate) fn become_cpu(cpu: usize) {
    CPU.set(cpu);
}

/// A pin for the CPU that the thread plays.
pub(crate) fn pin() -> CpuPin {
    // SAFETY: each test lets one thread at a time play a CPU.
    unsafe { CpuPin::new(CpuId::new(CPU.get()).unwrap()) }
}

// SAFETY: tests let one thread at a time play a CPU, and the heap asks for no physical address.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(CPU.get()).unwrap()
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}

// SAFETY: runs are aligned to their order, disjoint, and live until they are freed.
unsafe impl PageSource for Machine {
    fn allocate(&self, _: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_pages(node, order.frames(), order.frames())
    }

    unsafe fn free(&self, _: &CpuPin, run: NonNull<u8>, order: Order) {
        let offset = run.addr().get() - self.memory.addr().get();
        assert_eq!(offset as u64 % order.bytes(), 0, "a run comes back aligned to its order");
        // SAFETY: the caller's promise.
        unsafe { self.free_pages(run, order.frames()) };
    }

    fn allocate_run(
        &self,
        _: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        assert!(align <= length.holding_order() && length.order().is_none_or(|order| order == align));
        self.allocate_pages(node, length.pages(), align.frames())
    }

    unsafe fn free_run(&self, _: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // SAFETY: the caller's promise.
        unsafe { self.free_pages(run, length.pages()) };
    }

    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    unsafe fn extend_run(
        &self,
        _: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        assert!(from < to);
        self.run_hook();
        self.allow().map_err(|_| NotInPlace)?;
        let offset = run.addr().get() - self.memory.addr().get() + from.bytes() as usize;
        let (start, pages) = (offset % CHUNK / PAGE, (to.pages() - from.pages()) as usize);
        if start == 0 || start + pages > 64 {
            return Err(NotInPlace);
        }
        let (mask, word) = (mask(start, pages), &self.used[offset / CHUNK]);
        let claim = |used: u64| (used & mask == 0).then_some(used | mask);
        word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, claim).map_err(|_| NotInPlace)?;
        // SAFETY: the bits were clear, so the pages are this call's alone.
        unsafe { self.memory.add(offset).write_bytes(0xa5, pages * PAGE) };
        Ok(())
    }

    unsafe fn shrink_run(
        &self,
        _: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        assert!(to < from);
        self.allow().map_err(|_| NotInPlace)?;
        // SAFETY: the caller gives up what is beyond the new length.
        unsafe { self.free_pages(run.add(to.bytes() as usize), from.pages() - to.pages()) };
        Ok(())
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        NodeId::new(cpu.index() / self.cpus_per_node % self.nodes).unwrap()
    }

    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        (node.index() < self.nodes).then_some(node)
    }

    fn refused(&self, _: InvalidFree) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    #[cfg(feature = "hardening")]
    fn reported(&self, _: &topomem_percpu::Report) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

/// A heap over the machine's pages, with all measures that the build has if it is to be `hardened`.
pub(crate) fn heap(machine: &Machine, hardened: bool) -> TestHeap<'_> {
    #[cfg(feature = "hardening")]
    if hardened {
        return Heap::with_hardening(machine, machine, topomem_percpu::Hardening::ALL);
    }
    let _ = hardened;
    Heap::new(machine, machine)
}

/// Brings every CPU's magazines online, from one thread.
pub(crate) fn all_online(heap: &TestHeap<'_>) {
    for cpu in 0..heap.source().cpus() {
        become_cpu(cpu);
        heap.cpu_online(&pin()).unwrap();
    }
    become_cpu(0);
}

/// Returns every CPU's cached objects, from one thread.
pub(crate) fn all_drained(heap: &TestHeap<'_>) {
    for cpu in 0..heap.source().cpus() {
        become_cpu(cpu);
        heap.drain(&pin());
    }
    become_cpu(0);
}

/// Live, cached and free objects of all classes, and slabs.
pub(crate) fn totals(heap: &TestHeap<'_>) -> (u64, u64, u64, u64) {
    SizeClass::all().map(|class| heap.class_stats(class)).fold((0, 0, 0, 0), |sum, stats| {
        (sum.0 + stats.live, sum.1 + stats.cached, sum.2 + stats.free, sum.3 + stats.slabs)
    })
}

/// A heap with all measures against wrong uses that the build has.
pub(crate) fn all_measures(machine: &Machine) -> TestHeap<'_> {
    #[cfg(feature = "hardening")]
    return Heap::with_hardening(machine, machine, topomem_percpu::Hardening::ALL);
    #[cfg(not(feature = "hardening"))]
    Heap::new(machine, machine)
}

/// Checks that callers hold nothing of the heap, and that the heap's end returns every page.
pub(crate) fn check_empty(machine: &Machine, heap: TestHeap<'_>, what: &str) {
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0), "{what}");
    assert_eq!(heap.large_stats().live, 0, "{what}");
    drop(heap);
    assert_eq!(machine.outstanding(), 0, "{what}");
}
