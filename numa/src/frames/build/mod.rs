//! Construction of the allocator: regions from free memory, each node's bookkeeping on that node.

pub(super) mod draft;
pub(super) mod ground;
mod nodes;
mod placing;
mod regions;

use topomem_percpu::{CpuId, NodeId, Order, Platform};

use crate::frames::magazine::{Checked, Magazine};
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::{Set, ZeroedPool};
use crate::frames::region::marks::Given;
use crate::frames::region::{BLOCK, Region, Span};
use crate::frames::state::directory::{self, Directory, PartTable};
use crate::frames::state::frame_table::Stretch;
use crate::frames::state::{CpuNode, CpuNodes, Machine, Metadata, Parts};
use crate::frames::types::{DoubleFrees, FramesConfig, InitError, PerFrameTable, Zeroing};
use draft::{Draft, SLACK};
use ground::Ground;
use nodes::{node, set_serving, set_weights};
use placing::{Builder, Place};
use regions::{
    Survey, clear_unused, count, count_free, manage, node_count, place_parts, place_table, plan_regions,
    populate, survey,
};

/// The share of blocks that CPUs may hold: one in this many.
const HELD_BACK: u64 = 16;

/// Memory for the parts that the machine has once, placed and not yet written.
struct MachinePlaces {
    machine: Place<Machine>,
    cpu_nodes: CpuNodes,
    directory: Place<u16>,
    /// Frames in a part of the directory, as a power of two.
    shift: u32,
    by_address: Place<&'static Region>,
    part_tables: Place<PartTable>,
    stretches: &'static [Stretch],
}

/// Builds everything; the memory of `ground` belongs to the result.
///
/// The draft of each node lies in memory from the ground meanwhile, and no step is inlined: so the stack that is
/// in use at a time is that of one step.
pub(super) fn build<P: Platform, G: Ground>(
    platform: &P,
    ground: &mut G,
    config: &FramesConfig,
) -> Result<&'static Machine, InitError<G::Error>> {
    let survey = survey(ground, config)?;
    let nodes = node_count(ground);
    let mut metadata = Metadata::default();
    let mut builder = Builder::new(platform, ground, nodes, &mut metadata.fixed)?;
    let drafts = builder.place(nodes, NodeId::ZERO, &mut metadata.fixed)?.fill(Draft::new);
    count(&*builder.ground, config, drafts);
    // Everything is placed before anything is managed: both take from the same memory.
    let places = place_all(&mut builder, config, &survey, drafts, &mut metadata)?;
    manage(ground, config, drafts)?;
    release(platform, ground, config, drafts);
    build_nodes(ground, config, drafts);
    take_allocated(ground, drafts);
    Ok(finish(config, drafts, places, metadata))
}

/// Places all bookkeeping. The machine's parts are near the boot CPU, and are read only from here on; a
/// node's parts are on the node.
#[inline(never)]
fn place_all<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    config: &FramesConfig,
    survey: &Survey,
    drafts: &mut [Draft],
    metadata: &mut Metadata,
) -> Result<MachinePlaces, InitError<G::Error>> {
    let fixed = &mut metadata.fixed;
    let machine = builder.place::<Machine>(1, NodeId::ZERO, fixed)?;
    let (part_count, shift) = directory::parts(survey.end);
    let directory = builder.place::<u16>(part_count, NodeId::ZERO, fixed)?;
    let region_room = drafts.iter().map(Draft::region_room).sum();
    let by_address = builder.place::<&'static Region>(region_room, NodeId::ZERO, fixed)?;
    let cpu_count = builder.ground.cpus().map(|(cpu, _)| cpu.index() + 1).max().unwrap_or(0);
    let mut cpu_nodes = builder.place::<CpuNode>(cpu_count, NodeId::ZERO, fixed)?;
    for draft in drafts.iter_mut() {
        draft.node = builder.place::<Node>(1, draft.id, fixed)?;
    }
    for draft in drafts.iter_mut() {
        let nothing = |_| Span { start: 0, end: 0 };
        draft.spans = builder.place(draft.piece_room(), draft.id, fixed)?.fill(nothing);
    }
    for draft in drafts.iter_mut() {
        draft.region_place = builder.place(draft.region_room(), draft.id, fixed)?;
    }
    plan_regions(&*builder.ground, config, drafts)?;
    let (mut part_tables, mut stretches) = (Place::EMPTY, &[][..]);
    if config.table == PerFrameTable::Present {
        let bytes = &mut metadata.table;
        part_tables = builder.place::<PartTable>(part_count, NodeId::ZERO, bytes)?;
        stretches = place_table(builder, drafts, survey.pieces + SLACK, config, bytes)?;
    }
    for draft in drafts.iter_mut() {
        for region in draft.building.iter_mut() {
            place_parts(builder, region, config, metadata)?;
        }
    }
    count_free(&*builder.ground, config, drafts);
    for draft in drafts.iter_mut() {
        place_pool(builder, config, draft, metadata)?;
    }
    // Only magazines are left to be placed: frames beyond those that magazines can take stay free.
    count_free(&*builder.ground, config, drafts);
    let most = (builder.ground.cpus().count() * size_of::<Magazine>()).div_ceil(4096) as u64;
    set_serving(&*builder.ground, drafts, most);
    let cpu_nodes = cpu_nodes_of(&*builder.ground, drafts, cpu_nodes.take());
    for index in 0..drafts.len() {
        drafts[index].magazines = place_magazines(builder, index, drafts, &cpu_nodes, metadata)?;
    }
    Ok(MachinePlaces { machine, cpu_nodes, directory, shift, by_address, part_tables, stretches })
}

