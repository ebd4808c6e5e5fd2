//! Stacks that grow.

use topomem::region::{FaultError, Kind, MapRequest, Placement};
use topomem::{Access, CpuId};

use super::{booted, listed};
use crate::space_support::{activate, at, touch};

#[test]
fn stacks_grow_to_their_limit_and_not_to_their_neighbour() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let map = |page: u64, count: u64, kind, access| {
            let request = MapRequest::anonymous(count << 12).access(access).kind(kind);
            space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(page)))).unwrap();
        };
        map(10_000, 2, Kind::Stack, Access::WRITE);
        space.set_stack_limit(1000 << 12);
        let touch = |page| touch(sim, pin, &space, page, Some(page));
        assert_eq!(touch(9_999), Ok(9_999));
        assert_eq!(touch(9_500), Ok(9_500));
        assert_eq!(listed(&space, pin), [(9_500, 10_002, Access::WRITE, 2)]);
        assert_eq!(touch(9_001), Err(FaultError::NotMapped), "1001 pages");
        assert_eq!(touch(9_002), Ok(9_002));
        assert_eq!(touch(9_001), Err(FaultError::NotMapped));
        // A neighbour within 256 pages, which permits accesses or not.
        map(20_000, 1, Kind::Stack, Access::WRITE);
        map(19_700, 1, Kind::Anonymous, Access::READ);
        assert_eq!(touch(19_956), Err(FaultError::NotMapped));
        assert_eq!(touch(19_957), Ok(19_957));
        map(30_000, 1, Kind::Stack, Access::WRITE);
        map(29_998, 1, Kind::Anonymous, Access::NONE);
        assert_eq!(touch(29_999), Ok(29_999));
        assert_eq!(touch(29_997), Err(FaultError::NotMapped), "another region is in between");
        // Above what is no stack nothing grows.
        map(40_000, 1, Kind::Heap, Access::WRITE);
        assert_eq!(touch(39_999), Err(FaultError::NotMapped));
        // Nor does a stack without room below.
        map(600, 1, Kind::Stack, Access::WRITE);
        assert_eq!(touch(1), Ok(1));
        assert_eq!(touch(0), Err(FaultError::NotMapped));
    });
}

/// How long a stack is must not make its growth slower: the whole limit page by page.
#[test]
fn a_stack_grows_page_by_page_to_its_limit() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let request = MapRequest::anonymous(4096).kind(Kind::Stack);
        space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(10_000)))).unwrap();
        for page in (10_001 - 2048..10_000).rev() {
            assert_eq!(touch(sim, pin, &space, page, Some(page)), Ok(page));
        }
        assert_eq!(touch(sim, pin, &space, 10_000 - 2048, Some(1)), Err(FaultError::NotMapped));
        // What was unmapped of it does not count, once another stack has grown.
        space.munmap(pin, at(9_500), 501 << 12).unwrap().wait(pin);
        space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(20_000)))).unwrap();
        assert_eq!(touch(sim, pin, &space, 19_999, Some(1)), Ok(1));
        assert_eq!(touch(sim, pin, &space, 10_000 - 2048, Some(1)), Ok(1));
    });
}
