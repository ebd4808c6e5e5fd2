//! Building the allocator: regions from free memory, each node's bookkeeping on that node.

use core::ptr::NonNull;

use arrayvec::ArrayVec;
use topomem_percpu::sync::atomic::AtomicU8;
use topomem_percpu::{CpuId, MAX_CPUS, MAX_NODES, NodeId, Platform};

use super::alloc::frame;
use super::block::{BlockEntry, BlockState, Ownership};
use super::directory::{self, Directory, PartTable};
use super::init_nodes::{NodeParts, serving_nodes, weights};
use super::line512::{Line512, masks};
use super::machine::{CpuNodes, Machine, Metadata};
use super::magazine::{Checked, Magazine};
use super::marks::Marks;
use super::node::{MAX_REGIONS, Node};
use super::region::{BLOCK, CHUNK, Chunk, Hot, Region, Span};
use super::retired::RetiredFrames;
use super::table::{self, FrameInfo, Stretch};
use super::transit::Transits;
use super::turns::Turns;
use super::zeroed_pool::{Set, ZeroedPool};
use super::{DoubleFrees, FramesConfig, Ground, InitError, PerFrameTable, Zeroing, Zone};

/// Gaps up to this many frames (128 MiB) are bridged by one region: they cost bitmaps, but keep the
/// number of regions small. The per-frame table leaves them out.
const BRIDGED: u64 = 1 << 15;
/// How many more pieces there may be once the bookkeeping is placed.
const SLACK: usize = 64;
/// One block in this many may be held back by CPUs.
const HELD_BACK: u64 = 16;

/// Where a region will be.
#[derive(Debug, Clone, Copy)]
struct Site {
    node: NodeId,
    zone: Zone,
    span: Span,
}

/// Memory for `count` values that are yet to be written.
struct Place<T> {
    first: NonNull<T>,
    count: usize,
}

impl<T: 'static> Place<T> {
    /// Writes the values, made by index.
    fn fill(self, mut make: impl FnMut(usize) -> T) -> &'static mut [T] {
        for index in 0..self.count {
            // SAFETY: by `Ground` and `Platform`, the bytes are RAM that nobody else has, mapped
            // for good; addresses aligned to frames keep their alignment in the direct map.
            unsafe { self.first.add(index).write(make(index)) };
        }
        // SAFETY: all `count` values were just written, and nobody else has the memory.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }
}

/// Places bookkeeping.
struct Builder<'b, P, G> {
    platform: &'b P,
    ground: &'b mut G,
}

impl<P: Platform, G: Ground> Builder<'_, P, G> {
    fn place<T>(
        &mut self,
        count: usize,
        node: NodeId,
        bytes: &mut u64,
    ) -> Result<Place<T>, InitError<G::Error>> {
        if count == 0 {
            return Ok(Place { first: NonNull::dangling(), count });
        }
        let size = (size_of::<T>() * count) as u64;
        let address = self.ground.place(size, align_of::<T>() as u64, node).map_err(InitError::Metadata)?;
        *bytes += size;
        Ok(Place { first: self.platform.phys_to_virt(address).cast(), count })
    }
}

/// Calls `visit` with every free piece of one node and zone, in frames, by address. Pieces that
/// touch are one: a run may lie in both, and is freed as it was allocated.
fn sites<G: Ground>(ground: &G, config: &FramesConfig, mut visit: impl FnMut(Site)) {
    let mut last: Option<Site> = None;
    for piece in ground.pieces() {
        let mut start = piece.range.start.as_u64() / 4096;
        let end = piece.range.end.as_u64() / 4096;
        while start < end {
            let (zone, zone_end) = config.zones.zone_of(start);
            let span = Span { start, end: end.min(zone_end) };
            match &mut last {
                Some(last) if last.node == piece.node && last.zone == zone && last.span.end == start => {
                    last.span.end = span.end;
                }
                _ => {
                    if let Some(complete) = last.replace(Site { node: piece.node, zone, span }) {
                        visit(complete);
                    }
                }
            }
            start = span.end;
        }
    }
    last.into_iter().for_each(visit);
}

