//! Memory for a topology of more nodes or ranges than are built in, sized by the firmware tables.

use core::mem::MaybeUninit;

use topomem_percpu::{CpuId, MAX_CPUS, MAX_NODES, NodeId, Platform};

use super::discover::domain_of;
use super::performance::{FiguresPlace, NodeCache};
use super::{ApicId, BUILT_IN_CPUS, CpuEntry, Distance, MemoryKind, NodeRange, Topology, ranges, square};
use crate::cutter::Cutter;
use crate::memory::FRAME_SIZE;
use crate::tables::{
    Cedt, CedtEntry, CpuState, Diagnostic, FirmwareTables, Madt, MadtEntry, Srat, SratEntry,
};
use crate::{BootAllocator, MemoryMap, MemoryRange};

/// The room for a machine beyond the places built in; zeros if the places built in suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    nodes: usize,
    ranges: usize,
    cpus: usize,
}

/// Regions of boot allocations on a node that the memory map gets room for.
const BOOT_REGIONS: usize = 4;

/// The value of a range that is not in use yet.
const VACANT: NodeRange =
    NodeRange { range: MemoryRange::EVERYTHING, node: NodeId::ZERO, kind: MemoryKind::Conventional };

/// The value of the place of a CPU that is not in use yet.
const NO_CPU: CpuEntry = CpuEntry { cpu: CpuId::BOOT, apic_id: ApicId(0), node: NodeId::ZERO };

impl Extent {
    /// Returns the words of all tables.
    fn words(self) -> usize {
        let Extent { nodes, ranges, cpus } = self;
        let pair = size_of::<Distance>() + size_of::<NodeId>() + 2 * size_of::<u32>();
        let of_nodes = nodes * nodes * pair + nodes * (size_of::<NodeCache>() + size_of::<u32>());
        let of_ranges = ranges * (size_of::<NodeRange>() + size_of::<u64>());
        let bytes = of_nodes + of_ranges + cpus * size_of::<CpuEntry>();
        // Each of the nine tables may begin up to a word later than the one before it ends.
        bytes.div_ceil(size_of::<u64>()) + 9
    }
}

/// Counts the proximity domains that `srat` makes nodes of, up to [`MAX_NODES`]. A pass over the table for each: there
/// is no place to note them in.
fn count_domains(srat: &Srat<'_>) -> usize {
    let above = |last: Option<u32>| {
        let domains = srat.entries().filter_map(|entry| domain_of(&entry.ok()?));
        domains.filter(|&domain| last.is_none_or(|last| domain > last)).min()
    };
    core::iter::successors(above(None), |&last| above(Some(last))).take(MAX_NODES).count()
}

impl Topology {
    /// Returns how many nodes there is room for.
    pub(super) fn node_room(&self) -> usize {
        self.far_nodes.max(square::BUILT_IN)
    }

