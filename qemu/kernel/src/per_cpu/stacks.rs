//! A CPU's stacks: one for its work, one per trap that must not use that one. Each lies above
//! an unmapped guard page, in a window of the kernel's half; the memory is on the CPU's node.

use topomem::{CpuId, PhysAddr, PhysFrame};
use topomem_boot::MapError;
use x86_64::VirtAddr;
use x86_64::structures::paging::{FrameAllocator, Size4KiB};

use crate::arch::gdt::TrapStack;
use crate::arch::paging::{KERNEL_DATA, KernelTables};

const PAGE: u64 = 4096;
/// Where the stacks are mapped: a slot of [`SLOT`] bytes per CPU.
const WINDOW: u64 = 0xffff_fe00_0000_0000;
const SLOT: u64 = 1 << 20;
/// Bytes of the stack that a CPU works on; interrupts use it too.
const WORK: u64 = 64 * 1024;
/// Bytes of each trap's stack. The page fault's has room for nested faults.
const TRAP: [u64; TrapStack::ALL.len()] = [8 * 1024, 8 * 1024, 8 * 1024, 32 * 1024];

/// Bytes of memory that one CPU's stacks take.
pub(crate) const BYTES: u64 = {
    let mut bytes = WORK;
    let mut index = 0;
    while index < TRAP.len() {
        bytes += TRAP[index];
        index += 1;
    }
    bytes
};

/// Where a CPU's stacks begin; they grow down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StackTops {
    /// The stack it works on.
    pub work: VirtAddr,
    /// The traps' stacks, by [`TrapStack`].
    pub trap: [VirtAddr; TrapStack::ALL.len()],
}

impl StackTops {
    /// No stacks.
    pub(crate) const NONE: StackTops =
        StackTops { work: VirtAddr::zero(), trap: [VirtAddr::zero(); TrapStack::ALL.len()] };
}

/// Maps the [`BYTES`] of memory at `memory` as the stacks of `cpu`.
///
/// # Errors
///
/// [`MapError`].
pub(crate) fn map(
    cpu: CpuId,
    memory: PhysAddr,
    tables: &mut KernelTables,
    frames: &mut impl FrameAllocator<Size4KiB>,
) -> Result<StackTops, MapError> {
    let mut virt = VirtAddr::new_truncate(WINDOW + SLOT * cpu.index() as u64);
    let mut phys = memory;
    let mut stack = |bytes: u64| {
        // The guard page stays unmapped.
        virt += PAGE;
        for _ in 0..bytes / PAGE {
            tables.map(virt, PhysFrame::containing_address(phys), KERNEL_DATA, frames)?;
            virt += PAGE;
            phys += PAGE;
        }
        Ok(virt)
    };
    let mut tops = StackTops { work: stack(WORK)?, ..StackTops::NONE };
    for (top, bytes) in tops.trap.iter_mut().zip(TRAP) {
        *top = stack(bytes)?;
    }
    Ok(tops)
}
