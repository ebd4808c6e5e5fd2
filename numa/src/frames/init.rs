//! Construction of the allocator: regions from free memory, each node's bookkeeping on that node.

use arrayvec::ArrayVec;
use topomem_percpu::{CpuId, MAX_CPUS, MAX_NODES, NodeId, Platform};

use super::directory::{self, Directory, PartTable};
use super::init_nodes::{NodeParts, by_node_and_zone, serving_nodes, weights};
use super::init_regions::{
    SLACK, clear, manage, place_parts, place_table, plan_regions, populate, sites, survey,
};
use super::machine::{CpuNodes, Machine, Metadata};
use super::magazine::{Checked, Magazine};
use super::node::Node;
use super::placing::Builder;
use super::region::{BLOCK, Region, Span};
use super::transit::Transits;
use super::turns::Turns;
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
    let mut builder = Builder { platform, ground };

    // Everything is placed before anything is managed: both take from the same memory.
    let fixed = &mut metadata.fixed;
    let machine_place = builder.place::<Machine>(1, NodeId::ZERO, fixed)?;
    let node_place = builder.place::<Node>(node_count, NodeId::ZERO, fixed)?;
    let span_place = builder.place::<Span>(survey.pieces + SLACK, NodeId::ZERO, fixed)?;
    let cpus = builder.ground.cpus().map(|(cpu, _)| cpu.index() + 1).max().unwrap_or(1);
    let turns_place = builder.place::<Turns>(cpus, NodeId::ZERO, fixed)?;
    let (part_count, shift) = directory::parts(survey.end);
    let directory_place = builder.place::<u16>(part_count, NodeId::ZERO, fixed)?;
    // A region is cut only where a gap in it grows beyond what is bridged.
    let region_room = survey.regions + SLACK.min(survey.pieces - survey.regions);
    let order_place = builder.place::<u16>(region_room, NodeId::ZERO, fixed)?;
    let region_place = builder.place::<Region>(region_room, NodeId::ZERO, fixed)?;
    let regions = plan_regions(&*builder.ground, config, region_place)?;
    let (mut stretches, mut part_tables_place) = (&[][..], None);
    if config.table == PerFrameTable::Present {
        let bytes = &mut metadata.table;
        part_tables_place = Some(builder.place::<PartTable>(part_count, NodeId::ZERO, bytes)?);
        stretches = place_table(&mut builder, regions, survey.pieces + SLACK, config, bytes)?;
    }
    for region in regions.iter_mut() {
        place_parts(&mut builder, region, config, &mut metadata)?;
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
        let of_node = regions.iter().filter(|region| region.node == id);
        let blocks = of_node.map(|region| region.span.frames() / BLOCK).sum();
        *group = place_magazines(&mut builder, id, blocks, &homes, &mut metadata)?;
    }

    let managed = manage(ground, config, span_place, regions)?;
    let regions: &'static [Region] = regions;
    for span in managed {
        if config.zeroing == Zeroing::OnFree {
            clear(platform, *span);
        }
        let holder = regions.partition_point(|region| region.span.end <= span.start);
        regions.get(holder).into_iter().for_each(|region| populate(region, *span));
    }
    let turns: &'static [Turns] = turns_place.fill(|_| Turns::new());
    let weights = weights(ground, regions, node_count);
    let order = by_node_and_zone(regions, order_place);
    let nodes: &'static [Node] = node_place.fill(|index| {
        let zeroed = pools.next().unwrap_or(ZeroedPool::new(&[], 0));
        NodeParts { regions, order, config, weight: weights[index], zeroed }.node(ground, index, node_count)
    });
    let first_regions: &'static [u16] =
        directory_place.fill(|part| directory::first_region(regions, part, shift));
    let part_tables: &'static [PartTable] = match part_tables_place {
        Some(place) => place.fill(|part| PartTable::of(stretches, part, shift)),
        None => &[],
    };
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
