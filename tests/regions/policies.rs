//! Where the frames of pages come from, and where pages go that are not where they should be.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::region::{AssignError, FaultAccess, FaultError, MapRequest, MovedPages, PageFault, Placement};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, PageRange, PageSize, PendingWork, Policy};
use topomem_numa::frames::NodeSet;

mod space_support;
use space_support::nodes::{COUNT, FIRST, map, node, nodes, range};
use space_support::{Space, at, finish};

fn booted() -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(4).cpus(4).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn write(space: &Space, pin: &CpuPin, page: u64) -> Result<(), FaultError> {
    space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write)).map(drop)
}

/// Makes a region of `COUNT` pages from `FIRST` on and writes all of them, the last first.
fn filled(space: &Space, pin: &CpuPin) {
    map(space, pin);
    for page in (FIRST..FIRST + COUNT).rev() {
        write(space, pin, page).unwrap();
    }
}

/// How many pages of the region each node has.
fn spread(space: &Space, pin: &CpuPin) -> [u64; 4] {
    let mut counts = [0; 4];
    for page in FIRST..FIRST + COUNT {
        counts[space.node_of_page(pin, at(page)).unwrap().index()] += 1;
    }
    counts
}

#[test]
fn faults_allocate_where_the_space_says() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let own = service.node_of_cpu(pin.cpu());
        for (policy, expected) in [
            (None, [120, 0, 0, 0]),
            (Some(Policy::Local), [120, 0, 0, 0]),
            (Some(Policy::Bind(nodes([2]))), [0, 0, 120, 0]),
            (Some(Policy::Preferred(node(3))), [0, 0, 0, 120]),
            (Some(Policy::Interleave(nodes([0, 1, 2, 3]))), [30, 30, 30, 30]),
            (Some(Policy::Interleave(nodes([1, 3]))), [0, 60, 0, 60]),
            (Some(Policy::WeightedInterleave(nodes([0, 1, 3]))), [40, 40, 0, 40]),
        ] {
            let space = service.create_space(pin).unwrap();
            space.set_policy(policy);
            filled(&space, pin);
            assert_eq!(own, node(0));
            assert_eq!(spread(&space, pin), expected, "{policy:?}");
            let child = space.fork(pin).unwrap();
            assert_eq!(child.policy(), policy);
            // Copies are placed so, too.
            for page in FIRST..FIRST + COUNT {
                write(&child, pin, page).unwrap();
            }
            assert_eq!(spread(&child, pin), expected, "{policy:?}");
            drop(child);
            finish(sim, service, pin, space, before);
        }
    });
}

#[test]
fn a_node_without_memory_is_replaced_but_not_if_it_is_bound() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let bound = FrameRequest::frame().policy(Policy::Bind(nodes([2])));
        let taken: Vec<_> = core::iter::from_fn(|| service.frames().alloc(pin, &bound).ok()).collect();
        let space = service.create_space(pin).unwrap();
        space.set_policy(Some(Policy::Interleave(nodes([0, 2]))));
        filled(&space, pin);
        assert_eq!(spread(&space, pin)[2], 0);
        space.set_policy(Some(Policy::Bind(nodes([2]))));
        let request = MapRequest::anonymous(4096).placed(Placement::Fixed(at(1 << 20)));
        space.mmap(pin, &request).unwrap();
        assert!(matches!(write(&space, pin, 1 << 20), Err(FaultError::OutOfFrames(_))));
        for frame in taken {
            // SAFETY: it was allocated above, and nobody uses it.
            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME) }.unwrap();
        }
        assert_eq!(write(&space, pin, 1 << 20), Ok(()));
        assert_eq!(space.node_of_page(pin, at(1 << 20)), Ok(node(2)));
    });
}

