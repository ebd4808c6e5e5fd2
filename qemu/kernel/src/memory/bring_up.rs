//! The service's boot, from the topology on.

use core::fmt;

use topomem::shootdown::PageRangeError;
use topomem::{
    BootAllocator, BootError, Discovered, FramesConfig, KernelLayout, PageRange, PageSize, PerFrameTable,
    PhysFrame, VirtAddr,
};
use topomem_stress::Window;

use super::platform::{Kernel, pin};
use super::service::HEAP;
use crate::arch::paging;

/// What an entry of the root covers, in bytes: 512 GiB or 256 TiB.
const ROOT_ENTRY: u64 = 1 << (12 + 9 * (paging::LEVEL_COUNT as u64 - 1));
/// What the service may map in the kernel's half: one root entry.
const WINDOW: u64 = paging::LEVELS.service_window();
/// Three root entries of user spaces, far from where programs are.
const USER_WINDOW: u64 = 3 * ROOT_ENTRY;

/// Why the service did not come up.
#[derive(Debug)]
pub(crate) enum BringUpError {
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
fn window() -> VirtAddr {
    VirtAddr::new_truncate(WINDOW)
}

/// Where a scenario may map in the kernel's space: below two entries of the window's table.
pub(crate) fn kernel_window() -> Option<Window> {
    let whole = PageRange::new(window(), (2 * ROOT_ENTRY) >> 39, PageSize::Size1GiB).ok()?;
    Some(Window { base: window(), whole })
}

/// Where ranges of kernel addresses may lie: behind the first half of the window.
pub(crate) fn ranges_window() -> Option<PageRange> {
    let start = VirtAddr::new_truncate(WINDOW + ROOT_ENTRY / 2);
    PageRange::new(start, (ROOT_ENTRY / 4) >> 21, PageSize::Size2MiB).ok()
}

/// Where a scenario may map in user spaces: in the middle one of the window's entries.
pub(crate) fn user_window() -> Option<Window> {
    let start = VirtAddr::new_truncate(USER_WINDOW);
    Some(Window {
        base: VirtAddr::new_truncate(USER_WINDOW + ROOT_ENTRY),
        whole: PageRange::new(start, (3 * ROOT_ENTRY) >> 30, PageSize::Size1GiB).ok()?,
    })
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
// Apart: building the frame allocator takes tens of KiB of stack, which would else stay in use below `kernel_main`.
#[inline(never)]
pub(crate) unsafe fn bring_up(
    discovered: Discovered<Kernel>,
    boot: &mut BootAllocator<'_>,
    root: PhysFrame,
) -> Result<(), BringUpError> {
    let pin = pin();
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
    let window =
        PageRange::new(window(), ROOT_ENTRY >> 12, PageSize::Size4KiB).map_err(BringUpError::Window)?;
    let frames = discovered.frames(&pin, boot, &config).map_err(BringUpError::Frames)?;
    let heap = frames.heap(&pin, &HEAP).map_err(BringUpError::Kernel)?;
    let layout = KernelLayout { window, inherit: Some(root) };
    // SAFETY: the caller's promise; nothing else maps in the window.
    unsafe { heap.kernel_space(&pin, &layout) }.map_err(BringUpError::Kernel)?;
    Ok(())
}
