//! A place for a kernel's knowledge of its memory before there is a frame allocator.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use topomem_percpu::Platform;

use super::{BootAllocator, MemoryMap};
use crate::{ApicId, Diagnostic, FirmwareTables, Topology};

/// The knowledge of the machine's memory before there is a frame allocator: the map, and the topology.
#[derive(Debug)]
pub struct Early {
    /// The memory map.
    pub map: MemoryMap,
    /// The nodes. One, until [`Topology::discover`] has read firmware's tables.
    pub topology: Topology,
}

impl Early {
    /// Returns an allocator over the map's free memory, before the topology is known as well as after.
    pub fn allocator(&mut self) -> BootAllocator<'_> {
        BootAllocator::new(&mut self.map, &self.topology)
    }

    /// Discovers the topology with memory of the map, if it needs any: see [`Topology::discover_in`].
    pub fn discover<P: Platform>(
        &mut self,
        platform: &P,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) {
        self.topology.discover_in(platform, &mut self.map, tables, boot, diagnostics);
    }
}

/// A place for [`Early`], which is too large for a boot stack: a `static`.
///
/// ```
/// use topomem_numa::{EarlyMemory, MemoryRange};
///
/// static EARLY: EarlyMemory = EarlyMemory::new();
///
/// let mut early = EARLY.open().ok_or("in use")?;
/// early.map.add_usable(MemoryRange::from_bounds(0x10_0000, 0x400_0000))?;
/// early.map.reserve(MemoryRange::from_bounds(0x20_0000, 0x28_0000), "kernel")?;
/// let table = early.allocator().early_frame()?;
/// # let tables = topomem_numa::FirmwareTables::default();
/// # let boot_cpu = topomem_numa::ApicId(0);
/// early.topology.discover(&tables, boot_cpu, &mut |diagnostic| println!("{diagnostic}"));
/// // FRAMES.init(&mut early.allocator(), &FramesConfig::default())?;
/// # let _ = table;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EarlyMemory {
    is_open: AtomicBool,
    early: UnsafeCell<Early>,
}

// SAFETY: one guard at a time gives access.
unsafe impl Sync for EarlyMemory {}

impl EarlyMemory {
    /// Creates a place with an empty map and one node.
    #[must_use]
    pub const fn new() -> EarlyMemory {
        let early = Early { map: MemoryMap::new(), topology: Topology::new() };
        EarlyMemory { is_open: AtomicBool::new(false), early: UnsafeCell::new(early) }
    }

    /// Gives access to the map and the topology until the guard is dropped; `None` while another guard does.
    pub fn open(&self) -> Option<EarlyGuard<'_>> {
        // Acquire pairs with the Release of the last guard's drop.
        let was_open = self.is_open.swap(true, Ordering::Acquire);
        (!was_open).then_some(EarlyGuard { memory: self })
    }
}

impl Default for EarlyMemory {
    fn default() -> EarlyMemory {
        EarlyMemory::new()
    }
}

impl fmt::Debug for EarlyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyMemory").finish_non_exhaustive()
    }
}

/// The guard of [`EarlyMemory::open`].
#[derive(Debug)]
pub struct EarlyGuard<'m> {
    memory: &'m EarlyMemory,
}

impl Deref for EarlyGuard<'_> {
    type Target = Early;

    fn deref(&self) -> &Early {
        // SAFETY: this is the only guard, and it is borrowed.
        unsafe { &*self.memory.early.get() }
    }
}

impl DerefMut for EarlyGuard<'_> {
    fn deref_mut(&mut self) -> &mut Early {
        // SAFETY: this is the only guard, and it is borrowed alone.
        unsafe { &mut *self.memory.early.get() }
    }
}

impl Drop for EarlyGuard<'_> {
    fn drop(&mut self) {
        self.memory.is_open.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_at_a_time() {
        static EARLY: EarlyMemory = EarlyMemory::new();
        let first = EARLY.open().unwrap();
        assert!(EARLY.open().is_none());
        drop(first);
        assert!(EARLY.open().is_some());
    }
}
