//! Construction of the regions: their spans, their bookkeeping, and the per-frame table.

use core::ops::Deref;

use arrayvec::ArrayVec;
use topomem_percpu::sync::atomic::AtomicU8;
use topomem_percpu::{MAX_NODES, NodeId, Platform};

use super::alloc::frame;
use super::block::{BlockEntry, BlockState, Ownership};
use super::line512::{Line512, masks};
use super::machine::Metadata;
use super::marks::Marks;
use super::node::MAX_REGIONS;
use super::placing::{Builder, Place};
use super::region::{BLOCK, CHUNK, Chunk, Hot, Region, Span};
use super::retired::RetiredFrames;
use super::table::{self, FrameInfo, NUMBERED_AS_FRAMES, Stretch};
use super::{DoubleFrees, FramesConfig, Ground, InitError, Zone};

/// Gaps up to this many frames (128 MiB) are bridged by one region: their bitmaps cost no more than
/// another region. The per-frame table leaves them out.
const BRIDGED: u64 = 1 << 15;
/// How many more pieces there may be once the bookkeeping is placed, on all nodes together.
pub(super) const SLACK: usize = 64;
/// How many more pieces of one node there may be then.
const CUTS: usize = 16;

/// The place of a future region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) node: NodeId,
    pub(super) zone: Zone,
    pub(super) span: Span,
}

/// Calls `visit` with every free piece of one node and zone, in frames, by address. Touching pieces
/// are merged: a run may lie in both, and is freed as it was allocated.
pub(super) fn sites<G: Ground>(ground: &G, config: &FramesConfig, mut visit: impl FnMut(Site)) {
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

/// Calls `visit` with the regions to be, by address: free pieces of one node and zone with small
/// gaps between.
fn plan<G: Ground>(ground: &G, config: &FramesConfig, mut visit: impl FnMut(Site)) {
    let mut last: Option<Site> = None;
    sites(ground, config, |site| match &mut last {
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

/// How much there is of something, by node.
pub(super) type Counts = [usize; MAX_NODES];

/// How much there is.
pub(super) struct Survey {
    /// Regions of each node.
    pub(super) regions: Counts,
    /// Free pieces of each node and zone.
    pub(super) pieces: Counts,
    /// One past the last frame.
    pub(super) end: u64,
}

impl Survey {
    /// How many regions each node may have once bookkeeping is placed: a region is cut only where a gap in it
    /// grows beyond what is bridged.
    pub(super) fn region_room(&self) -> Counts {
        let cuts = |node: usize| SLACK.min(self.pieces[node] - self.regions[node]);
        core::array::from_fn(|node| self.regions[node] + cuts(node))
    }

    /// How many pieces each node may have once bookkeeping is placed. Placing for nodes without room cuts pieces
    /// of others.
    pub(super) fn piece_room(&self) -> Counts {
        self.pieces.map(|pieces| if pieces == 0 { 0 } else { pieces + CUTS })
    }
}

pub(super) fn survey<G: Ground>(ground: &G, config: &FramesConfig) -> Result<Survey, InitError<G::Error>> {
    let mut survey = Survey { regions: [0; MAX_NODES], pieces: [0; MAX_NODES], end: 0 };
    sites(ground, config, |site| survey.pieces[site.node.index()] += 1);
    plan(ground, config, |site| {
        survey.regions[site.node.index()] += 1;
        survey.end = site.span.end;
    });
    let regions: usize = survey.regions.iter().sum();
    match regions {
        0 => Err(InitError::NoMemory),
        // Memory placed first may divide pieces.
        1.. if regions + SLACK > MAX_REGIONS => Err(InitError::TooManyRegions { limit: MAX_REGIONS - SLACK }),
        _ => Ok(survey),
    }
}

/// The regions of each node, by address: `&'static mut [Region]` while they are built.
pub(super) struct RegionsByNode<R>(ArrayVec<R, MAX_NODES>);

impl<R: Deref<Target = [Region]>> RegionsByNode<R> {
    /// Those of `node`.
    pub(super) fn of(&self, node: NodeId) -> &[Region] {
        self.0.get(node.index()).map_or(&[], |regions| regions)
    }

    /// Every region, node by node.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Region> {
        self.0.iter().flat_map(|regions| regions.iter())
    }
}

impl RegionsByNode<&'static mut [Region]> {
    /// Every region, node by node.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Region> {
        self.0.iter_mut().flat_map(|regions| regions.iter_mut())
    }

    /// Ends building.
    pub(super) fn shared(self) -> RegionsByNode<&'static [Region]> {
        RegionsByNode(self.0.into_iter().map(|regions| &*regions).collect())
    }
}

