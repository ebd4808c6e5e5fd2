//! Construction of the allocator: regions from free memory, each node's bookkeeping on that node.

use arrayvec::ArrayVec;
use topomem_percpu::{CpuId, MAX_CPUS, MAX_NODES, NodeId, Platform};

use super::directory::{self, Directory, PartTable};
use super::init_nodes::{NodeParts, serving_nodes, weights};
use super::init_regions::{
    SLACK, clear, manage, place_parts, place_regions, place_spans, place_table, plan_regions, populate,
    sites, survey,
};
use super::machine::{CpuNodes, Machine, Metadata, Parts};
use super::magazine::{Checked, Magazine};
use super::node::Node;
use super::placing::{Builder, Place};
use super::region::{BLOCK, Region};
use super::zeroed_pool::{Set, ZeroedPool};
use super::{DoubleFrees, FramesConfig, Ground, InitError, PerFrameTable, Zeroing};

/// The share of blocks that CPUs may hold: one in this many.
const HELD_BACK: u64 = 16;

/// Builds everything; the memory of `ground` belongs to the result.
pub(super) fn build<P: Platform, G: Ground>(
    platform: &P,
    ground: &mut G,
    config: &FramesConfig,
) -> Result<&'static Machine, InitError<G::Error>> {
    let survey = survey(ground, config)?;
    let node_count = ground.node_count().clamp(1, MAX_NODES);
    let mut metadata = Metadata::default();
    let mut builder = Builder::new(platform, ground);

    // Everything is placed before anything is managed: both take from the same memory.
    let fixed = &mut metadata.fixed;
    // What is the machine's is near the boot CPU, and is read only from here on; what is a node's is there.
    let machine_place = builder.place::<Machine>(1, NodeId::ZERO, fixed)?;
    let (part_count, shift) = directory::parts(survey.end);
    let directory_place = builder.place::<u16>(part_count, NodeId::ZERO, fixed)?;
    let region_room = survey.region_room();
    let by_address_place = builder.place::<&'static Region>(region_room.iter().sum(), NodeId::ZERO, fixed)?;
    let mut node_places: ArrayVec<Place<Node>, MAX_NODES> = ArrayVec::new();
    for id in (0..node_count).filter_map(NodeId::new) {
        node_places.push(builder.place(1, id, fixed)?);
    }
    let span_places = place_spans(&mut builder, &survey.piece_room(), fixed)?;
    let region_places = place_regions(&mut builder, &region_room, fixed)?;
    let mut regions = plan_regions(&*builder.ground, config, region_places)?;
    let (mut stretches, mut part_tables_place) = (&[][..], None);
    if config.table == PerFrameTable::Present {
        let bytes = &mut metadata.table;
        part_tables_place = Some(builder.place::<PartTable>(part_count, NodeId::ZERO, bytes)?);
        let most = survey.pieces.iter().sum::<usize>() + SLACK;
        stretches = place_table(&mut builder, &regions, most, config, bytes)?;
    }
    for region in regions.iter_mut() {
        place_parts(&mut builder, region, config, &mut metadata)?;
    }
    let mut pools: ArrayVec<ZeroedPool, MAX_NODES> = ArrayVec::new();
    for index in 0..node_count {
        pools.push(place_pool(&mut builder, index, config, &mut metadata)?);
    }
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
        let blocks = regions.of(id).iter().map(|region| region.span.frames() / BLOCK).sum();
        *group = place_magazines(&mut builder, id, blocks, &homes, &mut metadata)?;
    }

    manage(ground, config, span_places, &mut regions)?;
    let regions = regions.shared();
    for region in regions.iter() {
        for span in region.managed {
            if config.zeroing == Zeroing::OnFree {
                clear(platform, *span);
            }
            populate(region, *span);
        }
    }
    let weights = weights(ground, &regions, node_count);
    let total = regions.iter().map(Region::managed_frames).sum();
    let mut nodes: ArrayVec<&'static Node, MAX_NODES> = ArrayVec::new();
    for ((index, place), zeroed) in node_places.into_iter().enumerate().zip(pools) {
        let of_node = regions.of_node(index);
        let (weight, magazines) = (weights[index], magazines[index].len());
        let parts = NodeParts { regions: of_node, total, magazines, config, weight, zeroed };
        nodes.extend(place.fill_from(core::iter::once(parts.node(ground, index, node_count))).iter());
    }
    let by_address: &'static [&'static Region] = by_address_place.fill_from(regions.by_address());
    let first_regions: &'static [u16] =
        directory_place.fill(|part| directory::first_region(by_address, part, shift));
    let part_tables: &'static [PartTable] = match part_tables_place {
        Some(place) => place.fill(|part| PartTable::of(stretches, part, shift)),
        None => &[],
    };
    let parts = Parts {
        nodes,
        directory: Directory::new(by_address, first_regions, stretches, part_tables, shift),
        magazines,
        cpu_nodes: homes,
        checked: checked(config),
        zeroing: config.zeroing,
        metadata,
    };
    let machine = machine_place.fill_from(core::iter::once(Machine::new(parts)));
    Ok(&machine[0])
}

/// Returns whether there are marks to check.
fn checked(config: &FramesConfig) -> Checked {
    match (config.double_frees, config.zeroing) {
        (DoubleFrees::FoundLate, Zeroing::OnRequest) => Checked::No,
        (DoubleFrees::FoundAtOnce, _) | (_, Zeroing::OnFree) => Checked::EveryUse,
    }
}

/// Places the magazines of the CPUs served by `node` on that node.
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
    // All together they hold at most a sixteenth of the node.
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
