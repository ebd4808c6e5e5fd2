//! A service on a machine of more nodes than a word has bits: policies, migration, what is shown of nodes, the heap.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::Layout;

use topomem::region::{FaultAccess, MovedPages, PageFault};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, Policy};

mod space_support;
use space_support::nodes::{COUNT, FIRST, map, node, nodes, range};
use space_support::{Space, at, finish};

const NODES: usize = 130;

/// 130 nodes of 4 MiB, and four CPUs, one of them on the last node.
fn booted() -> (&'static Sim, &'static SimService) {
    let builder = Sim::builder().nodes(NODES).cpus(4).memory((4 * NODES as u64) << 20);
    let sim = builder.node_cpus(NODES - 1, 1).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn write(space: &Space, pin: &CpuPin, page: u64) {
    space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write)).unwrap();
}

/// Returns the nodes that the region's pages are on, with their numbers.
fn spread(space: &Space, pin: &CpuPin) -> Vec<(usize, u64)> {
    let firsts = [0, 64, 128].map(node);
    let counted = firsts.map(|first| space.pages_on_nodes(pin, range(), first));
    let spread: Vec<_> =
        counted.iter().flat_map(|nodes| nodes.iter()).map(|(node, pages)| (node.index(), pages)).collect();
    for page in FIRST..FIRST + COUNT {
        let found = space.node_of_page(pin, at(page)).unwrap().index();
        assert!(spread.iter().any(|&(node, _)| node == found), "{found} in {spread:?}");
    }
    spread
}

#[test]
fn all_nodes_serve() {
    let (sim, service) = booted();
    assert_eq!((service.topology().unwrap().node_count(), service.frames().node_count()), (NODES, NODES));
    sim.on(sim.blueprint().nodes[NODES - 1].cpus[0], |pin| {
        assert_eq!(service.node_of_cpu(pin.cpu()), node(NODES - 1));
        for index in [0, 63, 64, 65, 127, 128, NODES - 1] {
            let request = FrameRequest::frame().policy(Policy::Bind(nodes([index])));
            let frame = service.frames().alloc(pin, &request).unwrap();
            assert_eq!(service.frames().node_of(frame), Some(node(index)));
            // SAFETY: just allocated, and not used.
            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME) }.unwrap();
        }
        let heap = service.heap().unwrap().heap();
        let object = heap.try_alloc(Layout::new::<[u64; 16]>()).unwrap();
        assert!(heap.slabinfo().to_string().contains(&format!("node{}: ", NODES - 1)));
        // SAFETY: just allocated.
        unsafe { heap.free(object, Layout::new::<[u64; 16]>()) }.unwrap();
    });
}

#[test]
fn spaces_and_regions_have_policies_of_far_nodes() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        let far = nodes([1, 63, 64, 129]);
        let policies = [Policy::Interleave(far), Policy::Bind(far), Policy::Preferred(node(129))];
        for policy in policies.into_iter().chain([Policy::WeightedInterleave(far), Policy::Local]) {
            space.set_policy(Some(policy));
            assert_eq!(space.policy(), Some(policy));
        }
        space.set_policy(Some(Policy::Interleave(far)));
        map(&space, pin);
        let bound = Some(Policy::Bind(nodes([70, 100])));
        space.set_region_policy(pin, at(FIRST), 40 << 12, bound).unwrap();
        let preferred = Some(Policy::Preferred(node(128)));
        space.set_region_policy(pin, at(FIRST + 80), 40 << 12, preferred).unwrap();
        assert_eq!(space.region_policy(pin, at(FIRST + 39)), Ok(bound));
        assert_eq!(space.region_policy(pin, at(FIRST + 119)), Ok(preferred));
        (FIRST..FIRST + COUNT).rev().for_each(|page| write(&space, pin, page));
        assert_eq!(spread(&space, pin), [(1, 10), (63, 10), (64, 10), (70, 40), (128, 40), (129, 10)]);
        let shown = space.numa_maps(pin).to_string();
        assert!(shown.contains("bind:70,100") && shown.contains(" N70=40"), "{shown}");
        assert!(shown.contains(" N1=10 N63=10 N64=10 N129=10"), "{shown}");
        // Copies of pages, too.
        let child = space.fork(pin).unwrap();
        assert_eq!(child.policy(), Some(Policy::Interleave(far)));
        (FIRST..FIRST + COUNT).for_each(|page| write(&child, pin, page));
        assert_eq!(spread(&child, pin), spread(&space, pin));
        drop(child);
        // Regions whose policies differ in a far node only are different regions.
        space.set_region_policy(pin, at(FIRST), 20 << 12, Some(Policy::Bind(nodes([70, 101])))).unwrap();
        let mut lengths = Vec::new();
        space.for_each_region(pin, |region| lengths.push(region.length() >> 12));
        assert_eq!(lengths, [20, 20, 40, 40]);
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn pages_move_between_far_nodes() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        map(&space, pin);
        (FIRST..FIRST + COUNT).for_each(|page| write(&space, pin, page));
        let moved = |moved| MovedPages { moved, stayed: 0 };
        assert_eq!(spread(&space, pin), [(0, 120)]);
        assert_eq!(space.move_range(pin, range(), Policy::Interleave(nodes([0, 64, 129]))), moved(80));
        assert_eq!(spread(&space, pin), [(0, 40), (64, 40), (129, 40)]);
        assert_eq!(space.move_between(pin, nodes([64, 129]), nodes([65, 128])), moved(80));
        assert_eq!(spread(&space, pin), [(0, 40), (65, 40), (128, 40)]);
        let future = space.move_range_async(range(), Policy::Bind(nodes([128])));
        assert_eq!(sim.block_on(future, || _ = service.wake_due(pin)), moved(80));
        assert_eq!(space.move_range(pin, range(), Policy::Preferred(node(100))), moved(120));
        assert_eq!(spread(&space, pin), [(100, 120)]);
        finish(sim, service, pin, space, before);
    });
}
