//! A machine to test on: plain ranges of nodes, over an arena of the host's memory.
#![allow(dead_code)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

use topomem_numa::frames::{BootMemory, Frames, FramesConfig, FreeError};
use topomem_numa::{CpuId, MemoryRange, NodeId, Piece};
use topomem_percpu::{CpuPin, Order, PhysAddr, PhysFrame, Platform};

pub(crate) const MIB: u64 = 1 << 20;

/// The arena is mapped at `base`; the tests' threads say which CPU they are by their pins.
pub(crate) struct Host {
    base: NonNull<u8>,
    bytes: u64,
    /// The block that the arena lies in, and its layout.
    block: (NonNull<u8>, Layout),
}

impl Host {
    /// A host whose arena has the addresses below `bytes`.
    pub(crate) fn with(bytes: u64) -> Host {
        // Heaps want runs aligned to their size where they are mapped, too. Miri has no memory for that.
        let align = if cfg!(miri) { 4096 } else { 2 * MIB as usize };
        // Not aligned by the layout: the host would touch all of it to clear it.
        let layout = Layout::from_size_align(bytes as usize + align, 16).unwrap();
        // SAFETY: the size is not 0.
        let block = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        let skip = block.as_ptr().align_offset(align);
        // SAFETY: there are so many bytes more than needed.
        let base = unsafe { block.add(skip) };
        Host { base, bytes, block: (block, layout) }
    }

    /// The address of a byte of the arena.
    pub(crate) fn address_of(&self, byte: NonNull<u8>) -> u64 {
        (byte.addr().get() - self.base.addr().get()) as u64
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with that layout, and the allocator that used it is gone.
        unsafe { std::alloc::dealloc(self.block.0.as_ptr(), self.block.1) };
    }
}

// SAFETY: the arena is plain memory, which lives as long as the host.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

// SAFETY: the arena is mapped as long as the host lives, and addresses map to distinct bytes; tests that use
// `pin()` of the platform do so on one thread, CPU 0.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        assert!(addr.as_u64() < self.bytes);
        // SAFETY: inside the arena.
        unsafe { self.base.add(addr.as_u64() as usize) }
    }
}

pub(crate) fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

/// Frees a run on CPU `on`.
pub(crate) fn free(
    frames: &Frames<Host>,
    on: usize,
    first: PhysFrame,
    order: Order,
) -> Result<(), FreeError> {
    // SAFETY: nobody uses the arena; double frees are what must be refused.
    unsafe { frames.free(&pin(on), first, order) }
}

/// Machines live for ever, where Miri finds them, unless a test gives them to [`end`].
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// An allocator that was boxed.
struct Kept(NonNull<Frames<Host>>);

// SAFETY: allocators are shared between threads.
unsafe impl Send for Kept {}

/// The machine: who has which memory, and what is taken of it.
pub(crate) struct Machine {
    /// Start, end in bytes, node.
    pub(crate) ranges: Vec<(u64, u64, usize)>,
    /// The node of each CPU.
    pub(crate) cpus: Vec<usize>,
    pub(crate) weights: Vec<Option<u32>>,
    /// Distance from node to node; by number where empty.
    pub(crate) distances: Vec<Vec<u8>>,
    /// From this distance on, a node is left out of the order; none where 0.
    pub(crate) leaves_out: u8,
    reserved: Vec<(u64, u64)>,
}

impl Machine {
    pub(crate) fn new(ranges: &[(u64, u64, usize)], cpus: &[usize]) -> Machine {
        Machine {
            ranges: ranges.to_vec(),
            cpus: cpus.to_vec(),
            weights: Vec::new(),
            distances: Vec::new(),
            leaves_out: 0,
            reserved: Vec::new(),
        }
    }

    /// One node with `mib` MiB from 16 MiB on, and `cpus` CPUs.
    pub(crate) fn simple(mib: u64, cpus: usize) -> Machine {
        Machine::new(&[(16 * MIB, (16 + mib) * MIB, 0)], &vec![0; cpus])
    }

    pub(crate) fn reserve(mut self, start: u64, end: u64) -> Machine {
        self.reserved.push((start, end));
        self
    }

    pub(crate) fn frames(mut self, config: &FramesConfig) -> &'static Frames<Host> {
        let end = self.ranges.iter().map(|range| range.1).max().unwrap();
        // Bookkeeping lies behind all memory, so that the tests know exactly what is free.
        let nodes =
            1 + self.ranges.iter().map(|range| range.2).chain(self.cpus.iter().copied()).max().unwrap();
        let host = Host::with(end + 4 * MIB + end / 256 + nodes as u64 * MIB / 16);
        let mut boot_memory = Placed { machine: &mut self, next: end };
        build(host, &mut boot_memory, config)
    }
}

