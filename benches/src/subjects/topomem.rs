//! topomem's frame allocator, on a machine described by hand.

use std::alloc::Layout;
use std::convert::Infallible;
use std::fmt;
use std::ptr::NonNull;

use topomem_numa::frames::{BootMemory, DoubleFrees, FrameRequest, Frames, FramesConfig, ResizeError};
use topomem_numa::{MemoryRange, Piece};
use topomem_percpu::{CpuId, CpuPin, NodeId, Order, PhysAddr, PhysFrame, Platform};

use crate::heap::arena::{self, Arena};
use crate::subject::Subject;

/// Where the managed frames begin: above the DMA zones, so that all of them are one zone.
const BASE: u64 = 4 << 30;

/// Bookkeeping is always there. The managed frames may be an arena's memory; those without are never
/// touched.
struct Host {
    metadata: NonNull<u8>,
    layout: Layout,
    arena: Option<Arena>,
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the allocator that uses it owns this host, and goes
        // with it.
        unsafe { std::alloc::dealloc(self.metadata.as_ptr(), self.layout) };
    }
}

// SAFETY: plain memory, freed with the allocator that uses it.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

// SAFETY: bookkeeping is placed below `BASE`, and is there as long as the host; frames are asked for only
// to be zeroed, which the benchmarks without an arena never do; `pin` is not used.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        match (&self.arena, addr.as_u64().checked_sub(BASE)) {
            // SAFETY: frames above `BASE` are the arena's.
            (Some(arena), Some(offset)) => unsafe { arena.base().add(offset as usize) },
            // SAFETY: `Placed` hands out addresses inside the block only.
            _ => unsafe { self.metadata.add(addr.as_u64() as usize) },
        }
    }
}

/// Nodes of equal size one above the other, bookkeeping below them. CPUs are dealt out to the
/// nodes in turn.
struct Placed {
    frames: u64,
    cpus: usize,
    nodes: usize,
    /// Where the next place begins, and where the block ends.
    next: u64,
    end: u64,
}

impl Placed {
    fn node(&self, number: usize) -> NodeId {
        NodeId::new(number % self.nodes).unwrap_or(NodeId::ZERO)
    }
}

// SAFETY: the pieces' RAM is never touched; places are disjoint parts of the block.
unsafe impl BootMemory for Placed {
    type Error = Infallible;

    fn node_count(&self) -> usize {
        self.nodes
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        (0..self.nodes).map(move |offset| self.node(node.index() + offset))
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        (0..self.cpus).filter_map(CpuId::new).map(|cpu| (cpu, self.node(cpu.index())))
    }

    fn weight(&self, _: NodeId) -> Option<u32> {
        None
    }

    fn free_ranges(&self) -> impl Iterator<Item = Piece> {
        let bytes = self.frames * 4096 / self.nodes as u64;
        (0..self.nodes).filter_map(move |number| {
            let start = BASE + number as u64 * bytes;
            let range = MemoryRange::from_bounds(start, start + bytes)?;
            Some(Piece { range, node: self.node(number) })
        })
    }

    fn alloc(&mut self, bytes: u64, align: u64, _: NodeId) -> Result<PhysAddr, Infallible> {
        let start = self.next.next_multiple_of(align);
        self.next = start + bytes;
        assert!(self.next <= self.end, "bookkeeping needs more than its block");
        Ok(PhysAddr::new(start))
    }
}

/// The allocator with a magazine for each CPU.
pub struct Topomem {
    frames: Frames<Host>,
    metadata: usize,
}

impl fmt::Debug for Topomem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topomem").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: in each case one thread at a time plays a CPU.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap_or(CpuId::BOOT)) }
}

impl Topomem {
    /// An allocator over `frames` frames, spread evenly over `nodes` nodes as the CPUs are.
    #[must_use]
    pub fn on_nodes(frames: usize, cpus: usize, nodes: usize, double_frees: DoubleFrees) -> Topomem {
        Topomem::on(frames, None, cpus, nodes, double_frees)
    }

    /// An allocator over the frames of an arena, spread evenly over `nodes` nodes as the CPUs are.
    #[must_use]
    pub fn over_nodes(arena: Arena, cpus: usize, nodes: usize) -> Topomem {
        Topomem::on(arena::BYTES / 4096, Some(arena), cpus, nodes, DoubleFrees::default())
    }

