//! The service's boot, from the topology on.

use core::fmt;

use topomem::shootdown::PageRangeError;
use topomem::{
    BootAllocator, BootError, Discovered, FramesConfig, KernelLayout, PageRange, PageSize, PerFrameTable,
    VirtAddr,
};
use x86_64::structures::paging::PhysFrame;

use super::platform::{Kernel, pin};
use super::service::HEAP;

/// What the service may map in the kernel's half: one root entry, 512 GiB.
const WINDOW: u64 = 0xffff_c000_0000_0000;
const WINDOW_PAGES: u64 = 1 << 27;

/// Why the service did not come up.
#[derive(Debug)]
pub enum BringUpError {
    /// The frame allocator.
    Frames(BootError<topomem::numa::BootAllocError>),
    /// What follows it.
    Kernel(BootError<core::convert::Infallible>),
    /// The window is no range.
    Window(PageRangeError),
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BringUpError::Frames(error) => error.fmt(f),
            BringUpError::Kernel(error) => error.fmt(f),
            BringUpError::Window(error) => error.fmt(f),
        }
    }
}

/// Where the service's part of the kernel's address space begins.
pub fn window() -> VirtAddr {
    VirtAddr::new_truncate(WINDOW)
}

/// Gives the service all memory that boot left, then the heap, then the kernel's address space,
/// which takes over the upper half of the tables at `root`.
///
/// # Errors
///
/// [`BringUpError`].
///
/// # Safety
///
/// `root` holds the kernel's own tables, which do not change any more. The executing CPU is the
/// boot CPU, with its own area installed.
pub unsafe fn bring_up(
    discovered: Discovered<Kernel>,
    boot: &mut BootAllocator<'_>,
    root: PhysFrame,
) -> Result<(), BringUpError> {
    let pin = pin();
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
    let window = PageRange::new(window(), WINDOW_PAGES, PageSize::Size4KiB).map_err(BringUpError::Window)?;
    let frames = discovered.frames(&pin, boot, &config).map_err(BringUpError::Frames)?;
    let heap = frames.heap(&pin, &HEAP).map_err(BringUpError::Kernel)?;
    let layout = KernelLayout { window, inherit: Some(root) };
    // SAFETY: the caller's promise; nothing else maps in the window.
    unsafe { heap.kernel_space(&pin, &layout) }.map_err(BringUpError::Kernel)?;
    Ok(())
}
