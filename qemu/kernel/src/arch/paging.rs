//! The kernel's page tables: the image in 4 KiB pages with its own permissions, the direct map
//! of all memory in the largest pages the CPU has, and windows for stacks and devices.
//!
//! The image is mapped in small pages on purpose: under QEMU's TCG a live large page makes
//! every INVLPG in the span of all live large pages a full flush. The direct map's large pages
//! then span only the direct map.

use core::ptr::NonNull;

use topomem::{MemoryRange, PhysAddr, PhysFrame};
use topomem_boot::direct_map::Plan;
use topomem_boot::layout::Levels;
use topomem_boot::{Leaf, Leaves, MapError, StartInfo, Tables, Window, direct_map, memory_map};
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{self, FrameAllocator, PageSize, PageTableFlags, Size4KiB};

use super::features;

/// How many levels of page tables the kernel is built for.
pub(crate) const LEVELS: Levels = if cfg!(feature = "five-levels") { Levels::Five } else { Levels::Four };
/// The number of levels.
pub(crate) const LEVEL_COUNT: u8 = LEVELS.count();
/// Where the image's window begins: physical address 0 of the first GiB.
pub(crate) const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Shows the first GiB, until [`KernelTables::activate`] leaves of it the image alone.
pub(crate) const BOOT_WINDOW: Window = Window::at(IMAGE_BASE as usize);
/// Where [`BOOT_WINDOW`] ends.
pub(crate) const BOOT_WINDOW_END: PhysAddr = PhysAddr::new(1 << 30);
/// Where the direct map begins: physical address 0.
pub(crate) const DIRECT_MAP: u64 = LEVELS.direct_map();
/// Shows all memory, from [`KernelTables::activate`] on.
pub(crate) const DIRECT_WINDOW: Window = Window::at(DIRECT_MAP as usize);
/// Where device registers are mapped, a 4 KiB page each, uncached.
const DEVICE_WINDOW: u64 = 0xffff_fd00_0000_0000;

const GLOBAL: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::GLOBAL);
/// Kernel data: readable, writable, never executable.
pub(crate) const KERNEL_DATA: PageTableFlags = direct_map::DATA;

unsafe extern "C" {
    static __boot_start: u8;
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Where the boot section and the image lie in physical memory; they must not be given away.
pub(crate) fn image() -> (PhysAddr, PhysAddr) {
    let end = &raw const __image_end as u64 - IMAGE_BASE;
    (PhysAddr::new(&raw const __boot_start as u64), PhysAddr::new(end))
}

/// Where the image's code and constants lie in physical memory.
fn read_only() -> Option<MemoryRange> {
    let [start, end] =
        [&raw const __image_start, &raw const __rodata_end].map(|address| address as u64 - IMAGE_BASE);
    MemoryRange::from_bounds(start, end)
}

/// The address of `addr` in the direct map.
pub(crate) fn direct_map(addr: PhysAddr) -> NonNull<u8> {
    // The direct map is not address 0, so the fallback never serves.
    NonNull::new(DIRECT_WINDOW.pointer(addr)).unwrap_or(NonNull::dangling())
}

/// Where memory ends that this machine's kernel can use.
pub(crate) fn memory_limit() -> PhysAddr {
    memory_map::limit(LEVELS, features::physical_address_bits())
}

/// The kernel's tables, while they are built and changed by the boot CPU alone.
#[derive(Debug)]
pub(crate) struct KernelTables {
    tables: Tables,
    devices: u64,
}

impl KernelTables {
    /// Builds the image's mapping and the direct map of what `start_info` lists, in frames from
    /// `frames`.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    ///
    /// # Safety
    ///
    /// The entry's tables are active, and `frames` lie in [`BOOT_WINDOW`].
    pub(crate) unsafe fn build(
        start_info: &StartInfo,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<KernelTables, MapError> {
        // SAFETY: the caller's promise.
        let tables = unsafe { Tables::new(LEVELS, BOOT_WINDOW, frames) }?;
        let mut tables = KernelTables { tables, devices: DEVICE_WINDOW };
        tables.map_image(frames)?;
        let largest = if features::has_gigabyte_pages() { Leaf::Huge } else { Leaf::Large };
        let plan = Plan { levels: LEVELS, largest, limit: memory_limit(), read_only: read_only() };
        plan.map(&mut tables.tables, start_info.memory_map(), start_info.placed(), frames)?;
        Ok(tables)
    }

    /// Makes these the executing CPU's tables; from here on the direct map is usable.
    ///
    /// # Safety
    ///
    /// The executing CPU's stack lies in the image or in a mapped stack window.
    pub(crate) unsafe fn activate(&mut self) {
        // SAFETY: image and stack are mapped in both; the direct map shows all memory.
        unsafe {
            Cr3::write(self.root(), Cr3Flags::empty());
            self.tables.see_through(DIRECT_WINDOW);
        }
    }

    /// The root table's frame, for further CPUs' CR3.
    pub(crate) fn root(&self) -> paging::PhysFrame {
        self.tables.root()
    }

    /// How many leaves of each size there are.
    pub(crate) fn leaves(&self) -> Leaves {
        self.tables.leaves()
    }

    /// Maps `frame` at `addr` with `flags`.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub(crate) fn map(
        &mut self,
        addr: VirtAddr,
        frame: PhysFrame,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        self.tables.map(addr.as_u64(), frame.start_address(), Leaf::Small, flags, frames)
    }

    /// Maps the page of device registers at `addr`, uncached.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub(crate) fn map_device(
        &mut self,
        addr: PhysAddr,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<VirtAddr, MapError> {
        let page = VirtAddr::new_truncate(self.devices);
        self.devices += Size4KiB::SIZE;
        let flags = KERNEL_DATA | PageTableFlags::NO_CACHE | PageTableFlags::WRITE_THROUGH;
        self.map(page, PhysFrame::containing_address(addr), flags, frames)?;
        Ok(page + addr.as_u64() % Size4KiB::SIZE)
    }

    fn map_image(&mut self, frames: &mut impl FrameAllocator<Size4KiB>) -> Result<(), MapError> {
        let parts = [
            (&raw const __image_start, &raw const __text_end, GLOBAL),
            (&raw const __text_end, &raw const __rodata_end, GLOBAL | PageTableFlags::NO_EXECUTE),
            (&raw const __rodata_end, &raw const __image_end, KERNEL_DATA),
        ];
        for (start, end, flags) in parts {
            for addr in (start as u64..end as u64).step_by(Size4KiB::SIZE as usize) {
                let frame = PhysFrame::containing_address(PhysAddr::new(addr - IMAGE_BASE));
                self.map(VirtAddr::new_truncate(addr), frame, flags, frames)?;
            }
        }
        Ok(())
    }
}
