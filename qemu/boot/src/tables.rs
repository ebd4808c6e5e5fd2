//! Page tables while one CPU alone builds them.

use core::fmt;

use topomem::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PageTable, PageTableFlags, PhysFrame, Size4KiB};

use crate::Window;
use crate::layout::Levels;

const TABLE_FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// Why a boot-time mapping could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// No frame for a table was left.
    OutOfFrames,
    /// Something is mapped at this virtual address already.
    Occupied(u64),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::OutOfFrames => f.write_str("no frame left for a page table"),
            MapError::Occupied(addr) => write!(f, "{addr:#x} is mapped already"),
        }
    }
}

/// The size of what one leaf maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaf {
    /// A page.
    Small = 1,
    /// 2 MiB.
    Large = 2,
    /// 1 GiB, if the CPU has it (CPUID 8000_0001 EDX bit 26). Other CPUs take the bit for a reserved
    /// one and fault.
    Huge = 3,
}

impl Leaf {
    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << (3 + 9 * self as u64)
    }
}

/// How many leaves of each size some tables have, and how many tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leaves {
    /// Leaves of 4 KiB.
    pub small: u64,
    /// Leaves of 2 MiB.
    pub large: u64,
    /// Leaves of 1 GiB.
    pub huge: u64,
    /// Tables, without the root.
    pub tables: u64,
}

/// The kernel's first page tables.
#[derive(Debug)]
pub struct Tables {
    root: PhysFrame,
    levels: Levels,
    window: Window,
}

impl Tables {
    /// Makes an empty root in a frame of `frames`.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    ///
    /// # Safety
    ///
    /// Until [`see_through`](Tables::see_through) says otherwise, `window` shows all frames of
    /// `frames`, and nothing else uses them.
    pub unsafe fn new(
        levels: Levels,
        window: Window,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<Tables, MapError> {
        let root = empty(window, frames)?;
        Ok(Tables { root, levels, window })
    }

    /// Returns the root table, for CR3.
    #[must_use]
    pub fn root(&self) -> PhysFrame {
        self.root
    }

    /// Reaches the tables through `window` from now on.
    ///
    /// # Safety
    ///
    /// `window` shows all tables, and all frames that further calls take.
    pub unsafe fn see_through(&mut self, window: Window) {
        self.window = window;
    }

    /// Maps what `leaf` covers from `virt` on to `phys`. Both are multiples of its size.
    ///
    /// # Errors
    ///
    /// [`MapError`]; tables that were added stay.
    pub fn map(
        &mut self,
        virt: u64,
        phys: PhysAddr,
        leaf: Leaf,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        debug_assert!(virt.is_multiple_of(leaf.bytes()) && phys.is_aligned(leaf.bytes()));
        let mut table = self.table(self.root);
        for level in (leaf as u8 + 1..=self.levels.count()).rev() {
            // SAFETY: the tables are visible in the window, and `&mut self` is the only way to them.
            let entry = unsafe { &mut (&mut *table)[index(virt, level)] };
            if entry.is_unused() {
                let frame = empty(self.window, frames)?;
                entry.set_addr(frame.start_address(), TABLE_FLAGS);
            } else if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
                return Err(MapError::Occupied(virt));
            }
            table = self.window.pointer(entry.addr());
        }
        // SAFETY: as above.
        let entry = unsafe { &mut (&mut *table)[index(virt, leaf as u8)] };
        if !entry.is_unused() {
            return Err(MapError::Occupied(virt));
        }
        let size = if leaf == Leaf::Small { PageTableFlags::empty() } else { PageTableFlags::HUGE_PAGE };
        entry.set_addr(x86_64::PhysAddr::new_truncate(phys.as_u64()), flags | size);
        Ok(())
    }

    /// Counts the leaves of the tables. Cost: a look at each entry of each table.
    #[must_use]
    pub fn leaves(&self) -> Leaves {
        let mut leaves = Leaves::default();
        self.count(self.table(self.root), self.levels.count(), &mut leaves);
        leaves
    }

    fn count(&self, table: *const PageTable, level: u8, leaves: &mut Leaves) {
        // SAFETY: the tables are visible in the window, and nobody changes them meanwhile.
        for entry in unsafe { &*table }.iter().filter(|entry| !entry.is_unused()) {
            let is_large = entry.flags().contains(PageTableFlags::HUGE_PAGE);
            match level {
                1 => leaves.small += 1,
                2 if is_large => leaves.large += 1,
                3 if is_large => leaves.huge += 1,
                _ => {
                    leaves.tables += 1;
                    self.count(self.window.pointer(entry.addr()), level - 1, leaves);
                }
            }
        }
    }

    fn table(&self, frame: PhysFrame) -> *mut PageTable {
        self.window.pointer(frame.start_address())
    }
}