#[test]
fn ranges_move_to_where_they_should_be() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        filled(&space, pin);
        let moved = |moved, stayed| MovedPages { moved, stayed };
        assert_eq!(space.move_range(pin, range(), Policy::Local), moved(0, 0));
        assert_eq!(space.move_range(pin, range(), Policy::Interleave(nodes([0, 1, 2, 3]))), moved(90, 0));
        assert_eq!(spread(&space, pin), [30, 30, 30, 30]);
        // The first of two goes to the first of two, and the second to the second.
        assert_eq!(space.move_between(pin, nodes([0, 1]), nodes([2, 3])), moved(60, 0));
        assert_eq!(spread(&space, pin), [0, 0, 60, 60]);
        assert_eq!(space.move_range(pin, range(), Policy::Interleave(nodes([0, 1, 2, 3]))), moved(60, 0));
        assert_eq!(spread(&space, pin), [30, 30, 30, 30]);
        // Both of two go to the only one.
        assert_eq!(space.move_between(pin, nodes([0, 1]), nodes([3])), moved(60, 0));
        assert_eq!(spread(&space, pin), [0, 0, 30, 90]);
        assert_eq!(space.move_range(pin, range(), Policy::Interleave(nodes([0, 1, 2, 3]))), moved(60, 0));
        assert_eq!(space.move_range(pin, range(), Policy::Bind(nodes([1, 2]))), moved(60, 0));
        assert_eq!(spread(&space, pin)[0] + spread(&space, pin)[3], 0);
        assert_eq!(space.move_range(pin, range(), Policy::Preferred(node(3))), moved(120, 0));
        assert_eq!(space.move_between(pin, nodes([1, 2, 3]), nodes([0, 2])), moved(120, 0));
        // The third of three goes to the first of two.
        assert_eq!(spread(&space, pin), [120, 0, 0, 0]);
        assert_eq!(space.move_between(pin, nodes([0]), NodeSet::EMPTY), moved(0, 0));
        // What other spaces have, too, stays.
        let child = space.fork(pin).unwrap();
        write(&child, pin, FIRST).unwrap();
        assert_eq!(child.move_range(pin, range(), Policy::Bind(nodes([1]))), moved(1, 119));
        drop(child);
        let future = space.move_range_async(range(), Policy::Bind(nodes([1])));
        while service.run_pending_work(pin) != PendingWork::Done {}
        assert_eq!(sim.block_on(future, || _ = service.wake_due(pin)), moved(120, 0));
        // Nothing that is not there, and no 2 MiB by halves.
        let huge = MapRequest::huge(2 << 20, PageSize::Size2MiB);
        let start = space.mmap(pin, &huge.placed(Placement::Fixed(at(1 << 20)))).unwrap();
        let range = |pages| PageRange::new(start, pages, PageSize::Size4KiB).unwrap();
        assert_eq!(space.move_range(pin, range(512), Policy::Bind(nodes([3]))), moved(0, 0));
        write(&space, pin, 1 << 20).unwrap();
        let frames = service.frames().validate().unwrap().allocated;
        assert_eq!(space.move_range(pin, range(5), Policy::Bind(nodes([3]))), moved(1, 0));
        assert_eq!(space.node_of_page(pin, at((1 << 20) + 511)), Ok(node(3)));
        assert_eq!(space.translate(pin, start).unwrap().size, PageSize::Size2MiB);
        assert_eq!(service.frames().validate().unwrap().allocated, frames);
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn regions_have_policies_of_their_own() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        space.set_policy(Some(Policy::Preferred(node(3))));
        space.set_fault_around(8);
        let request = MapRequest::anonymous(COUNT << 12).placed(Placement::Fixed(at(FIRST)));
        space.mmap(pin, &request).unwrap();
        let interleaved = Policy::Interleave(nodes([0, 1]));
        space.set_region_policy(pin, at(FIRST), 40 << 12, Some(interleaved)).unwrap();
        space.set_region_policy(pin, at(FIRST + 80), 40 << 12, Some(Policy::Bind(nodes([2])))).unwrap();
        space.set_region_policy(pin, at(FIRST + 100), 20 << 12, Some(Policy::Local)).unwrap();
        let policy = |page| space.region_policy(pin, at(page));
        assert_eq!((policy(FIRST + 39), policy(FIRST + 40)), (Ok(Some(interleaved)), Ok(None)));
        assert_eq!(
            (policy(FIRST - 1), policy(1 << 40)),
            (Err(AssignError::NoRegion), Err(AssignError::NoRegion))
        );
        let mut lengths = Vec::new();
        space.for_each_region(pin, |region| lengths.push(region.length() >> 12));
        assert_eq!(lengths, [40, 40, 20, 20]);
        for page in (FIRST..FIRST + COUNT).rev() {
            write(&space, pin, page).unwrap();
        }
        assert_eq!(spread(&space, pin), [40, 20, 20, 40]);
        // A copy of a page is placed so, too, and a region that is moved keeps its policy.
        let child = space.fork(pin).unwrap();
        for page in FIRST..FIRST + COUNT {
            write(&child, pin, page).unwrap();
        }
        assert_eq!(spread(&child, pin), [40, 20, 20, 40]);
        drop(child);
        // Alike again.
        space.set_region_policy(pin, at(FIRST), COUNT << 12, None).unwrap();
        lengths.clear();
        space.for_each_region(pin, |region| lengths.push(region.length() >> 12));
        assert_eq!(lengths, [120]);
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn a_collapse_goes_where_the_region_says() {
    let sim = Sim::builder().nodes(2).cpus(2).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    let huge = PageSize::Size2MiB.bytes() >> 12;
    let first = 4 * huge;
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        let request = MapRequest::anonymous((4 * huge) << 12).placed(Placement::Fixed(at(first)));
        space.mmap(pin, &request).unwrap();
        // Not consecutive frames, on the node of the CPU.
        for page in (first..first + 4 * huge).rev().step_by(3) {
            write(&space, pin, page).unwrap();
        }
        let own = service.node_of_cpu(pin.cpu());
        let other = node(1 - own.index());
        let policy = Some(Policy::Bind(NodeSet::of(other)));
        space.set_region_policy(pin, at(first), (2 * huge) << 12, policy).unwrap();
        let interleaved = Some(Policy::Interleave(nodes([0, 1])));
        space.set_region_policy(pin, at(first + 2 * huge), (2 * huge) << 12, interleaved).unwrap();
        space.collapse(pin, at(first), (4 * huge) << 12).unwrap();
        let found = [0, 1, 2, 3].map(|page| {
            let address = at(first + page * huge);
            assert_eq!(space.translate(pin, address).unwrap().size, PageSize::Size2MiB);
            space.node_of_page(pin, address).unwrap()
        });
        assert_eq!(found[..2], [other; 2], "the region is bound to that node");
        assert_ne!(found[2], found[3], "the region's pages take turns");
        finish(sim, service, pin, space, before);
    });
}