/// The regions to be, and how many pieces they are made of. Gaps between them are bridged: at first
/// small ones, then larger ones until there are few enough regions.
fn survey<G: Ground>(
    ground: &G,
    config: &FramesConfig,
) -> Result<(ArrayVec<Site, MAX_REGIONS>, usize), InitError<G::Error>> {
    let mut planned: ArrayVec<Site, MAX_REGIONS> = ArrayVec::new();
    let mut bridged = BRIDGED;
    loop {
        planned.clear();
        let (mut pieces, mut too_many) = (0, false);
        sites(ground, config, |site| {
            pieces += 1;
            match planned.last_mut() {
                Some(last)
                    if last.node == site.node
                        && last.zone == site.zone
                        && site.span.start - last.span.end <= bridged =>
                {
                    last.span.end = site.span.end;
                }
                _ => too_many |= planned.try_push(site).is_err(),
            }
        });
        if planned.is_empty() {
            return Err(InitError::NoMemory);
        }
        if !too_many {
            return Ok((planned, pieces));
        }
        // No gap is wider than the physical address space: nodes or zones alternate too often.
        if bridged >> (52 - 12) != 0 {
            return Err(InitError::TooManyRegions { limit: MAX_REGIONS });
        }
        bridged *= 2;
    }
}

/// Builds everything; the memory of `ground` belongs to the result.
pub(super) fn build<P: Platform, G: Ground>(
    platform: &P,
    ground: &mut G,
    config: &FramesConfig,
) -> Result<&'static Machine, InitError<G::Error>> {
    let (planned, pieces) = survey(ground, config)?;
    let node_count = ground.node_count().clamp(1, MAX_NODES);
    let mut metadata = Metadata::default();
    let mut builder = Builder { platform, ground };

    // Everything is placed before anything is managed: placing takes from the same memory.
    let machine_place = builder.place::<Machine>(1, NodeId::ZERO, &mut metadata.fixed)?;
    let node_place = builder.place::<Node>(node_count, NodeId::ZERO, &mut metadata.fixed)?;
    let region_place = builder.place::<Region>(planned.len(), NodeId::ZERO, &mut metadata.fixed)?;
    let span_place = builder.place::<Span>(pieces + SLACK, NodeId::ZERO, &mut metadata.fixed)?;
    let cpus = builder.ground.cpus().map(|(cpu, _)| cpu.index() + 1).max().unwrap_or(1);
    let turns_place = builder.place::<Turns>(cpus, NodeId::ZERO, &mut metadata.fixed)?;
    let (part_count, shift) = directory::parts(planned.last().map_or(0, |site| site.span.end));
    let directory_place = builder.place::<u8>(part_count, NodeId::ZERO, &mut metadata.fixed)?;
    let part_table_count = match config.table {
        PerFrameTable::Absent => 0,
        PerFrameTable::Present => part_count,
    };
    let part_tables_place =
        builder.place::<PartTable>(part_table_count, NodeId::ZERO, &mut metadata.table)?;
    let stretches = match config.table {
        PerFrameTable::Absent => &[],
        PerFrameTable::Present => place_table(&mut builder, &planned, pieces + SLACK, config, &mut metadata)?,
    };
    let mut parts: ArrayVec<Parts, MAX_REGIONS> = ArrayVec::new();
    for site in &planned {
        parts.push(place_parts(&mut builder, site, config, &mut metadata)?);
    }
    let mut pools: ArrayVec<ZeroedPool, MAX_NODES> = ArrayVec::new();
    for index in 0..node_count {
        pools.push(place_pool(&mut builder, index, config, &mut metadata)?);
    }
    let mut pools = pools.into_iter();
    // Only magazines are left to be placed: what a node has more than they can take stays free.
    let mut free = [0; MAX_NODES];
    sites(&*builder.ground, config, |site| free[site.node.index()] += site.span.end - site.span.start);
    let most = (builder.ground.cpus().count() * size_of::<Magazine>()).div_ceil(4096) as u64;
    let serving = serving_nodes(&*builder.ground, node_count, |node| free[node.index()] > most);
    let mut homes = CpuNodes { home: [NodeId::ZERO; MAX_CPUS], serving: [serving[0]; MAX_CPUS] };
    for (cpu, home) in builder.ground.cpus() {
        homes.home[cpu.index()] = home;
        homes.serving[cpu.index()] = serving[home.index()];
    }
    let mut magazines: [&'static [Magazine]; MAX_NODES] = [&[]; MAX_NODES];
    for (id, group) in (0..node_count).filter_map(NodeId::new).zip(&mut magazines) {
        let of_node = planned.iter().filter(|site| site.node == id);
        let blocks = of_node.map(|site| (site.span.end - site.span.start) / BLOCK).sum();
        *group = place_magazines(&mut builder, id, blocks, &homes, &mut metadata)?;
    }

    let spans = span_place.fill(|_| Span { start: 0, end: 0 });
    let mut count = 0;
    sites(ground, config, |site| {
        if let Some(span) = spans.get_mut(count) {
            *span = site.span;
        }
        count += 1;
    });
    let spans: &'static [Span] = spans;
    let managed = spans.get(..count).ok_or(InitError::TooManyPieces { limit: spans.len() })?;
    let regions: &'static [Region] = region_place.fill(|index| parts[index].region(&planned, index, managed));
    for span in managed {
        if config.zeroing == Zeroing::OnFree {
            clear(platform, *span);
        }
        let holder = regions.iter().find(|region| region.contains(span.start));
        holder.into_iter().for_each(|region| populate(region, *span));
    }
    let turns: &'static [Turns] = turns_place.fill(|_| Turns::new());
    let weights = weights(ground, regions, node_count);
    let nodes: &'static [Node] = node_place.fill(|index| {
        let zeroed = pools.next().unwrap_or(ZeroedPool::new(&[], 0));
        NodeParts { regions, config, weight: weights[index], zeroed }.node(ground, index, node_count)
    });
    let first_regions: &'static [u8] =
        directory_place.fill(|part| directory::first_region(regions, part, shift));
    let part_tables: &'static [PartTable] =
        part_tables_place.fill(|part| PartTable::of(stretches, part, shift));
    let machine = machine_place.fill(|_| Machine {
        nodes,
        directory: Directory::new(regions, first_regions, stretches, part_tables, shift),
        magazines,
        cpu_nodes: homes,
        turns,
        checked: checked(config),
        zeroing: config.zeroing,
        bulks: Transits::new(),
        metadata,
    });
    Ok(&machine[0])
}