fn index(virt: u64, level: u8) -> usize {
    (virt >> (3 + 9 * u64::from(level)) & 511) as usize
}

fn empty(window: Window, frames: &mut impl FrameAllocator<Size4KiB>) -> Result<PhysFrame, MapError> {
    let frame = frames.allocate_frame().ok_or(MapError::OutOfFrames)?;
    // SAFETY: the frame is fresh and visible in the window.
    unsafe { window.pointer::<PageTable>(frame.start_address()).write(PageTable::new()) };
    Ok(frame)
}

/// Physical memory for tests.
#[cfg(test)]
pub(crate) mod arena {
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::*;

    /// So many frames from physical address 0 on.
    pub(crate) struct Arena {
        memory: *mut u8,
        layout: Layout,
        next: u64,
    }

    impl Arena {
        pub(crate) fn new(frames: usize) -> Arena {
            let layout = Layout::from_size_align(frames * 4096, 4096).unwrap();
            // SAFETY: not of size zero.
            Arena { memory: unsafe { alloc_zeroed(layout) }, layout, next: 0 }
        }

        pub(crate) fn window(&self) -> Window {
            Window::at(self.memory.expose_provenance())
        }
    }

    impl Drop for Arena {
        fn drop(&mut self) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.memory, self.layout) };
        }
    }

    // SAFETY: each frame of the arena is handed out once.
    unsafe impl FrameAllocator<Size4KiB> for Arena {
        fn allocate_frame(&mut self) -> Option<PhysFrame> {
            if self.next as usize == self.layout.size() {
                return None;
            }
            self.next += 4096;
            Some(PhysFrame::containing_address(x86_64::PhysAddr::new(self.next - 4096)))
        }
    }

    impl Tables {
        /// The leaf that translates `virt`: where to, and how large.
        pub(crate) fn translate(&self, virt: u64) -> Option<(PhysAddr, Leaf)> {
            let mut table = self.table(self.root);
            for level in (1..=self.levels.count()).rev() {
                // SAFETY: the arena shows the tables.
                let entry = unsafe { &(&*table)[index(virt, level)] };
                if entry.is_unused() {
                    return None;
                }
                let leaf =
                    [Leaf::Small, Leaf::Large, Leaf::Huge].into_iter().find(|leaf| *leaf as u8 == level);
                if level == 1 || entry.flags().contains(PageTableFlags::HUGE_PAGE) {
                    let leaf = leaf?;
                    return Some((PhysAddr::from(entry.addr()) + virt % leaf.bytes(), leaf));
                }
                table = self.window.pointer(entry.addr());
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::arena::Arena;
    use super::*;

    #[test]
    fn maps_each_size_and_refuses_what_is_mapped() {
        for levels in [Levels::Four, Levels::Five] {
            let mut arena = Arena::new(16);
            let window = arena.window();
            // SAFETY: the arena's frames are the tables' alone.
            let mut tables = unsafe { Tables::new(levels, window, &mut arena) }.unwrap();
            let base = levels.direct_map();
            let mut map = |virt, phys, leaf| {
                tables.map(virt, PhysAddr::new(phys), leaf, PageTableFlags::PRESENT, &mut arena)
            };
            assert_eq!(map(base, 0x1000, Leaf::Small), Ok(()));
            assert_eq!(map(base + (2 << 20), 0x40_0000, Leaf::Large), Ok(()));
            assert_eq!(map(base + (1 << 30), 3 << 30, Leaf::Huge), Ok(()));
            assert_eq!(map(base, 0x1000, Leaf::Small), Err(MapError::Occupied(base)));
            assert_eq!(map(base, 0, Leaf::Large), Err(MapError::Occupied(base)));
            assert_eq!(map(base, 0, Leaf::Huge), Err(MapError::Occupied(base)));
            let below = base + (1 << 30) + 0x1000;
            assert_eq!(map(below, 0x1000, Leaf::Small), Err(MapError::Occupied(below)));
            let tables_below = u64::from(levels.count()) - 1;
            assert_eq!(tables.leaves(), Leaves { small: 1, large: 1, huge: 1, tables: tables_below });
            let in_huge = tables.translate(base + (1 << 30) + 0x1234);
            assert_eq!(in_huge, Some((PhysAddr::new((3 << 30) + 0x1234), Leaf::Huge)));
            assert_eq!(tables.translate(base + 0x1000), None);
        }
    }

    #[test]
    fn without_frames_it_says_so() {
        let mut arena = Arena::new(2);
        let window = arena.window();
        // SAFETY: the arena's frames are the tables' alone.
        let mut tables = unsafe { Tables::new(Levels::Four, window, &mut arena) }.unwrap();
        let mapped = tables.map(0, PhysAddr::ZERO, Leaf::Small, PageTableFlags::PRESENT, &mut arena);
        assert_eq!(mapped, Err(MapError::OutOfFrames));
    }
}