impl RegionsByNode<&'static [Region]> {
    /// Those of the node numbered `index`.
    pub(super) fn of_node(&self, index: usize) -> &'static [Region] {
        self.0.get(index).copied().unwrap_or(&[])
    }

    /// Every region, by address.
    pub(super) fn by_address(&self) -> impl Iterator<Item = &'static Region> {
        let mut left = self.0.clone();
        core::iter::from_fn(move || {
            let start_of =
                |regions: &&&'static [Region]| regions.first().map_or(u64::MAX, |first| first.span.start);
            let next = left.iter_mut().min_by_key(|regions| start_of(&&**regions))?;
            let (first, others) = next.split_first()?;
            *next = others;
            Some(first)
        })
    }
}

/// Places room for each node's regions on that node.
pub(super) fn place_regions<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    room: &Counts,
    bytes: &mut u64,
) -> Result<ArrayVec<Place<Region>, MAX_NODES>, InitError<G::Error>> {
    let nodes = (0..MAX_NODES).filter_map(NodeId::new);
    nodes.map(|node| builder.place(room[node.index()], node, bytes)).collect()
}

/// The regions of what is free now, without any bookkeeping.
pub(super) fn plan_regions<G: Ground>(
    ground: &G,
    config: &FramesConfig,
    places: ArrayVec<Place<Region>, MAX_NODES>,
) -> Result<RegionsByNode<&'static mut [Region]>, InitError<G::Error>> {
    let nowhere = Site { node: NodeId::ZERO, zone: Zone::Normal, span: Span { start: 0, end: 0 } };
    let mut by_node: ArrayVec<&'static mut [Region], MAX_NODES> =
        places.into_iter().map(|place| place.fill(|_| region(nowhere))).collect();
    let mut counts: Counts = [0; MAX_NODES];
    plan(ground, config, |site| {
        let node = site.node.index();
        by_node[node].get_mut(counts[node]).into_iter().for_each(|place| *place = region(site));
        counts[node] += 1;
    });
    for (regions, count) in by_node.iter_mut().zip(counts) {
        let limit = regions.len();
        *regions = core::mem::take(regions).get_mut(..count).ok_or(InitError::TooManyRegions { limit })?;
        let has_higher = regions.iter().any(|region| region.zone != Zone::Dma);
        for region in regions.iter_mut() {
            region.cached = region.zone != Zone::Dma || !has_higher;
        }
    }
    Ok(RegionsByNode(by_node))
}

fn region(site: Site) -> Region {
    Region {
        cached: true,
        node: site.node,
        zone: site.zone,
        span: site.span,
        first_block: site.span.start / BLOCK,
        lines: &[],
        entries: &[],
        chunks: &[],
        marks: Marks(&[]),
        managed: &[],
        retired: RetiredFrames::new(),
        hot: Hot::new(),
    }
}

