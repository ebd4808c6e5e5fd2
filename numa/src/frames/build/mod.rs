//! Construction of the allocator: regions from free memory, each node's bookkeeping on that node.

pub(super) mod boot_memory;
mod draft;
mod nodes;
mod placing;
mod regions;

use topomem_percpu::{CpuId, NodeId, Order, Platform};

use crate::frames::magazine::table::{MagazineTable, Place};
use crate::frames::magazine::{Checked, Magazine};
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::{Set, ZeroedPool};
use crate::frames::region::marks::AllocKind;
use crate::frames::region::{Region, Span};
use crate::frames::state::directory::{Directory, PartTable};
use crate::frames::state::frame_table::Stretch;
use crate::frames::state::{AllocatorState, CpuNode, CpuNodes, Metadata, Parts, directory};
use crate::frames::types::{BLOCK, DoubleFrees, FramesConfig, InitError, PerFrameTable, Zeroing};
use boot_memory::BootMemory;
use draft::{Draft, SLACK};
use nodes::{node, set_nearest, set_serving, set_weights};
use placing::{Builder, UninitSlice};
use regions::{
    Extent, clear_unused, count, count_free, manage, measure, node_count, place_parts, place_table,
    plan_regions, populate,
};

/// The share of blocks that CPUs may hold: one in this many.
const HELD_BACK: u64 = 16;

/// Memory for the parts that exist once, placed and not yet written.
struct StatePlaces {
    state: UninitSlice<AllocatorState>,
    nodes: UninitSlice<&'static Node>,
    magazines: UninitSlice<&'static [Magazine]>,
    far_places: UninitSlice<Place>,
    cpu_nodes: CpuNodes,
    directory: UninitSlice<u32>,
    /// Frames in a part of the directory, as a power of two.
    shift: u32,
    by_address: UninitSlice<&'static Region>,
    part_tables: UninitSlice<PartTable>,
    stretches: &'static [Stretch],
}

/// Builds everything; the free memory of `memory` belongs to the result.
///
/// The draft of each node lies meanwhile in memory taken from `memory`, and no step is inlined: the stack in use
/// at a time is the stack of one step.
pub(super) fn build<P: Platform, G: BootMemory>(
    platform: &P,
    memory: &mut G,
    config: &FramesConfig,
) -> Result<&'static AllocatorState, InitError<G::Error>> {
    let extent = measure(memory, config)?;
    let nodes = node_count(memory);
    let mut metadata = Metadata::default();
    let mut builder = Builder::new(platform, memory, nodes, &mut metadata.fixed)?;
    let drafts = builder.place(nodes, NodeId::ZERO, &mut metadata.fixed)?.fill(Draft::new);
    count(&*builder.memory, config, drafts);
    // Everything is placed before anything is managed: both take from the same memory.
    let places = place_all(&mut builder, config, &extent, drafts, &mut metadata)?;
    manage(memory, config, drafts)?;
    release(platform, memory, config, drafts);
    build_nodes(memory, config, drafts);
    take_allocated(memory, drafts);
    Ok(finish(config, drafts, places, metadata))
}

