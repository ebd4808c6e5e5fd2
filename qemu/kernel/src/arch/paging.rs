//! The kernel's page tables: the image in 4 KiB pages with its own permissions, the direct map
//! of all memory in the largest pages the CPU has, and windows for stacks and devices.
//!
//! The image is mapped in small pages on purpose: under QEMU's TCG a live large page makes
//! every INVLPG in the span of all live large pages a full flush. The direct map's large pages
//! then span only the direct map.

use core::fmt;
use core::ptr::NonNull;

use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::{MapToError, OffsetPageTable};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB,
    Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::features;
use crate::boot::start_info::{MemoryKind, MemoryMapEntry};

/// Levels of page tables.
pub const LEVELS: u8 = if cfg!(feature = "five-levels") { 5 } else { 4 };
/// Where the image's window begins: physical address 0 of the first GiB.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the direct map begins: physical address 0.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where device registers are mapped, a 4 KiB page each, uncached.
const DEVICE_WINDOW: u64 = 0xffff_fd00_0000_0000;
const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;

const TABLE_FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
const GLOBAL: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::GLOBAL);
/// Kernel data: readable, writable, never executable.
pub const KERNEL_DATA: PageTableFlags =
    GLOBAL.union(PageTableFlags::WRITABLE).union(PageTableFlags::NO_EXECUTE);

unsafe extern "C" {
    static __boot_start: u8;
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Why a boot-time mapping could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// No frame for a table was left.
    OutOfFrames,
    /// Something is mapped there already.
    Occupied(VirtAddr),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::OutOfFrames => f.write_str("no frame left for a page table"),
            MapError::Occupied(addr) => write!(f, "{:#x} is mapped already", addr.as_u64()),
        }
    }
}

/// Where the boot section and the image lie in physical memory; they must not be given away.
pub fn image() -> (PhysAddr, PhysAddr) {
    let end = &raw const __image_end as u64 - IMAGE_BASE;
    (PhysAddr::new_truncate(&raw const __boot_start as u64), PhysAddr::new_truncate(end))
}

/// The address of `addr` in the image's window; meaningful in the first GiB, until
/// [`KernelTables::activate`] leaves of it the image alone.
pub fn image_window(addr: PhysAddr) -> *const u8 {
    core::ptr::with_exposed_provenance(IMAGE_BASE.wrapping_add(addr.as_u64()) as usize)
}

/// The address of `addr` in the direct map.
pub fn direct_map(addr: PhysAddr) -> NonNull<u8> {
    let virt = DIRECT_MAP as usize | addr.as_u64() as usize;
    // The direct map is not address 0, so the fallback never serves.
    NonNull::new(core::ptr::with_exposed_provenance_mut(virt)).unwrap_or(NonNull::dangling())
}

/// The kernel's tables, while they are built and changed by the boot CPU alone.
#[derive(Debug)]
pub struct KernelTables {
    /// What CR3 holds.
    root: PhysFrame,
    /// The fourth-level table of the last 256 TiB: the root, or below it.
    fourth: PhysFrame,
    /// Added to a table's physical address to reach it: the image's window, then the direct map.
    window: u64,
    devices: u64,
}

impl KernelTables {
    /// Builds the image's mapping and the direct map of `memory_map`, in frames from `frames`,
    /// which lie in the first GiB.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn build(
        memory_map: &[MemoryMapEntry],
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<KernelTables, MapError> {
        let mut empty = || {
            let frame = frames.allocate_frame().ok_or(MapError::OutOfFrames)?;
            let table = image_window(frame.start_address()).cast_mut().cast::<PageTable>();
            // SAFETY: the frame is fresh, and mapped in the image's window.
            unsafe { *table = PageTable::new() };
            Ok((frame, table))
        };
        let (fourth, _) = empty()?;
        let mut root = fourth;
        if LEVELS == 5 {
            let (fifth, table) = empty()?;
            // SAFETY: as above.
            unsafe { (&mut *table)[511].set_addr(fourth.start_address(), TABLE_FLAGS) };
            root = fifth;
        }
        let mut tables = KernelTables { root, fourth, window: IMAGE_BASE, devices: DEVICE_WINDOW };
        tables.map_image(frames)?;
        for entry in memory_map {
            let in_use = entry.kind() != MemoryKind::Reserved || entry.end().as_u64() <= FOUR_GIB;
            if in_use && entry.start() < entry.end() {
                tables.map_direct(entry.start().as_u64(), entry.end().as_u64(), frames)?;
            }
        }
        Ok(tables)
    }

