//! The three ways of sharing frames that are compared.

use bitmap_allocator::{BitAlloc, BitAlloc1M, BitAlloc4K, BitAlloc16, BitAlloc64K, BitAlloc256};
use topomem_numa::frames::DoubleFrees;
use topomem_percpu::sync::observed::Access;
use topomem_percpu::{CpuPin, Order, PhysFrame};

use super::lock::SpinLock;
use super::machine::step;
use crate::subject::Subject;
use crate::subjects::Topomem;

/// Nodes of the machine; its CPUs are dealt out to them in turn.
pub(super) const NODES: usize = 2;

/// Frames of each node: 1 GiB.
pub(super) const NODE_FRAMES: usize = 256 << 10;

/// Single frames, for CPUs by number.
pub(super) trait Shared {
    fn alloc(&self, cpu: usize) -> Option<u64>;
    fn free(&self, cpu: usize, frame: u64);
}

/// The peer's bitmaps.
///
/// Its code is not observed, so the lines that it uses are taken from its layout: in each of the
/// five levels it reads and writes the 16-bit map of the node that the frame is in.
struct Bitmap(Box<BitAlloc1M>);

impl Bitmap {
    fn over(frames: usize) -> Bitmap {
        let mut bitmap = Box::new(BitAlloc1M::DEFAULT);
        bitmap.insert(0..frames);
        Bitmap(bitmap)
    }

    /// The steps of a use of `frame`'s bit in every level.
    fn touch(&self, frame: usize) {
        let children = [
            size_of::<BitAlloc64K>(),
            size_of::<BitAlloc4K>(),
            size_of::<BitAlloc256>(),
            size_of::<BitAlloc16>(),
        ];
        let mut address = std::ptr::from_ref(&*self.0).addr();
        for level in 0..=children.len() {
            step(Access::Load(address));
            step(Access::Store(address));
            if let Some(size) = children.get(level) {
                address += (frame >> (16 - 4 * level) & 0xf) * size;
            }
        }
    }

    fn alloc(&mut self) -> Option<usize> {
        let frame = self.0.alloc()?;
        self.touch(frame);
        Some(frame)
    }

    fn free(&mut self, frame: usize) {
        self.0.dealloc(frame);
        self.touch(frame);
    }
}

/// All frames behind one lock.
pub(super) struct GlobalLock(SpinLock<Bitmap>);

impl GlobalLock {
    pub(super) fn new() -> GlobalLock {
        GlobalLock(SpinLock::new(Bitmap::over(NODES * NODE_FRAMES)))
    }
}

impl Shared for GlobalLock {
    fn alloc(&self, _cpu: usize) -> Option<u64> {
        self.0.with(Bitmap::alloc).map(|frame| frame as u64)
    }

    fn free(&self, _cpu: usize, frame: u64) {
        self.0.with(|bitmap| bitmap.free(frame as usize));
    }
}

/// Each node's frames behind a lock of its own.
pub(super) struct NodeLock([SpinLock<Bitmap>; NODES]);

impl NodeLock {
    pub(super) fn new() -> NodeLock {
        NodeLock(std::array::from_fn(|_| SpinLock::new(Bitmap::over(NODE_FRAMES))))
    }
}

impl Shared for NodeLock {
    fn alloc(&self, cpu: usize) -> Option<u64> {
        (0..NODES).map(|offset| (cpu + offset) % NODES).find_map(|node| {
            let frame = self.0[node].with(Bitmap::alloc)?;
            Some((node * NODE_FRAMES + frame) as u64)
        })
    }

    fn free(&self, _cpu: usize, frame: u64) {
        let frame = frame as usize;
        self.0[frame / NODE_FRAMES].with(|bitmap| bitmap.free(frame % NODE_FRAMES));
    }
}

/// topomem, as it is.
pub(super) struct Magazines {
    frames: Topomem,
    pins: Vec<CpuPin>,
}

impl Magazines {
    pub(super) fn new(cpus: usize) -> Magazines {
        let frames = Topomem::on_nodes(NODES * NODE_FRAMES, cpus, NODES, DoubleFrees::default());
        let pins = (0..cpus).map(|cpu| frames.cpu(cpu)).collect();
        Magazines { frames, pins }
    }
}

impl Shared for Magazines {
    fn alloc(&self, cpu: usize) -> Option<u64> {
        let frame = self.frames.alloc(&self.pins[cpu], Order::FRAME)?;
        Some(frame.start_address().as_u64())
    }

    fn free(&self, cpu: usize, frame: u64) {
        let frame = PhysFrame::containing_address(topomem_percpu::PhysAddr::new(frame));
        self.frames.free(&self.pins[cpu], frame, Order::FRAME);
    }
}
