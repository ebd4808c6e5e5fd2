//! The machine that the models run the production code on: one node of a few blocks, or two of one
//! block each, and two CPUs.
#![allow(dead_code, clippy::unwrap_used)]

use std::alloc::Layout;
use std::ptr::NonNull;

use topomem_numa::frames::{BootMemory, FrameRequest, Frames, FramesConfig, Retired};
use topomem_numa::{CpuId, MemoryRange, NodeId, Piece};
use topomem_percpu::{CpuPin, Order, PhysAddr, PhysFrame, Platform};

/// Physical addresses below the arena's size map to the arena: bookkeeping, then a block of frames.
pub(crate) struct Host(NonNull<u8>);

// SAFETY: plain memory.
unsafe impl Send for Host {}
// SAFETY: plain memory.
unsafe impl Sync for Host {}

const ARENA: usize = 16 << 20;

// SAFETY: the arena is never freed; nobody touches frames' contents.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        // SAFETY: bookkeeping is placed inside the arena.
        unsafe { self.0.add(addr.as_u64() as usize) }
    }
}

struct Tiny {
    next: u64,
    nodes: usize,
    /// Of each node.
    blocks: u64,
}

/// The first frame, beyond the arena.
pub(crate) const START: u64 = 16 << 20;

// SAFETY: places are disjoint parts of the arena.
unsafe impl BootMemory for Tiny {
    type Error = std::fmt::Error;

    fn node_count(&self) -> usize {
        self.nodes
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        (0..self.nodes).map(move |other| NodeId::new((node.index() + other) % self.nodes).unwrap())
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        (0..2).map(|cpu| (CpuId::new(cpu).unwrap(), NodeId::new(cpu % self.nodes).unwrap()))
    }

    fn weight(&self, _: NodeId) -> Option<u32> {
        None
    }

    fn free_ranges(&self) -> impl Iterator<Item = Piece> {
        (0..self.nodes).map(|node| {
            let bytes = self.blocks << 21;
            let range = MemoryRange::from_length(START + node as u64 * bytes, bytes).unwrap();
            Piece { range, node: NodeId::new(node).unwrap() }
        })
    }

    fn alloc(&mut self, bytes: u64, align: u64, _: NodeId) -> Result<PhysAddr, std::fmt::Error> {
        let start = self.next.next_multiple_of(align.max(4096));
        self.next = start + bytes;
        assert!(self.next <= ARENA as u64);
        Ok(PhysAddr::new(start))
    }
}

pub(crate) fn frames(blocks: u64) -> &'static Frames<Host> {
    frames_with(blocks, &FramesConfig::without_reserve())
}

pub(crate) fn frames_with(blocks: u64, config: &FramesConfig) -> &'static Frames<Host> {
    build(Tiny { next: 0, nodes: 1, blocks }, config)
}

/// A block and a CPU on each of two nodes.
pub(crate) fn frames_of_two_nodes() -> &'static Frames<Host> {
    build(Tiny { next: 0, nodes: 2, blocks: 1 }, &FramesConfig::without_reserve())
}

fn build(mut machine: Tiny, config: &FramesConfig) -> &'static Frames<Host> {
    // Of the frames, only those of the first block are ever touched, where they are zeroed.
    let layout = Layout::from_size_align(ARENA + (1 << 21), 4096).unwrap();
    // SAFETY: the size is not 0. Leaked: models are short.
    let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
    let frames = Box::leak(Box::new(Frames::new(Host(base))));
    frames.init(&mut machine, config).unwrap();
    frames
}

pub(crate) fn pin(cpu: usize) -> CpuPin {
    // SAFETY: one thread plays each CPU.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn alloc(frames: &Frames<Host>, cpu: usize, level: u8) -> Option<(u64, u64)> {
    let first = frames.alloc(&pin(cpu), &FrameRequest::order(order(level))).ok()?;
    let number = first.start_address().as_u64() >> 12;
    Some((number, number + order(level).frames()))
}

pub(crate) fn free(frames: &Frames<Host>, cpu: usize, first: u64, level: u8) {
    let frame = PhysFrame::containing_address(PhysAddr::new(first << 12));
    // SAFETY: nobody uses the frames.
    unsafe { frames.free(&pin(cpu), frame, order(level)) }.unwrap();
}

pub(crate) fn disjoint(a: Option<(u64, u64)>, b: Option<(u64, u64)>) {
    if let (Some(a), Some(b)) = (a, b) {
        assert!(a.1 <= b.0 || b.1 <= a.0, "handed out twice: {a:?} {b:?}");
    }
}

pub(crate) fn model(body: impl Fn() + Sync + Send + 'static) {
    model_with(2, body);
}

pub(crate) fn model_with(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// After everything is back and drained: the frame is gone, and only it.
pub(crate) fn gone(frames: &Frames<Host>, bad: u64) {
    frames.service(&pin(0));
    frames.service(&pin(1));
    let totals = frames.validate().unwrap();
    assert_eq!((totals.retired, totals.allocated), (1, 0));
    assert!(frames.is_retired(PhysFrame::containing_address(PhysAddr::new(bad << 12))));
}

pub(crate) fn retire(frames: &Frames<Host>, cpu: usize, bad: u64) -> Retired {
    frames.retire(&pin(cpu), PhysFrame::containing_address(PhysAddr::new(bad << 12))).unwrap()
}
