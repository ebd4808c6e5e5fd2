//! Records on a simulated machine: random changes of regions against a plain model.

use core::ops::ControlFlow;
use std::collections::BTreeMap;
use std::format;
use std::vec::Vec;

use proptest::prelude::*;
use topomem_percpu::{CpuId, CpuPin};
use topomem_shootdown::VirtAddr;

use super::RegionName;
use super::held::HeldPages;
use super::table::Records;
use crate::address_space::AddressSpace;
use crate::page_table::{Access, Found};
use crate::region::attributes::Region;
use crate::region::{Advice, FaultAccess, MapRequest, PageFault, Placement, Relocation};
use crate::service::PendingWork;
use crate::sim::{Sim, SimService};

type Space = AddressSpace<&'static Sim>;

/// The pages played with: around an end of 2 MiB.
const FIRST: u64 = (1 << 18) - 16;
const COUNT: u64 = 32;

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(page << 12).unwrap()
}

fn name(number: u8) -> RegionName {
    RegionName::new(&format!("name {number}")).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Map { first: u64, count: u64, name: Option<u8> },
    Unmap { first: u64, count: u64 },
    Name { first: u64, count: u64, name: Option<u8> },
    Protect { first: u64, count: u64 },
    Guard { first: u64, count: u64 },
    Grow { first: u64 },
    Touch { page: u64 },
    Fork,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (FIRST..FIRST + COUNT).prop_flat_map(|first| (Just(first), 1..=FIRST + COUNT - first));
    let named = || proptest::option::of(0..3_u8);
    prop_oneof![
        4 => (range(), named()).prop_map(|((first, count), name)| Step::Map { first, count, name }),
        3 => range().prop_map(|(first, count)| Step::Unmap { first, count }),
        4 => (range(), named()).prop_map(|((first, count), name)| Step::Name { first, count, name }),
        1 => range().prop_map(|(first, count)| Step::Protect { first, count }),
        1 => range().prop_map(|(first, count)| Step::Guard { first, count }),
        1 => (FIRST..FIRST + COUNT).prop_map(|first| Step::Grow { first }),
        3 => (FIRST..FIRST + COUNT).prop_map(|page| Step::Touch { page }),
        1 => Just(Step::Fork),
    ]
}

/// The pages of each record, by a walk.
fn walked(space: &Space, pin: &CpuPin) -> BTreeMap<u32, u64> {
    let core = space.core();
    let mut pages = BTreeMap::new();
    core.table.visit(core.service.tables(pin), core.bounds, |part, found| {
        if let Found::Reserved(region) | Found::Mapped(_, Some(region)) = found
            && let Some(number) = region.record()
        {
            *pages.entry(number.get()).or_insert(0) += part.count();
        }
        ControlFlow::Continue(())
    });
    pages
}

/// The pages of each record, by its count.
fn counted(space: &Space) -> BTreeMap<u32, u64> {
    let records: &Records<&'static Sim> = &space.core().records;
    let mut pages = BTreeMap::new();
    let index = records.lock(space.core().service);
    records.for_each(&index, |number, slot| {
        let count = slot.pages.load(core::sync::atomic::Ordering::Relaxed);
        if count > 0 {
            pages.insert(number.get(), count);
        }
    });
    pages
}

fn names(space: &Space, pin: &CpuPin) -> Vec<(u64, u64, Option<RegionName>)> {
    let mut names = Vec::new();
    space.for_each_region(pin, |range| {
        names.push((range.start().as_u64() >> 12, range.length() >> 12, range.name()));
    });
    names
}

fn run_pending_work(sim: &'static Sim, service: &'static SimService, pin: &CpuPin) {
    while service.run_pending_work(pin) != PendingWork::Done {
        sim.take_interrupts();
    }
}