    /// Makes these the executing CPU's tables; from here on the direct map is usable.
    ///
    /// # Safety
    ///
    /// The executing CPU's stack lies in the image or in a mapped stack window.
    pub unsafe fn activate(&mut self) {
        // SAFETY: image and stack are mapped in both.
        unsafe { Cr3::write(self.root, Cr3Flags::empty()) };
        self.window = DIRECT_MAP;
    }

    /// The root table's frame, for further CPUs' CR3.
    pub fn root(&self) -> PhysFrame {
        self.root
    }

    /// Maps `frame` at `addr` with `flags`.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn map(
        &mut self,
        addr: VirtAddr,
        frame: PhysFrame,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        self.map_page(Page::<Size4KiB>::containing_address(addr), frame, flags, frames)
    }

    /// Maps the page of device registers at `addr`, uncached.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn map_device(
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
                let frame = PhysFrame::containing_address(PhysAddr::new_truncate(addr - IMAGE_BASE));
                self.map(VirtAddr::new_truncate(addr), frame, flags, frames)?;
            }
        }
        Ok(())
    }

    /// Maps `start..end`, rounded out to 2 MiB, in the direct map; pieces that are mapped
    /// already stay as they are.
    fn map_direct(
        &mut self,
        start: u64,
        end: u64,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        let gigabytes = features::has_gigabyte_pages();
        let mut addr = start - start % Size2MiB::SIZE;
        while addr < end {
            let virt = VirtAddr::new_truncate(DIRECT_MAP + addr);
            let phys = PhysAddr::new_truncate(addr);
            // Whole GiB of memory only: a large page must not span memory and devices.
            if gigabytes && addr.is_multiple_of(GIB) && addr >= start && end - addr >= GIB {
                let page = Page::<Size1GiB>::containing_address(virt);
                match self.map_page(page, PhysFrame::containing_address(phys), KERNEL_DATA, frames) {
                    Ok(()) => {
                        addr += GIB;
                        continue;
                    }
                    // A part of it is mapped: fill in the rest in smaller pages.
                    Err(MapError::Occupied(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            let page = Page::<Size2MiB>::containing_address(virt);
            match self.map_page(page, PhysFrame::containing_address(phys), KERNEL_DATA, frames) {
                Ok(()) | Err(MapError::Occupied(_)) => addr += Size2MiB::SIZE,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn map_page<S: PageSize>(
        &mut self,
        page: Page<S>,
        frame: PhysFrame<S>,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError>
    where
        for<'a> OffsetPageTable<'a>: Mapper<S>,
    {
        let fourth = VirtAddr::new_truncate(self.window + self.fourth.start_address().as_u64());
        // SAFETY: all tables are reachable in the window, and `&mut self` is the only way to
        // them. What is mapped is either new memory or the image, which lives there anyhow.
        let mapped = unsafe {
            let mut mapper =
                OffsetPageTable::new(&mut *fourth.as_mut_ptr(), VirtAddr::new_truncate(self.window));
            mapper.map_to_with_table_flags(page, frame, flags, TABLE_FLAGS, frames)
        };
        match mapped {
            // Nothing was there: no translation to flush.
            Ok(flush) => {
                flush.ignore();
                Ok(())
            }
            Err(MapToError::FrameAllocationFailed) => Err(MapError::OutOfFrames),
            Err(MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage) => {
                Err(MapError::Occupied(page.start_address()))
            }
        }
    }
}
