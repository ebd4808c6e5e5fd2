//! What the boot CPU uses before memory is known: an area and trap stacks in the image. And frames on
//! a node, once the nodes are known.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use topomem::CpuId;
use topomem::{BootAllocator, NodeId};
use topomem_boot::ApicAddress;
use x86_64::VirtAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use crate::arch::gdt::{Segments, TrapStack};
use crate::arch::interrupt::idt;
use crate::per_cpu::stacks::StackTops;
use crate::per_cpu::{self, PerCpu};

const TRAP_STACK: usize = 32 * 1024;
const FRAME: usize = 4096;

#[repr(C, align(4096))]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: the boot CPU alone uses them, each through one pointer (`set_up`).
unsafe impl<T> Sync for Shared<T> {}

static AREA: Shared<MaybeUninit<PerCpu>> = Shared(UnsafeCell::new(MaybeUninit::uninit()));
static TRAP_STACKS: Shared<[[u8; TRAP_STACK]; TrapStack::ALL.len()]> =
    Shared(UnsafeCell::new([[0; TRAP_STACK]; TrapStack::ALL.len()]));

/// Gives the boot CPU its first area and trap handlers: faults are reported from here on.
///
/// # Safety
///
/// Called once, by the boot CPU, before anything that needs either.
pub(super) unsafe fn set_up() {
    let bottom = VirtAddr::from_ptr(TRAP_STACKS.0.get());
    let tops = TrapStack::ALL.map(|stack| bottom + TRAP_STACK as u64 * (stack as u64 + 1));
    // SAFETY: the area and the stacks are this CPU's alone, and static.
    unsafe {
        let place = NonNull::from(&mut *AREA.0.get()).cast();
        per_cpu::install(PerCpu::place(place, CpuId::BOOT, ApicAddress::ZERO, StackTops::NONE));
        Segments::load(per_cpu::current().segments.get(), tops);
        idt::init();
        idt::load();
    }
}

/// Frames from the boot allocator, on a node where it has some.
#[derive(Debug)]
pub(super) struct NodeFrames<'a, 'b> {
    boot: &'a mut BootAllocator<'b>,
    node: NodeId,
}

impl<'a, 'b> NodeFrames<'a, 'b> {
    /// Frames of `node`, from `boot`.
    pub(super) fn new(boot: &'a mut BootAllocator<'b>, node: NodeId) -> NodeFrames<'a, 'b> {
        NodeFrames { boot, node }
    }
}

// SAFETY: the boot allocator hands out each frame once.
unsafe impl FrameAllocator<Size4KiB> for NodeFrames<'_, '_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let addr = self.boot.alloc(FRAME as u64, FRAME as u64, self.node).ok()?;
        topomem::PhysFrame::containing_address(addr).try_into().ok()
    }
}
