//! Construction of the regions: their spans, their bookkeeping, and the per-frame table.

use topomem_percpu::sync::atomic::AtomicU8;
use topomem_percpu::{MAX_NODES, NodeId, Platform};

use super::boot_memory::BootMemory;
use super::draft::Draft;
use super::placing::Builder;
use crate::frames::region::bitmap::{AtomicBitmap512, masks};
use crate::frames::region::block::{BlockEntry, BlockState, Ownership};
use crate::frames::region::marks::Marks;
use crate::frames::region::retired::RetiredFrames;
use crate::frames::region::{CHUNK, Chunk, Hot, Region, Span};
use crate::frames::state::frame_table::{FrameInfo, NUMBERED_AS_FRAMES, Stretch};
use crate::frames::state::{Metadata, frame_table};
use crate::frames::types::{BLOCK, DoubleFrees, FrameNumber, FramesConfig, InitError, Zone};

/// Gaps up to this many frames (128 MiB) are bridged by one region: their bitmaps cost no more than
/// another region. The per-frame table leaves them out.
const BRIDGED: u64 = 1 << 15;

/// The place of a future region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) node: NodeId,
    pub(super) zone: Zone,
    pub(super) span: Span,
}

/// Returns the number of nodes that are built.
pub(super) fn node_count<G: BootMemory>(memory: &G) -> usize {
    memory.node_count().clamp(1, MAX_NODES)
}