fn run(steps: &[Step]) {
    let sim = Sim::builder().cpus(1).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let before = service.frames().validate().unwrap().allocated;
        let mut space = service.create_space(pin).unwrap();
        let mut model: BTreeMap<u64, Option<u8>> = BTreeMap::new();
        for step in steps {
            match *step {
                Step::Map { first, count, name: of } => {
                    let mut request = MapRequest::anonymous(count << 12).placed(Placement::Fixed(at(first)));
                    if let Some(of) = of {
                        request = request.named(name(of));
                    }
                    space.mmap(pin, &request).unwrap();
                    model.extend((first..first + count).map(|page| (page, of)));
                }
                Step::Unmap { first, count } => {
                    space.munmap(pin, at(first), count << 12).unwrap().wait(pin);
                    model.retain(|page, _| !(first..first + count).contains(page));
                }
                Step::Name { first, count, name: of } => {
                    let named = space.set_name(pin, at(first), count << 12, of.map(name));
                    let hole = (first..first + count).any(|page| !model.contains_key(&page));
                    assert_eq!(named.is_err(), hole, "{named:?}");
                    model.range_mut(first..first + count).for_each(|(_, old)| *old = of);
                }
                Step::Protect { first, count } => {
                    let _ =
                        space.mprotect(pin, at(first), count << 12, Access::READ).map(|done| done.wait(pin));
                    let _ =
                        space.mprotect(pin, at(first), count << 12, Access::WRITE).map(|done| done.wait(pin));
                }
                Step::Guard { first, count } => {
                    for advice in [Advice::GuardInstall, Advice::GuardRemove] {
                        let _ = space.madvise(pin, at(first), count << 12, advice).map(|done| done.wait(pin));
                    }
                }
                Step::Grow { first } => {
                    let grown = space.mremap(pin, at(first), 4096, 8192, Relocation::InPlace);
                    if grown.is_ok() && first + 1 < FIRST + COUNT {
                        model.insert(first + 1, model[&first]);
                    } else if grown.is_ok() {
                        space.munmap(pin, at(first + 1), 4096).unwrap().wait(pin);
                    }
                }
                Step::Touch { page } => {
                    let _ = space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write));
                }
                Step::Fork => space = space.fork(pin).unwrap(),
            }
            assert_eq!(counted(&space), walked(&space, pin), "after {step:?}");
            let mut expected: Vec<(u64, u64, Option<RegionName>)> = Vec::new();
            for (&page, of) in &model {
                match expected.last_mut() {
                    Some((first, count, last)) if *first + *count == page && *last == of.map(name) => {
                        *count += 1;
                    }
                    _ => expected.push((page, 1, of.map(name))),
                }
            }
            // A region may have grown back to the access of its neighbours, or not yet.
            let found = names(&space, pin);
            let mut joined: Vec<(u64, u64, Option<RegionName>)> = Vec::new();
            for (page, count, of) in found {
                match joined.last_mut() {
                    Some((first, length, last)) if *first + *length == page && *last == of => {
                        *length += count;
                    }
                    _ => joined.push((page, count, of)),
                }
            }
            assert_eq!(joined, expected, "after {step:?}");
            run_pending_work(sim, service, pin);
        }
        drop(space);
        run_pending_work(sim, service, pin);
        assert_eq!(service.frames().validate().unwrap().allocated, before, "frames leaked");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn names_are_those_of_a_plain_model(steps in proptest::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}

#[test]
fn numbers_are_used_again() {
    let sim = Sim::builder().cpus(1).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let mut most = 0;
        for round in 0..2000_u32 {
            let named = RegionName::new(&format!("round {round}")).unwrap();
            let request = MapRequest::anonymous(8192).named(named).placed(Placement::Fixed(at(FIRST)));
            space.mmap(pin, &request).unwrap();
            assert_eq!(names(&space, pin), [(FIRST, 2, Some(named))]);
            most = most.max(walked(&space, pin).into_keys().max().unwrap());
            run_pending_work(sim, service, pin);
        }
        assert!(most < 8, "{most} numbers for two records at a time");
    });
}

#[test]
fn equal_neighbours_are_one_region() {
    let sim = Sim::builder().cpus(1).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let map = |first, of: Option<u8>| {
            let request = MapRequest::anonymous(8192).placed(Placement::Fixed(at(first)));
            let request = of.map_or(request, |of| request.named(name(of)));
            space.mmap(pin, &request).unwrap();
        };
        map(FIRST, Some(1));
        map(FIRST + 2, Some(1));
        assert_eq!(names(&space, pin), [(FIRST, 4, Some(name(1)))]);
        space.set_name(pin, at(FIRST + 1), 8192, None).unwrap();
        assert_eq!(
            names(&space, pin),
            [(FIRST, 1, Some(name(1))), (FIRST + 1, 2, None), (FIRST + 3, 1, Some(name(1)))]
        );
        space.set_name(pin, at(FIRST + 1), 8192, Some(name(1))).unwrap();
        assert_eq!(names(&space, pin), [(FIRST, 4, Some(name(1)))]);
        let child = space.fork(pin).unwrap();
        space.munmap(pin, at(FIRST), 4 << 12).unwrap().wait(pin);
        run_pending_work(sim, service, pin);
        assert_eq!(names(&child, pin), [(FIRST, 4, Some(name(1)))]);
        assert_eq!(counted(&child), walked(&child, pin));
    });
}

#[test]
fn a_dead_record_takes_no_pages_and_loses_none() {
    let sim = Sim::builder().cpus(1).memory(64 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let request = MapRequest::anonymous(3 << 12).placed(Placement::Fixed(at(FIRST)));
        space.mmap(pin, &request.named(name(0))).unwrap();
        let (core, mut region) = (space.core(), None);
        core.table.visit(core.service.tables(pin), core.bounds, |_, found| {
            if let Found::Reserved(found) = found {
                region = Some(found);
            }
            ControlFlow::Continue(())
        });
        let region = Region::of(region.unwrap());
        space.munmap(pin, at(FIRST), 3 << 12).unwrap().wait(pin);
        for _ in 0..2 {
            assert!(HeldPages::more(core, region, 2).is_none());
            assert_eq!(core.records.pages_of(region.record().unwrap()), 0);
        }
    });
}