/// Are there marks to check against?
fn checked(config: &FramesConfig) -> Checked {
    match (config.double_frees, config.zeroing) {
        (DoubleFrees::FoundLate, Zeroing::OnRequest) => Checked::No,
        (DoubleFrees::FoundAtOnce, _) | (_, Zeroing::OnFree) => Checked::EveryUse,
    }
}

/// A region's bookkeeping.
struct Parts {
    lines: &'static [Line512],
    entries: &'static [BlockEntry],
    chunks: &'static [Chunk],
    marks: &'static [AtomicU8],
}

impl Parts {
    fn region(&self, planned: &[Site], index: usize, managed: &'static [Span]) -> Region {
        let site = &planned[index];
        let lowest = |other: &Site| other.node != site.node || other.zone == Zone::Dma;
        Region {
            cached: site.zone != Zone::Dma || planned.iter().all(lowest),
            node: site.node,
            zone: site.zone,
            span: site.span,
            first_block: site.span.start / BLOCK,
            lines: self.lines,
            entries: self.entries,
            chunks: self.chunks,
            marks: Marks(self.marks),
            managed,
            retired: RetiredFrames::new(),
            hot: Hot::new(),
        }
    }
}

/// The stretches of the per-frame table that what is free now makes, without their entries.
fn stretches<G: Ground>(
    ground: &G,
    planned: &[Site],
    config: &FramesConfig,
    mut visit: impl FnMut(usize, Span),
) {
    let mut last: Option<(usize, Span)> = None;
    sites(ground, config, |site| {
        let region = planned.partition_point(|planned| planned.span.end <= site.span.start);
        match &mut last {
            Some((of, span)) if *of == region && site.span.start - span.end <= table::BRIDGED => {
                span.end = site.span.end;
            }
            _ => {
                if let Some((of, span)) = last.replace((region, site.span)) {
                    visit(of, span);
                }
            }
        }
    });
    if let Some((of, span)) = last {
        visit(of, span);
    }
}

/// Places the per-frame table: each region's entries on its own node, 8 bytes for each frame, and
/// none for larger holes. At most `most` stretches.
fn place_table<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    planned: &[Site],
    most: usize,
    config: &FramesConfig,
    metadata: &mut Metadata,
) -> Result<&'static [Stretch], InitError<G::Error>> {
    let place = builder.place::<Stretch>(most, NodeId::ZERO, &mut metadata.table)?;
    let table = place.fill(|_| Stretch { span: Span { start: 0, end: 0 }, first_entry: 0, entries: &[] });
    // From here on memory only gets less: each frame that is managed in the end has its place.
    let mut of_region = [(0, 0); MAX_REGIONS];
    let (mut count, mut next_entry) = (0, 1);
    stretches(&*builder.ground, planned, config, |region, span| {
        if let (Some(stretch), Some((stretches, frames))) = (table.get_mut(count), of_region.get_mut(region))
        {
            *stretch = Stretch { span, first_entry: next_entry, entries: &[] };
            *stretches += 1;
            *frames += span.frames() as usize;
        }
        count += 1;
        next_entry += span.frames() + 1;
    });
    let limit = table.len();
    let table = table.get_mut(..count).ok_or(InitError::TooManyPieces { limit })?;
    let mut stretches = table.iter_mut();
    for (site, &(count, frames)) in planned.iter().zip(&of_region) {
        let place = builder.place::<FrameInfo>(frames, site.node, &mut metadata.table)?;
        let mut left: &'static [FrameInfo] = place.fill(|_| FrameInfo::new());
        for stretch in stretches.by_ref().take(count) {
            (stretch.entries, left) = left.split_at(stretch.span.frames() as usize);
        }
    }
    Ok(table)
}