/// The stretches of the per-frame table that what is free now makes, without their entries.
fn stretches<G: Ground>(
    ground: &G,
    regions: &RegionsByNode<&'static mut [Region]>,
    config: &FramesConfig,
    mut visit: impl FnMut(Span),
) {
    let mut last: Option<((NodeId, usize), Span)> = None;
    sites(ground, config, |site| {
        let of_node = regions.of(site.node);
        let region = (site.node, of_node.partition_point(|region| region.span.end <= site.span.start));
        match &mut last {
            Some((of, span)) if *of == region && site.span.start - span.end <= table::BRIDGED => {
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
pub(super) fn place_table<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    regions: &RegionsByNode<&'static mut [Region]>,
    most: usize,
    config: &FramesConfig,
    bytes: &mut u64,
) -> Result<&'static [Stretch], InitError<G::Error>> {
    let place = builder.place::<Stretch>(most, NodeId::ZERO, bytes)?;
    let table = place.fill(|_| Stretch { span: Span { start: 0, end: 0 }, first_entry: 0, entries: &[] });
    // From here on memory only shrinks: each frame managed in the end has its entry.
    let (mut count, mut next_entry) = (0, 1);
    stretches(&*builder.ground, regions, config, |span| {
        if let Some(stretch) = table.get_mut(count) {
            *stretch = Stretch { span, first_entry: next_entry, entries: &[] };
        }
        count += 1;
        next_entry += span.frames() + 1;
    });
    let limit = table.len();
    let table = table.get_mut(..count).ok_or(InitError::TooManyPieces { limit })?;
    if table.last().is_some_and(|last| last.span.end <= NUMBERED_AS_FRAMES) {
        table.iter_mut().for_each(|stretch| stretch.first_entry = stretch.span.start);
    }
    for region in regions.iter() {
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
pub(super) fn place_parts<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    region: &mut Region,
    config: &FramesConfig,
    metadata: &mut Metadata,
) -> Result<(), InitError<G::Error>> {
    let Span { start, end } = region.span;
    let blocks = (end.div_ceil(BLOCK) - start / BLOCK) as usize;
    let giant = BLOCK * CHUNK as u64;
    let chunks = (end.div_ceil(giant) - start / giant) as usize;
    let bytes = &mut metadata.regions;
    region.lines = builder.place(blocks, region.node, bytes)?.fill(|_| Line512::new());
    region.entries = builder.place(blocks, region.node, bytes)?.fill(|_| BlockEntry::new());
    region.chunks = builder.place(chunks, region.node, bytes)?.fill(|_| Chunk::new());
    if config.double_frees == DoubleFrees::FoundAtOnce {
        let place = builder.place((end - start) as usize, region.node, &mut metadata.marks)?;
        region.marks = Marks(place.fill(|_| AtomicU8::new(0)));
    }
    Ok(())
}

/// Places room for each node's managed spans on that node.
pub(super) fn place_spans<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    room: &Counts,
    bytes: &mut u64,
) -> Result<ArrayVec<Place<Span>, MAX_NODES>, InitError<G::Error>> {
    let nodes = (0..MAX_NODES).filter_map(NodeId::new);
    nodes.map(|node| builder.place(room[node.index()], node, bytes)).collect()
}

/// Notes which frames are managed: what is still free, once all bookkeeping is placed.
pub(super) fn manage<G: Ground>(
    ground: &G,
    config: &FramesConfig,
    places: ArrayVec<Place<Span>, MAX_NODES>,
    regions: &mut RegionsByNode<&'static mut [Region]>,
) -> Result<(), InitError<G::Error>> {
    let mut by_node: ArrayVec<&'static mut [Span], MAX_NODES> =
        places.into_iter().map(|place| place.fill(|_| Span { start: 0, end: 0 })).collect();
    let mut counts: Counts = [0; MAX_NODES];
    sites(ground, config, |site| {
        let node = site.node.index();
        by_node[node].get_mut(counts[node]).into_iter().for_each(|span| *span = site.span);
        counts[node] += 1;
    });
    for ((spans, count), regions) in by_node.into_iter().zip(counts).zip(&mut regions.0) {
        let spans: &'static [Span] = spans;
        let managed = spans.get(..count).ok_or(InitError::TooManyPieces { limit: spans.len() })?;
        for region in regions.iter_mut() {
            let first = managed.partition_point(|span| span.start < region.span.start);
            let end = managed.partition_point(|span| span.start < region.span.end);
            region.managed = &managed[first..end];
        }
    }
    Ok(())
}

/// Zeroes the frames of a managed span.
pub(super) fn clear<P: Platform>(platform: &P, span: Span) {
    let first = platform.phys_to_virt(frame(span.start).start_address());
    // SAFETY: by `Ground` and `Platform`, the span is RAM without other users, in the direct map.
    unsafe { first.write_bytes(0, ((span.end - span.start) * 4096) as usize) };
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