/// An allocator over `boot_memory`, which lives for ever.
pub(crate) fn build<G: BootMemory<Error: std::fmt::Debug>>(
    host: Host,
    boot_memory: &mut G,
    config: &FramesConfig,
) -> &'static Frames<Host> {
    let kept = NonNull::from(Box::leak(Box::new(Frames::new(host))));
    KEPT.lock().unwrap().push(Kept(kept));
    // SAFETY: the box lives until `end`, whose caller promises that no reference is used after.
    let frames: &'static _ = unsafe { kept.as_ref() };
    frames.init(boot_memory, config).unwrap();
    frames
}

/// Frees the machine of an allocator, and the allocator: a test that makes thousands of them has no room for all.
///
/// # Safety
///
/// The machine was made by [`build`], and no reference to the allocator or its arena is used any more.
pub(crate) unsafe fn end(frames: &'static Frames<Host>) {
    let mut kept = KEPT.lock().unwrap();
    let place = kept.iter().position(|kept| std::ptr::eq(kept.0.as_ptr(), frames)).unwrap();
    let Kept(frames) = kept.swap_remove(place);
    drop(kept);
    // SAFETY: `build` leaked a box, to which no other reference is used by the caller's promise.
    drop(unsafe { Box::from_raw(frames.as_ptr()) });
}

struct Placed<'m> {
    machine: &'m mut Machine,
    next: u64,
}

// SAFETY: ranges lie in the arena, which is the allocator's alone; places lie behind them.
unsafe impl BootMemory for Placed<'_> {
    type Error = std::fmt::Error;

    fn node_count(&self) -> usize {
        let nodes = self.machine.ranges.iter().map(|range| range.2).chain(self.machine.cpus.iter().copied());
        nodes.max().unwrap() + 1
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let mut nodes: Vec<usize> = (0..self.node_count()).collect();
        let distances = self.machine.distances.get(node.index()).cloned();
        let limit = self.machine.leaves_out;
        nodes.retain(|&other| limit == 0 || distances.as_ref().is_none_or(|row| row[other] < limit));
        nodes.sort_by_key(|&other| {
            (other != node.index(), distances.as_ref().map_or(0, |row| row[other]), other)
        });
        nodes.into_iter().map(|index| NodeId::new(index).unwrap())
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        let cpus = self.machine.cpus.iter().enumerate();
        cpus.map(|(cpu, &node)| (CpuId::new(cpu).unwrap(), NodeId::new(node).unwrap()))
    }

    fn weight(&self, node: NodeId) -> Option<u32> {
        self.machine.weights.get(node.index()).copied().flatten()
    }

    fn free_ranges(&self) -> impl Iterator<Item = Piece> {
        let mut pieces = Vec::new();
        for &(start, end, node) in &self.machine.ranges {
            let mut at = start;
            let mut holes: Vec<_> = self.machine.reserved.clone();
            holes.sort_unstable();
            for (from, to) in holes.into_iter().filter(|hole| hole.0 < end && hole.1 > start) {
                pieces.push((at, from.max(at), node));
                at = at.max(to);
            }
            pieces.push((at, end, node));
        }
        pieces.sort_unstable();
        pieces.into_iter().filter_map(|(start, end, node)| {
            let range = MemoryRange::from_bounds(start, end)?;
            Some(Piece { range, node: NodeId::new(node).unwrap() })
        })
    }

    fn alloc(&mut self, bytes: u64, align: u64, _: NodeId) -> Result<PhysAddr, std::fmt::Error> {
        let start = self.next.next_multiple_of(align.max(4096));
        self.next = start + bytes;
        Ok(PhysAddr::new(start))
    }
}

pub(crate) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The calling thread plays CPU `index`.
pub(crate) fn pin(index: usize) -> CpuPin {
    // SAFETY: each test lets one thread at a time play a CPU.
    unsafe { CpuPin::new(cpu(index)) }
}

pub(crate) fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / 4096
}

pub(crate) fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

/// Brings CPUs online; the calling thread plays each in turn.
pub(crate) fn online(frames: &Frames<Host>, cpus: usize) {
    (0..cpus).for_each(|index| frames.cpu_online(&pin(index)).unwrap());
}