/// Places all bookkeeping. The machine's parts are near the boot CPU, and are read only from here on; a
/// node's parts are on the node.
#[inline(never)]
fn place_all<P: Platform, G: BootMemory>(
    builder: &mut Builder<'_, P, G>,
    config: &FramesConfig,
    extent: &Extent,
    drafts: &mut [Draft],
    metadata: &mut Metadata,
) -> Result<StatePlaces, InitError<G::Error>> {
    let fixed = &mut metadata.fixed;
    let state = builder.place::<AllocatorState>(1, NodeId::ZERO, fixed)?;
    let node_count = drafts.len();
    let nodes = builder.place::<&'static Node>(node_count, NodeId::ZERO, fixed)?;
    let magazines = builder.place::<&'static [Magazine]>(node_count, NodeId::ZERO, fixed)?;
    let (part_count, shift) = directory::parts(extent.end);
    let directory = builder.place::<u32>(part_count, NodeId::ZERO, fixed)?;
    let region_room = drafts.iter().map(Draft::region_room).sum();
    let by_address = builder.place::<&'static Region>(region_room, NodeId::ZERO, fixed)?;
    let cpu_count = builder.memory.cpus().map(|(cpu, _)| cpu.index() + 1).max().unwrap_or(0);
    let mut cpu_nodes = builder.place::<CpuNode>(cpu_count, NodeId::ZERO, fixed)?;
    let far_places = builder.place::<Place>(MagazineTable::far_places(cpu_count), NodeId::ZERO, fixed)?;
    for draft in drafts.iter_mut() {
        draft.node = builder.place::<Node>(1, draft.id, fixed)?;
        draft.nearest_place = builder.place::<NodeId>(node_count, draft.id, fixed)?;
    }
    set_nearest(&*builder.memory, drafts);
    for draft in drafts.iter_mut() {
        draft.spans = builder.place(draft.piece_room(), draft.id, fixed)?.fill(|_| Span::EMPTY);
    }
    for draft in drafts.iter_mut() {
        draft.region_place = builder.place(draft.region_room(), draft.id, fixed)?;
    }
    plan_regions(&*builder.memory, config, drafts)?;
    let (mut part_tables, mut stretches) = (UninitSlice::EMPTY, &[][..]);
    if config.table == PerFrameTable::Present {
        let bytes = &mut metadata.table;
        part_tables = builder.place::<PartTable>(part_count, NodeId::ZERO, bytes)?;
        stretches = place_table(builder, drafts, extent.pieces + SLACK, config, bytes)?;
    }
    for draft in drafts.iter_mut() {
        for region in draft.building.iter_mut() {
            place_parts(builder, region, config, metadata)?;
        }
    }
    count_free(&*builder.memory, config, drafts);
    for draft in drafts.iter_mut() {
        place_pool(builder, config, draft, metadata)?;
    }
    // Only magazines are left to be placed: frames beyond those that magazines can take stay free.
    count_free(&*builder.memory, config, drafts);
    let most = (builder.memory.cpus().count() * size_of::<Magazine>()).div_ceil(4096) as u64;
    set_serving(drafts, most);
    let cpu_nodes = cpu_nodes_of(&*builder.memory, drafts, cpu_nodes.take());
    for index in 0..drafts.len() {
        drafts[index].magazines = place_magazines(builder, index, drafts, &cpu_nodes, metadata)?;
    }
    Ok(StatePlaces {
        state,
        nodes,
        magazines,
        far_places,
        cpu_nodes,
        directory,
        shift,
        by_address,
        part_tables,
        stretches,
    })
}

/// Fills `place` with the nodes of each CPU.
#[inline(never)]
fn cpu_nodes_of<G: BootMemory>(memory: &G, drafts: &[Draft], place: UninitSlice<CpuNode>) -> CpuNodes {
    let unknown = CpuNode { home: NodeId::ZERO, serving: drafts[0].serving };
    let known = place.fill(|_| unknown);
    for (cpu, home) in memory.cpus() {
        let serving = drafts.get(home.index()).unwrap_or(&drafts[0]).serving;
        known[cpu.index()] = CpuNode { home, serving };
    }
    CpuNodes { known, unknown }
}

/// Makes all managed frames free.
#[inline(never)]
fn release<P: Platform, G: BootMemory>(platform: &P, memory: &G, config: &FramesConfig, drafts: &[Draft]) {
    for region in drafts.iter().flat_map(|draft| draft.regions) {
        for span in region.managed {
            if config.zeroing == Zeroing::OnFree {
                clear_unused(platform, memory, *span);
            }
            populate(region, *span);
        }
    }
}

/// Builds the nodes in their places.
#[inline(never)]
fn build_nodes<G: BootMemory>(memory: &G, config: &FramesConfig, drafts: &mut [Draft]) {
    set_weights(memory, drafts);
    let total = drafts.iter().flat_map(|draft| draft.regions).map(Region::managed_frames).sum();
    for draft in drafts {
        let place = draft.node.take();
        draft.built = place.fill(|_| node(config, draft, total));
    }
}