/// Calls `visit` with every free piece of one node and zone, in frames, by address. Touching pieces
/// are merged: a run may lie in both, and is freed as it was allocated.
pub(super) fn sites<G: BootMemory>(memory: &G, config: &FramesConfig, mut visit: impl FnMut(Site)) {
    let mut last: Option<Site> = None;
    let nodes = node_count(memory);
    for piece in memory.free_ranges().filter(|piece| piece.node.index() < nodes) {
        let Span { mut start, end } = Span::of(piece.range);
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

/// Calls `visit` with the regions to be, by address: free pieces of one node and zone with small
/// gaps between.
fn plan<G: BootMemory>(memory: &G, config: &FramesConfig, mut visit: impl FnMut(Site)) {
    let mut last: Option<Site> = None;
    sites(memory, config, |site| match &mut last {
        Some(last)
            if last.node == site.node
                && last.zone == site.zone
                && site.span.start - last.span.end <= BRIDGED =>
        {
            last.span.end = site.span.end;
        }
        _ => last.replace(site).into_iter().for_each(&mut visit),
    });
    last.into_iter().for_each(visit);
}

/// The extent of the free memory.
pub(super) struct Extent {
    /// Free pieces of each node and zone, together.
    pub(super) pieces: usize,
    /// One past the last frame.
    pub(super) end: FrameNumber,
}

#[inline(never)]
pub(super) fn measure<G: BootMemory>(
    memory: &G,
    config: &FramesConfig,
) -> Result<Extent, InitError<G::Error>> {
    let mut measure = Extent { pieces: 0, end: FrameNumber::ZERO };
    let mut regions = 0_usize;
    sites(memory, config, |_| measure.pieces += 1);
    plan(memory, config, |site| {
        regions += 1;
        measure.end = site.span.end;
    });
    if regions == 0 { Err(InitError::NoMemory) } else { Ok(measure) }
}

/// Counts the regions and pieces of each node.
#[inline(never)]
pub(super) fn count<G: BootMemory>(memory: &G, config: &FramesConfig, drafts: &mut [Draft]) {
    sites(memory, config, |site| drafts[site.node.index()].piece_count += 1);
    plan(memory, config, |site| drafts[site.node.index()].region_count += 1);
}

/// Counts the frames of each node that are free now.
#[inline(never)]
pub(super) fn count_free<G: BootMemory>(memory: &G, config: &FramesConfig, drafts: &mut [Draft]) {
    drafts.iter_mut().for_each(|draft| draft.free = 0);
    sites(memory, config, |site| drafts[site.node.index()].free += site.span.frames());
}

/// Builds the regions of the memory that is free now in their places, without any bookkeeping.
#[inline(never)]
pub(super) fn plan_regions<G: BootMemory>(
    memory: &G,
    config: &FramesConfig,
    drafts: &mut [Draft],
) -> Result<(), InitError<G::Error>> {
    let nowhere = Site { node: NodeId::ZERO, zone: Zone::Normal, span: Span::EMPTY };
    for draft in drafts.iter_mut() {
        draft.building = draft.region_place.take().fill(|_| region(nowhere));
        draft.region_count = 0;
    }
    plan(memory, config, |site| {
        let draft = &mut drafts[site.node.index()];
        if let Some(region) = draft.building.get_mut(draft.region_count) {
            (region.node, region.zone, region.span) = (site.node, site.zone, site.span);
            region.first_block = site.span.start.block();
        }
        draft.region_count += 1;
    });
    for draft in drafts {
        let limit = draft.building.len();
        let regions = core::mem::take(&mut draft.building);
        draft.building = regions.get_mut(..draft.region_count).ok_or(InitError::TooManyRegions { limit })?;
        let has_higher = draft.building.iter().any(|region| region.zone != Zone::Dma);
        for region in draft.building.iter_mut() {
            region.cached = region.zone != Zone::Dma || !has_higher;
        }
    }
    Ok(())
}

fn region(site: Site) -> Region {
    Region {
        cached: true,
        node: site.node,
        zone: site.zone,
        span: site.span,
        first_block: site.span.start.block(),
        lines: &[],
        entries: &[],
        chunks: &[],
        marks: Marks(&[]),
        managed: &[],
        retired: RetiredFrames::new(),
        hot: Hot::new(),
    }
}

/// Calls `visit` with the span of each stretch of the per-frame table, for the memory that is free now.
fn stretches<G: BootMemory>(
    memory: &G,
    drafts: &[Draft],
    config: &FramesConfig,
    mut visit: impl FnMut(Span),
) {
    let mut last: Option<((NodeId, usize), Span)> = None;
    sites(memory, config, |site| {
        let of_node = &*drafts[site.node.index()].building;
        let region = (site.node, of_node.partition_point(|region| region.span.end <= site.span.start));
        match &mut last {
            Some((of, span)) if *of == region && site.span.start - span.end <= frame_table::BRIDGED => {
                span.end = site.span.end;
            }
            _ => {
                if let Some((_, span)) = last.replace((region, site.span)) {
                    visit(span);
                }
            }
        }
    });
    if let Some((_, span)) = last {
        visit(span);
    }
}

/// Places the per-frame table: each region's entries on its own node, 8 bytes for each frame, and
/// none for larger holes. At most `most` stretches.
#[inline(never)]
pub(super) fn place_table<P: Platform, G: BootMemory>(
    builder: &mut Builder<'_, P, G>,
    drafts: &[Draft],
    most: usize,
    config: &FramesConfig,
    bytes: &mut u64,
) -> Result<&'static [Stretch], InitError<G::Error>> {
    let place = builder.place::<Stretch>(most, NodeId::ZERO, bytes)?;
    let table = place.fill(|_| Stretch { span: Span::EMPTY, first_entry: 0, entries: &[] });
    // From here on memory only shrinks: each frame managed in the end has its entry.
    let (mut count, mut next_entry) = (0, 1);
    stretches(&*builder.memory, drafts, config, |span| {
        if let Some(stretch) = table.get_mut(count) {
            *stretch = Stretch { span, first_entry: next_entry, entries: &[] };
        }
        count += 1;
        next_entry += span.frames() + 1;
    });
    let limit = table.len();
    let table = table.get_mut(..count).ok_or(InitError::TooManyPieces { limit })?;
    if table.last().is_some_and(|last| last.span.end <= NUMBERED_AS_FRAMES) {
        table.iter_mut().for_each(|stretch| stretch.first_entry = stretch.span.start.get());
    }
    for region in drafts.iter().flat_map(|draft| draft.building.iter()) {
        let first = table.partition_point(|stretch| stretch.span.start < region.span.start);
        let end = table.partition_point(|stretch| stretch.span.start < region.span.end);
        let here = &mut table[first..end];
        let frames: u64 = here.iter().map(|stretch| stretch.span.frames()).sum();
        let place = builder.place::<FrameInfo>(frames as usize, region.node, bytes)?;
        let mut entries: &'static [FrameInfo] = place.fill(|_| FrameInfo::new());
        for stretch in here {
            (stretch.entries, entries) = entries.split_at(stretch.span.frames() as usize);
        }
    }
    Ok(table)
}

/// Places a region's bookkeeping on its own node: 66 bytes a block, 128 a GiB.
#[inline(never)]
pub(super) fn place_parts<P: Platform, G: BootMemory>(
    builder: &mut Builder<'_, P, G>,
    region: &mut Region,
    config: &FramesConfig,
    metadata: &mut Metadata,
) -> Result<(), InitError<G::Error>> {
    let blocks = region.span.pieces_of(BLOCK);
    let chunks = region.span.pieces_of(BLOCK * CHUNK as u64);
    let bytes = &mut metadata.regions;
    region.lines = builder.place(blocks, region.node, bytes)?.fill(|_| AtomicBitmap512::new());
    region.entries = builder.place(blocks, region.node, bytes)?.fill(|_| BlockEntry::new());
    region.chunks = builder.place(chunks, region.node, bytes)?.fill(|_| Chunk::new());
    if config.double_frees == DoubleFrees::FoundAtOnce {
        let place = builder.place(region.span.frames() as usize, region.node, &mut metadata.marks)?;
        region.marks = Marks(place.fill(|_| AtomicU8::new(0)));
    }
    Ok(())
}

/// Records the managed frames in each region: the frames still free, once all bookkeeping is placed.
#[inline(never)]
pub(super) fn manage<G: BootMemory>(
    memory: &G,
    config: &FramesConfig,
    drafts: &mut [Draft],
) -> Result<(), InitError<G::Error>> {
    drafts.iter_mut().for_each(|draft| draft.piece_count = 0);
    sites(memory, config, |site| {
        let draft = &mut drafts[site.node.index()];
        draft.spans.get_mut(draft.piece_count).into_iter().for_each(|span| *span = site.span);
        draft.piece_count += 1;
    });
    for draft in drafts {
        let spans = &*core::mem::take(&mut draft.spans);
        let limit = spans.len();
        let managed = spans.get(..draft.piece_count).ok_or(InitError::TooManyPieces { limit })?;
        for region in draft.building.iter_mut() {
            let first = managed.partition_point(|span| span.start < region.span.start);
            let end = managed.partition_point(|span| span.start < region.span.end);
            region.managed = &managed[first..end];
        }
        draft.share_regions();
    }
    Ok(())
}

/// Zeroes the frames of a managed span that have no users.
pub(super) fn clear_unused<P: Platform, G: BootMemory>(platform: &P, memory: &G, span: Span) {
    let mut start = span.start;
    for used in memory.allocated().map(Span::of) {
        if used.start < span.end && start < used.end {
            clear(platform, Span { start, end: used.start.max(start) });
            start = used.end.min(span.end);
        }
    }
    clear(platform, Span { start, end: span.end });
}

/// Zeroes frames that have no users.
fn clear<P: Platform>(platform: &P, span: Span) {
    if span.start < span.end {
        let first = platform.phys_to_virt(span.start.frame().start_address());
        // SAFETY: by `BootMemory` and `Platform`, the span is RAM without other users, in the direct map.
        unsafe { first.write_bytes(0, (span.frames() * 4096) as usize) };
    }
}

/// Makes the frames of a managed span free.
pub(super) fn populate(region: &Region, span: Span) {
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