    /// Replaces the topology by that of `tables`, as [`Topology::discover`] does, and takes memory from `map` if the
    /// machine has more than 8 nodes or 64 CPUs, or may have more than 32 ranges: up to
    /// [`MAX_NODES`](topomem_percpu::MAX_NODES) nodes and [`MAX_CPUS`](topomem_percpu::MAX_CPUS) CPUs, and any number of
    /// ranges. The memory is reserved in the map for good, as "boot allocations". Machines that are described without it
    /// take none.
    ///
    /// The map gets room for boot allocations on each node, too.
    ///
    /// `platform` shows where `map`'s memory is mapped. Two passes over the tables: the first counts, the second
    /// describes. If `map` has no such memory in one piece, the entries without room are reported, and their memory is node 0's.
    ///
    /// Cost: 11 bytes for each pair of nodes, 32 for each range, 12 for each CPU. [`Topology::discover`]'s time, a pass
    /// over the SRAT for each node, and about the square of the number of nodes, times its logarithm.
    ///
    /// ```
    /// # use std::ptr::NonNull;
    /// use topomem_numa::{ApicId, FirmwareTables, MemoryMap, Topology};
    /// # use topomem_numa::{CpuId, PhysAddr, Platform};
    /// # struct Kernel;
    /// # unsafe impl Platform for Kernel {
    /// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
    /// #     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> { NonNull::dangling() }
    /// # }
    ///
    /// let (mut map, mut topology) = (Box::new(MemoryMap::new()), Box::new(Topology::new()));
    /// let tables = FirmwareTables::default();
    /// topology.discover_in(&Kernel, &mut map, &tables, ApicId(0), &mut |diagnostic| println!("{diagnostic}"));
    /// assert_eq!(topology.node_count(), 1);
    /// ```
    pub fn discover_in<P: Platform>(
        &mut self,
        platform: &P,
        map: &mut MemoryMap,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) {
        let extent = self.extent_of(tables);
        if extent != Extent::default() {
            // All memory is node 0's as yet.
            self.reset();
            let bytes = extent.words() * size_of::<u64>();
            if let Ok(start) = BootAllocator::new(map, self).alloc(bytes as u64, FRAME_SIZE, NodeId::ZERO) {
                let place = platform.phys_to_virt(start).cast::<MaybeUninit<u64>>();
                // SAFETY: by `Platform` and the map, the memory is RAM, mapped for good; the allocator reserved it just
                // now.
                let memory = unsafe { core::slice::from_raw_parts_mut(place.as_ptr(), extent.words()) };
                self.make_room(extent, Cutter::new(memory));
            }
        }
        self.discover(tables, boot, diagnostics);
        map.make_room_for_boot(platform, BOOT_REGIONS * self.node_count());
    }

    /// Discovers as [`Topology::discover_in`] does, with memory that `memory` returns: it is called at most once, with
    /// the number of words that are needed. Returns `None` if there is no such memory.
    ///
    /// ```
    /// use topomem_numa::{ApicId, FirmwareTables, Topology};
    ///
    /// let mut topology = Box::new(Topology::new());
    /// let memory = |words| Some(Box::leak(Box::new_uninit_slice(words)));
    /// topology.discover_with(memory, &FirmwareTables::default(), ApicId(0), &mut |diagnostic| println!("{diagnostic}"));
    /// assert_eq!(topology.node_count(), 1);
    /// ```
    pub fn discover_with(
        &mut self,
        memory: impl FnOnce(usize) -> Option<&'static mut [MaybeUninit<u64>]>,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) {
        let extent = self.extent_of(tables);
        if extent != Extent::default()
            && let Some(memory) = memory(extent.words()).filter(|memory| memory.len() >= extent.words())
        {
            self.make_room(extent, Cutter::new(memory));
        }
        self.discover(tables, boot, diagnostics);
    }

    /// Counts what `tables` may need beyond the room that there is.
    fn extent_of(&self, tables: &FirmwareTables<'_>) -> Extent {
        let srat = tables.srat.and_then(|bytes| Srat::parse(bytes).ok());
        let cedt = tables.cedt.and_then(|bytes| Cedt::parse(bytes).ok());
        let madt = tables.madt.and_then(|bytes| Madt::parse(bytes).ok());
        let is_window = |entry: &Result<_, _>| matches!(entry, Ok(CedtEntry::Window { .. }));
        let windows = cedt.map_or(0, |cedt| cedt.entries().filter(is_window).count());
        let is_memory = |entry: &Result<SratEntry, _>| matches!(entry, Ok(SratEntry::Memory(_)));
        let memory = srat.map_or(0, |srat| srat.entries().filter(is_memory).count());
        let domains = srat.as_ref().map_or(0, count_domains);
        // Without domains there is node 0 beside the windows' nodes.
        let nodes = (domains.max(1) + windows).min(MAX_NODES);
        // A stated range cuts another in two at most, and a window fills a gap behind each range at most.
        let ranges = 2 * (memory + windows) + memory + windows + 1;
        let is_cpu = |entry: &Result<MadtEntry, _>| {
            matches!(entry, Ok(MadtEntry::Cpu { state: CpuState::Enabled, .. }))
        };
        // The boot CPU may be in no table.
        let cpus = madt.map_or(0, |madt| madt.entries().filter(is_cpu).count()) + 1;
        let cpus = cpus.min(MAX_CPUS);
        let cpu_room = self.cpus.len() + self.cpus.room();
        Extent {
            nodes: if nodes > self.node_room() { nodes } else { 0 },
            ranges: if ranges > self.ranges.room().max(ranges::BUILT_IN) { ranges } else { 0 },
            cpus: if cpus > cpu_room.max(BUILT_IN_CPUS) { cpus } else { 0 },
        }
    }