/// Takes the frames that have users already out of the free frames.
#[inline(never)]
fn take_allocated<G: BootMemory>(memory: &G, drafts: &[Draft]) {
    for frame in memory.allocated().map(Span::of).flat_map(Span::iter) {
        let found = drafts.iter().find_map(|draft| {
            let index = draft.regions.partition_point(|region| region.span.end <= frame);
            let region = draft.regions.get(index).filter(|region| region.span.start <= frame)?;
            Some((draft, region))
        });
        if let Some((draft, region)) = found
            && region.claim_frame(frame)
        {
            region.marks.record_alloc(frame - region.span.start, AllocKind::Aligned(Order::FRAME));
            draft.built.iter().for_each(|node| node.zones[region.zone.index()].add(-1));
        }
    }
}

/// Builds the state in the placed memory.
#[inline(never)]
fn finish(
    config: &FramesConfig,
    drafts: &mut [Draft],
    places: StatePlaces,
    metadata: Metadata,
) -> &'static AllocatorState {
    let StatePlaces { state, cpu_nodes, directory, shift, by_address, part_tables, stretches, .. } = places;
    let regions: &'static [&'static Region] = by_address.fill_from(draft::by_address(drafts));
    let first_regions: &'static [u32] = directory.fill(|part| directory::first_region(regions, part, shift));
    let tables: &'static [PartTable] = part_tables.fill(|part| PartTable::of(stretches, part, shift));
    let nodes: &'static [&'static Node] = places.nodes.fill_from(drafts.iter().flat_map(|draft| draft.built));
    let magazines: &'static [_] = places.magazines.fill_from(drafts.iter().map(|draft| draft.magazines));
    let far_places: &'static [Place] = places.far_places.fill(|_| Place::new());
    let make = |_| {
        let parts = Parts {
            nodes,
            magazines,
            far_places,
            cpu_nodes,
            directory: Directory::new(regions, first_regions, stretches, tables, shift),
            checked: checked(config),
            zeroing: config.zeroing,
            metadata,
        };
        AllocatorState::new(parts)
    };
    &state.fill(make)[0]
}

/// Returns whether there are marks to check.
fn checked(config: &FramesConfig) -> Checked {
    match (config.double_frees, config.zeroing) {
        (DoubleFrees::FoundLate, Zeroing::OnRequest) => Checked::No,
        (DoubleFrees::FoundAtOnce, _) | (_, Zeroing::OnFree) => Checked::EveryUse,
    }
}

/// Places the magazines of the CPUs served by the node numbered `index` on that node.
#[inline(never)]
fn place_magazines<P: Platform, G: BootMemory>(
    builder: &mut Builder<'_, P, G>,
    index: usize,
    drafts: &[Draft],
    nodes: &CpuNodes,
    metadata: &mut Metadata,
) -> Result<&'static [Magazine], InitError<G::Error>> {
    let node = drafts[index].id;
    let served = |&(cpu, _): &(CpuId, NodeId)| nodes.of(cpu).serving == node;
    let count = builder.memory.cpus().filter(served).count();
    let place = builder.place(count, node, &mut metadata.magazines)?;
    let blocks: u64 = drafts[index].building.iter().map(|region| region.span.frames() / BLOCK).sum();
    // All together they hold at most a sixteenth of the node.
    let slots = blocks / HELD_BACK / count.max(1) as u64;
    let mut cpus = builder.memory.cpus().filter(served).map(|(cpu, _)| cpu);
    Ok(place.fill(|_| Magazine::new(cpus.next().unwrap_or(CpuId::BOOT), node, slots as usize)))
}

/// Places a node's pool of zeroed frames on that node.
#[inline(never)]
fn place_pool<P: Platform, G: BootMemory>(
    builder: &mut Builder<'_, P, G>,
    config: &FramesConfig,
    draft: &mut Draft,
    metadata: &mut Metadata,
) -> Result<(), InitError<G::Error>> {
    let target = config.pool_of(draft.free);
    let place = builder.place(ZeroedPool::sets_for(target), draft.id, &mut metadata.pools)?;
    draft.pool = (place.fill(|_| Set::new()), target);
    Ok(())
}
