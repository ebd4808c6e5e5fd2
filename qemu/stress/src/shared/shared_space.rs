//! An address space whose slots all CPUs map, read and write.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use topomem::{AddressSpace, CpuId, Machine, PageRange, PageSize, PhysAddr, PhysFrame, Protection, VirtAddr};

use super::region_pages::RegionPages;
use crate::oracle::{Holder, Slot, Space};
use crate::rig::Window;

/// A slot and what is mapped in it.
#[derive(Debug)]
pub(crate) struct SlotPage {
    pub slot: Slot,
    pub address: VirtAddr,
    /// The mapped frame's address, and whether the space owns it in bit 0. Like `holder` read
    /// and written only under the slot's lock, which orders it.
    frame: AtomicU64,
    holder: AtomicU32,
}

/// Who frees a slot's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameOwner {
    /// The scenario: it can look at the frame after the unmapping.
    Scenario,
    /// The address space: the service retires the frame.
    Space,
}

/// What is mapped in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backing {
    pub frame: PhysFrame,
    pub holder: Holder,
    pub owner: FrameOwner,
}

impl SlotPage {
    /// Notes what is mapped; by the slot's changer.
    pub(crate) fn set_backing(&self, backing: Backing) {
        let owned = u64::from(backing.owner == FrameOwner::Space);
        self.frame.store(backing.frame.start_address().as_u64() | owned, Ordering::Relaxed);
        self.holder.store(backing.holder.bits(), Ordering::Relaxed);
    }

    /// What is mapped; by the slot's changer. `None` before the first mapping.
    pub(crate) fn backing(&self) -> Option<Backing> {
        let frame = self.frame.load(Ordering::Relaxed);
        let holder = Holder::from_bits(self.holder.load(Ordering::Relaxed))?;
        let owner = if frame & 1 == 0 { FrameOwner::Scenario } else { FrameOwner::Space };
        let frame = PhysFrame::containing_address(PhysAddr::new(frame & !0xfff));
        Some(Backing { frame, holder, owner })
    }

    /// The slot's page.
    pub(crate) fn range(&self) -> PageRange {
        PageRange::page(self.address, PageSize::Size4KiB)
    }
}

/// A shared address space and its slots.
pub(crate) struct SharedSpace<P: Machine> {
    pub name: Space,
    space: AddressSpace<P>,
    window: Window,
    pub pages: Vec<SlotPage>,
    pub regions: RegionPages,
    /// The lowest and the highest address at which the space has placed a region by itself.
    placed: [AtomicU64; 2],
    /// The slot that is being changed: where to probe.
    pub hot: AtomicU32,
}

/// Where CPUs' own pages begin, beyond the slots.
const PRIVATE_AREA: u64 = 64 << 20;
/// How many CPUs have pages of their own; further ones share.
const PRIVATE_AREAS: u64 = 480;

/// How far from a slot's page its place is that it may be moved to: beyond all slots.
const MOVED_BY: u64 = 32 << 20;

/// Slots under one page table, so that others' tables come and go with their last page.
const SLOTS_PER_TABLE: u64 = 8;

impl<P: Machine> SharedSpace<P> {
    /// The slots numbered `numbers` in `window`; `None` without memory for them.
    pub(crate) fn new(
        name: Space,
        space: AddressSpace<P>,
        window: Window,
        numbers: Range<u16>,
    ) -> Option<SharedSpace<P>> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(numbers.len()).ok()?;
        for (index, number) in numbers.enumerate() {
            let index = index as u64;
            let table = (index / SLOTS_PER_TABLE) * PageSize::Size2MiB.bytes();
            let offset = table + (index % SLOTS_PER_TABLE) * PageSize::Size4KiB.bytes();
            pages.push(SlotPage {
                slot: Slot::new(number),
                address: VirtAddr::new_truncate(window.base.as_u64() + offset),
                frame: AtomicU64::new(0),
                holder: AtomicU32::new(0),
            });
        }
        let number = match name {
            Space::Shared(number) => number,
            Space::Kernel | Space::Private => 0,
        };
        let regions = RegionPages::new(number, window)?;
        let placed = [AtomicU64::new(u64::MAX), AtomicU64::new(0)];
        Some(SharedSpace { name, space, window, pages, regions, placed, hot: AtomicU32::new(0) })
    }

    /// The address space.
    pub(crate) const fn space(&self) -> &AddressSpace<P> {
        &self.space
    }

    /// Where `page` may be moved to.
    pub(crate) const fn moved(&self, page: &SlotPage) -> VirtAddr {
        VirtAddr::new_truncate(page.address.as_u64() + MOVED_BY)
    }

    /// The page there.
    pub(crate) const fn moved_range(&self, page: &SlotPage) -> PageRange {
        PageRange::page(self.moved(page), PageSize::Size4KiB)
    }

    /// Pages of `cpu`'s own, that fill two page tables: unmapping them all frees the tables.
    pub(crate) fn private_range(&self, cpu: CpuId) -> Option<PageRange> {
        let area = PRIVATE_AREA + (cpu.index() as u64 % PRIVATE_AREAS) * 2 * PageSize::Size2MiB.bytes();
        let start = VirtAddr::new_truncate(self.window.base.as_u64() + area);
        PageRange::new(start, 2, PageSize::Size2MiB).ok()
    }

    /// All that the run maps, and so much more that unmapping it frees all tables below.
    pub(crate) const fn whole_range(&self) -> PageRange {
        self.window.whole
    }

    /// Notes that the space has placed a region at `start`.
    pub(crate) fn note_placed(&self, start: VirtAddr) {
        // Relaxed: read when all CPUs have finished.
        self.placed[0].fetch_min(start.as_u64(), Ordering::Relaxed);
        self.placed[1].fetch_max(start.as_u64(), Ordering::Relaxed);
    }

    /// All that the entries of the root cover that serve regions which the space has placed, and so much more
    /// that unmapping it leaves no table behind.
    pub(crate) fn placed_range(&self) -> Option<PageRange> {
        const ROOT_ENTRY: u64 = 1 << 39;
        let [lowest, highest] = [0, 1].map(|end| self.placed[end].load(Ordering::Relaxed));
        let first = (lowest / ROOT_ENTRY).checked_sub(1)?;
        let start = VirtAddr::new_truncate(first * ROOT_ENTRY);
        let entries = (highest / ROOT_ENTRY + 1).checked_sub(first)?;
        PageRange::new(start, (entries * ROOT_ENTRY) >> 30, PageSize::Size1GiB).ok()
    }

    /// What a page that may be written is mapped with.
    pub(crate) const fn writable(&self) -> Protection {
        match self.name {
            Space::Kernel => Protection::KERNEL_DATA,
            Space::Shared(_) | Space::Private => Protection::USER_DATA,
        }
    }

    /// What a page that may only be read is mapped with.
    pub(crate) const fn read_only(&self) -> Protection {
        match self.name {
            Space::Kernel => Protection::KERNEL_READ_ONLY,
            Space::Shared(_) | Space::Private => Protection::USER_READ_ONLY,
        }
    }
}

impl<P: Machine> fmt::Debug for SharedSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSpace").field("name", &self.name).finish_non_exhaustive()
    }
}