/// Places a region's bookkeeping on its own node: 66 bytes a block, 128 a GiB.
fn place_parts<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    site: &Site,
    config: &FramesConfig,
    metadata: &mut Metadata,
) -> Result<Parts, InitError<G::Error>> {
    let Span { start, end } = site.span;
    let blocks = (end.div_ceil(BLOCK) - start / BLOCK) as usize;
    let giant = BLOCK * CHUNK as u64;
    let chunks = (end.div_ceil(giant) - start / giant) as usize;
    let bytes = &mut metadata.regions;
    let lines = builder.place(blocks, site.node, bytes)?.fill(|_| Line512::new());
    let entries = builder.place(blocks, site.node, bytes)?.fill(|_| BlockEntry::new());
    let chunks = builder.place(chunks, site.node, bytes)?.fill(|_| Chunk::new());
    let marks = match config.double_frees {
        DoubleFrees::FoundLate => 0,
        DoubleFrees::FoundAtOnce => (end - start) as usize,
    };
    let marks = builder.place(marks, site.node, &mut metadata.marks)?.fill(|_| AtomicU8::new(0));
    Ok(Parts { lines, entries, chunks, marks })
}

/// Places the magazines of the CPUs that `node` serves on that node.
fn place_magazines<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    node: NodeId,
    blocks: u64,
    nodes: &CpuNodes,
    metadata: &mut Metadata,
) -> Result<&'static [Magazine], InitError<G::Error>> {
    let served = |&(cpu, _): &(CpuId, NodeId)| nodes.serving[cpu.index()] == node;
    let count = builder.ground.cpus().filter(served).count();
    let place = builder.place(count, node, &mut metadata.magazines)?;
    // All together they hold back at most a sixteenth of the node.
    let slots = blocks / HELD_BACK / count.max(1) as u64;
    let mut cpus = builder.ground.cpus().filter(served).map(|(cpu, _)| cpu);
    Ok(place.fill(|_| Magazine::new(cpus.next().unwrap_or(CpuId::BOOT), node, slots as usize)))
}

/// Places a node's pool of zeroed frames on that node.
fn place_pool<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    node: usize,
    config: &FramesConfig,
    metadata: &mut Metadata,
) -> Result<ZeroedPool, InitError<G::Error>> {
    let id = NodeId::new(node).unwrap_or(NodeId::ZERO);
    let mut frames = 0;
    sites(&*builder.ground, config, |site| {
        if site.node == id {
            frames += site.span.end - site.span.start;
        }
    });
    let target = config.pool_of(frames);
    let place = builder.place(ZeroedPool::sets_for(target), id, &mut metadata.pools)?;
    Ok(ZeroedPool::new(place.fill(|_| Set::new()), target))
}

/// Zeroes the frames of a managed span.
fn clear<P: Platform>(platform: &P, span: Span) {
    let first = platform.phys_to_virt(frame(span.start).start_address());
    // SAFETY: by `Ground` and `Platform`, the span is RAM that nobody else has, in the direct map.
    unsafe { first.write_bytes(0, ((span.end - span.start) * 4096) as usize) };
}

/// Makes the frames of a managed span free.
fn populate(region: &Region, span: Span) {
    let mut at = span.start;
    while at < span.end {
        let block = region.block_of(at);
        let first = region.first_frame(block);
        let end = span.end.min(first + BLOCK);
        let (chunk, bit) = region.chunk_of(block);
        if end - at == BLOCK {
            region.entry(block).clear_edge();
            region.entry(block).set(BlockState::Whole, Ownership::Shared);
            chunk.whole.set(bit);
        } else {
            for (word, mask) in masks((at - first) as usize, (end - at) as usize) {
                let released = region.line(block).release(word, mask);
                debug_assert!(released.is_ok(), "overlapping pieces: {released:?}");
            }
            chunk.partial.set(bit);
        }
        at = end;
    }
}
