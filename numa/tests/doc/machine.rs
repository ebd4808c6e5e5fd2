// A machine of one CPU and one node over the host's memory, for the examples in the documentation.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

use topomem_numa::frames::{Frames, FramesConfig, PerFrameTable};
use topomem_numa::{ApicId, BootAllocator, CpuId, CpuPin, FirmwareTables, MemoryMap, MemoryRange, PhysAddr, Platform, Topology};

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The first physical address, and the number of bytes.
pub const START: u64 = 16 << 20;
pub const BYTES: u64 = 8 << 20;

/// A block of the host's memory takes the place of RAM.
pub struct Host {
    ram: NonNull<u8>,
}

// SAFETY: the block is plain memory, and lives for ever.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

// SAFETY: one thread is the only CPU, and addresses of RAM map to distinct bytes of the block.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        // SAFETY: the allocator asks for addresses of RAM only.
        unsafe { self.ram.add((addr.as_u64() - START) as usize) }
    }
}

/// Machines live for ever, where Miri finds them.
static KEPT: Mutex<Vec<&'static Frames<Host>>> = Mutex::new(Vec::new());

/// Builds an allocator with a per-frame table, brings the CPU online, and runs `example`.
pub fn run(example: impl FnOnce(&'static Frames<Host>, &CpuPin) -> Outcome) -> Outcome {
    let layout = Layout::from_size_align(BYTES as usize, 4096)?;
    // SAFETY: the size is not 0.
    let ram = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or("no memory")?;
    let frames: &'static Frames<Host> = Box::leak(Box::new(Frames::new(Host { ram })));
    KEPT.lock().map_err(|_| "poisoned")?.push(frames);
    let mut map = Box::new(MemoryMap::new());
    map.add_usable(MemoryRange::from_length(START, BYTES).ok_or("no range")?)?;
    let mut topology = Box::new(Topology::new());
    topology.discover(&FirmwareTables::default(), ApicId(0), &mut |_| {});
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
    frames.init(&mut BootAllocator::new(&mut map, &topology), &config)?;
    let pin = frames.platform().pin();
    frames.cpu_online(&pin)?;
    example(frames, &pin)
}