    /// Uses `memory`, which has room for it, for tables of that extent.
    fn make_room(&mut self, extent: Extent, mut memory: Cutter) {
        let Extent { nodes, ranges, cpus } = extent;
        if nodes > 0 {
            let figures = FiguresPlace {
                picoseconds: memory.table(nodes * nodes, 0),
                megabytes_per_second: memory.table(nodes * nodes, 0),
                caches: memory.table(nodes, NodeCache::NONE),
            };
            self.performance.move_to(figures, nodes);
            self.distances.move_to(memory.table(nodes * nodes, Distance::NONE), nodes);
            self.nearest.move_to(memory.table(nodes * nodes, NodeId::ZERO), nodes);
            self.proximity.move_to(memory.table(nodes, 0));
            self.far_nodes = nodes;
        }
        if cpus > 0 {
            self.cpus.move_to(memory.table(cpus, NO_CPU));
        }
        if ranges > 0 {
            let (stated, places) = (memory.table(ranges, 0), memory.table(ranges, VACANT));
            self.ranges.move_to(places, stated);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use topomem_percpu::PhysAddr;

    use super::*;

    /// Returns an SRAT with a range of memory of each domain up to `domains`, of 4 KiB every 8 KiB.
    fn srat(domains: u32) -> Vec<u8> {
        let mut table = std::vec![0; 48];
        table[..4].copy_from_slice(b"SRAT");
        table[8] = 3;
        for domain in 0..domains {
            table.extend([1, 40]);
            table.extend(domain.to_le_bytes());
            table.extend([0; 2]);
            table.extend(((u64::from(domain) + 1) << 13).to_le_bytes());
            table.extend(4096_u64.to_le_bytes());
            table.extend([0; 4]);
            table.extend(1_u32.to_le_bytes());
            table.extend([0; 8]);
        }
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        table[9] = table.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg();
        table
    }

    /// Memory for a topology, which is freed after the topology.
    struct Memory(*mut [MaybeUninit<u64>]);

    impl Memory {
        fn new() -> Memory {
            Memory(Box::into_raw(Box::new([])))
        }

        /// Replaces the memory by `words` words.
        fn take(&mut self, words: usize) -> &'static mut [MaybeUninit<u64>] {
            *self = Memory(Box::into_raw(Box::new_uninit_slice(words)));
            // SAFETY: just allocated, and used by the topology alone until the memory is dropped.
            unsafe { &mut *self.0 }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: the pointer came from a box, whose user is gone.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }

    /// The tables lie in the memory given, one behind the other, and nothing beyond is written.
    #[test]
    fn tables_fit_the_memory_given() {
        let nodes = square::BUILT_IN + 3;
        let srat = srat(nodes as u32);
        let tables = FirmwareTables { srat: Some(&srat), ..FirmwareTables::default() };
        // Locals are dropped in reverse order: the topology first.
        let mut memory = Memory::new();
        let mut topology = Box::new(Topology::new());
        let mut said = 0;
        topology.discover_with(|words| Some(memory.take(words)), &tables, ApicId(0), &mut |_| said += 1);
        // The boot CPU is in no table.
        assert_eq!((topology.node_count(), said), (nodes, 1));
        for (index, node) in topology.nodes().enumerate() {
            assert_eq!(topology.node_of_addr(PhysAddr::new((index as u64 + 1) << 13)), node);
            assert_eq!(topology.nearest(node).len(), nodes);
            assert_eq!(topology.nearest(node)[0], node);
            assert_eq!(topology.distance(node, node), Distance::LOCAL);
            assert_eq!((topology.latency(node, node), topology.memory_side_cache(node)), (None, None));
        }
        // Too little memory is as none.
        let mut memory = Memory::new();
        let mut topology = Box::new(Topology::new());
        topology.discover_with(|words| Some(memory.take(words - 1)), &tables, ApicId(0), &mut |_| {});
        assert_eq!(topology.node_count(), square::BUILT_IN);
    }
}