/// Fills `place` with the nodes of each CPU.
#[inline(never)]
fn cpu_nodes_of<G: Ground>(ground: &G, drafts: &[Draft], place: Place<CpuNode>) -> CpuNodes {
    let unknown = CpuNode { home: NodeId::ZERO, serving: drafts[0].serving };
    let known = place.fill(|_| unknown);
    for (cpu, home) in ground.cpus() {
        let serving = drafts.get(home.index()).unwrap_or(&drafts[0]).serving;
        known[cpu.index()] = CpuNode { home, serving };
    }
    CpuNodes { known, unknown }
}

/// Makes all managed frames free.
#[inline(never)]
fn release<P: Platform, G: Ground>(platform: &P, ground: &G, config: &FramesConfig, drafts: &[Draft]) {
    for region in drafts.iter().flat_map(|draft| draft.regions) {
        for span in region.managed {
            if config.zeroing == Zeroing::OnFree {
                clear_unused(platform, ground, *span);
            }
            populate(region, *span);
        }
    }
}

/// Builds the nodes in their places.
#[inline(never)]
fn build_nodes<G: Ground>(ground: &G, config: &FramesConfig, drafts: &mut [Draft]) {
    set_weights(ground, drafts);
    let total = drafts.iter().flat_map(|draft| draft.regions).map(Region::managed_frames).sum();
    let count = drafts.len();
    for draft in drafts {
        let place = draft.node.take();
        draft.built = place.fill(|_| node(ground, config, draft, count, total));
    }
}

/// Takes the frames that have users already out of the free frames.
#[inline(never)]
fn take_allocated<G: Ground>(ground: &G, drafts: &[Draft]) {
    for frame in ground.allocated().map(Span::of).flat_map(|span| span.start..span.end) {
        let found = drafts.iter().find_map(|draft| {
            let index = draft.regions.partition_point(|region| region.span.end <= frame);
            let region = draft.regions.get(index).filter(|region| region.span.start <= frame)?;
            Some((draft, region))
        });
        if let Some((draft, region)) = found
            && region.claim_frame(frame)
        {
            region.marks.give(frame - region.span.start, Given::Aligned(Order::FRAME));
            draft.built.iter().for_each(|node| node.zones[region.zone.index()].add(-1));
        }
    }
}

/// Builds the machine in its place.
#[inline(never)]
fn finish(
    config: &FramesConfig,
    drafts: &mut [Draft],
    places: MachinePlaces,
    metadata: Metadata,
) -> &'static Machine {
    let MachinePlaces { machine, cpu_nodes, directory, shift, by_address, part_tables, stretches } = places;
    let regions: &'static [&'static Region] = by_address.fill_from(draft::by_address(drafts));
    let first_regions: &'static [u16] = directory.fill(|part| directory::first_region(regions, part, shift));
    let tables: &'static [PartTable] = part_tables.fill(|part| PartTable::of(stretches, part, shift));
    let drafts = &*drafts;
    let make = |_| {
        Machine::new(Parts {
            drafts,
            cpu_nodes,
            directory: Directory::new(regions, first_regions, stretches, tables, shift),
            checked: checked(config),
            zeroing: config.zeroing,
            metadata,
        })
    };
    &machine.fill(make)[0]
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
fn place_magazines<P: Platform, G: Ground>(
    builder: &mut Builder<'_, P, G>,
    index: usize,
    drafts: &[Draft],
    nodes: &CpuNodes,
    metadata: &mut Metadata,
) -> Result<&'static [Magazine], InitError<G::Error>> {
    let node = drafts[index].id;
    let served = |&(cpu, _): &(CpuId, NodeId)| nodes.of(cpu).serving == node;
    let count = builder.ground.cpus().filter(served).count();
    let place = builder.place(count, node, &mut metadata.magazines)?;
    let blocks: u64 = drafts[index].building.iter().map(|region| region.span.frames() / BLOCK).sum();
    // All together they hold at most a sixteenth of the node.
    let slots = blocks / HELD_BACK / count.max(1) as u64;
    let mut cpus = builder.ground.cpus().filter(served).map(|(cpu, _)| cpu);
    Ok(place.fill(|_| Magazine::new(cpus.next().unwrap_or(CpuId::BOOT), node, slots as usize)))
}

/// Places a node's pool of zeroed frames on that node.
#[inline(never)]
fn place_pool<P: Platform, G: Ground>(
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