    fn on(
        frames: usize,
        arena: Option<Arena>,
        cpus: usize,
        nodes: usize,
        double_frees: DoubleFrees,
    ) -> Topomem {
        // A byte a frame at most, magazines, and tables of fixed size.
        let bytes = 2 * frames + (256 << 10);
        let Ok(layout) = Layout::from_size_align(bytes, 4096) else {
            panic!("topomem: {frames} frames are too many");
        };
        // SAFETY: the size is not zero.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        let metadata = NonNull::new(block).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        let mut boot_memory = Placed { frames: frames as u64, cpus, nodes, next: 4096, end: bytes as u64 };
        let allocator = Frames::new(Host { metadata, layout, arena });
        // The peers have no reserve.
        let config = FramesConfig { double_frees, ..FramesConfig::without_reserve() };
        if let Err(error) = allocator.init(&mut boot_memory, &config) {
            panic!("topomem: {error}");
        }
        for cpu in 0..cpus {
            if let Err(error) = allocator.cpu_online(&pin(cpu)) {
                panic!("topomem: {error}");
            }
        }
        Topomem { frames: allocator, metadata: boot_memory.next as usize - 4096 }
    }

    /// Allocates a run of the arena's frames: its memory.
    #[inline]
    pub fn alloc_memory(&self, pin: &CpuPin, order: Order) -> Option<NonNull<u8>> {
        let frame = self.alloc(pin, order)?;
        Some(self.frames.platform().phys_to_virt(frame.start_address()))
    }

    /// Frees the run of the arena's frames whose memory begins at `memory`.
    #[inline]
    pub fn free_memory(&self, pin: &CpuPin, memory: NonNull<u8>, order: Order) {
        self.free(pin, self.frame_of(memory), order);
    }

    /// Allocates `pages` of the arena's frames, the first at a multiple of `align` frames: their memory.
    pub fn alloc_pages(&self, pin: &CpuPin, pages: u64, align: Order) -> Option<NonNull<u8>> {
        let request = FrameRequest::order(Order::FRAME);
        let first = self.frames.alloc_run(pin, &request, pages, align.frames()).ok()?;
        Some(self.frames.platform().phys_to_virt(first.start_address()))
    }

    /// Frees the arena's frames whose memory begins at `memory`, as many as were allocated together.
    pub fn free_pages(&self, pin: &CpuPin, memory: NonNull<u8>, pages: u64) {
        // SAFETY: the cases free what they allocated, and do not touch it any more.
        if let Err(error) = unsafe { self.frames.free_run(pin, self.frame_of(memory), pages) } {
            panic!("topomem: {error}");
        }
    }

    /// Makes `pages` of the arena's frames that were allocated together `longer`, where they are.
    ///
    /// # Errors
    ///
    /// If frames behind them are in use.
    pub fn extend_pages(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        pages: u64,
        longer: u64,
    ) -> Result<(), ResizeError> {
        // SAFETY: the cases own what they allocated.
        unsafe { self.frames.extend_run(pin, self.frame_of(memory), pages, longer) }
    }

    /// Frees the end of `pages` of the arena's frames that were allocated together.
    ///
    /// # Errors
    ///
    /// If the allocator refuses.
    pub fn shrink_pages(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        pages: u64,
        shorter: u64,
    ) -> Result<(), ResizeError> {
        // SAFETY: the cases own what they allocated, and do not touch what they free any more.
        unsafe { self.frames.shrink_run(pin, self.frame_of(memory), pages, shorter) }
    }

    /// The arena's frame whose memory begins at `memory`.
    #[inline]
    fn frame_of(&self, memory: NonNull<u8>) -> PhysFrame {
        let arena = self.frames.platform().arena.as_ref();
        let base = arena.map_or(0, |arena| arena.base().addr().get());
        PhysFrame::containing_address(PhysAddr::new(BASE + (memory.addr().get() - base) as u64))
    }

    /// Free memory, wherever it is.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.frames.stats(NodeId::ZERO).map_or(0, |stats| stats.all_free() * 4096)
    }
}

impl Subject for Topomem {
    const NAME: &'static str = "topomem";
    type Frame = PhysFrame;
    type Cpu = CpuPin;

    fn new(frames: usize, cpus: usize) -> Topomem {
        Topomem::on_nodes(frames, cpus, 1, DoubleFrees::default())
    }

    fn cpu(&self, cpu: usize) -> CpuPin {
        pin(cpu)
    }

    #[inline]
    fn alloc(&self, cpu: &CpuPin, order: Order) -> Option<PhysFrame> {
        self.frames.alloc(cpu, &FrameRequest::order(order)).ok()
    }

    #[inline]
    fn free(&self, cpu: &CpuPin, frame: PhysFrame, order: Order) {
        // SAFETY: the cases free what they allocated, and never touch it.
        if let Err(error) = unsafe { self.frames.free(cpu, frame, order) } {
            panic!("topomem: {error}");
        }
    }

    #[inline]
    fn free_list(&self, cpu: &CpuPin, frames: &[PhysFrame]) {
        // SAFETY: as above.
        if let Err(error) = unsafe { self.frames.free_bulk(cpu, frames) } {
            panic!("topomem: {error}");
        }
    }

    fn drain(&self, cpu: &CpuPin) {
        let _ = self.frames.drain(cpu);
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(self.metadata)
    }
}
