//! Random operations on regions of a simulated machine, against a plain model.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use topomem::region::{
    Advice, CollapseError, FaultError, HugePages, Inheritance, MadviseError, MapRequest, MmapError,
    MprotectError, MremapError, Placement, Populate, Relocation,
};
use topomem::sim::{Sim, SimService};
use topomem::{Access, CpuId, CpuPin, PendingWork};

mod space_support;
use space_support::{Space, activate, allocated, at, deactivate, touch};

/// The pages played with: they cross 512 GiB, where three levels of tables change.
const FIRST: u64 = (1 << 27) - 1024;
const COUNT: u64 = 2048;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Map { start: u64, count: u64, access: Access, replace: Replace, populate: Populate },
    Unmap { start: u64, count: u64 },
    Protect { start: u64, count: u64, access: Access },
    Advise { start: u64, count: u64, advice: Advice },
    Move { start: u64, old: u64, new: u64, to: u64 },
    Read { page: u64 },
    Write { page: u64, value: u64 },
    Collapse { start: u64 },
    Fork,
    Exit,
}

/// A program: its space, and what is to be found there.
struct Process {
    space: Space,
    model: Model,
}

/// How many programs there are at most.
const PROCESSES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replace {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    access: Access,
    guard: bool,
    inheritance: Inheritance,
    value: u64,
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        1 => Just(Access::NONE),
        2 => Just(Access::READ),
        4 => Just(Access::WRITE),
        1 => Just(Access::EXECUTE),
    ]
}

/// How many pages around each end of 2 MiB most operations are about, so that they meet.
const NEAR: u64 = 8;

/// One of these pages.
fn near(end: u64, page: u64) -> u64 {
    (end + 1) * 512 - NEAR / 2 + page
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        // Few pages, so that operations meet.
        10 => (0..3u64, 0..NEAR, 1..NEAR).prop_map(|(end, page, count)| (near(end, page), count)),
        3 => (0..COUNT, 1..9u64),
        1 => (0..4u64, 1..3u64).prop_map(|(start, count)| (start * 512, count * 512)),
        1 => (0..COUNT, 1..COUNT),
    ]
    .prop_map(|(start, count)| (start, count.min(COUNT - start)))
}

fn step() -> impl Strategy<Value = Step> {
    let replace = prop_oneof![Just(Replace::Yes), Just(Replace::No)];
    let populate = prop_oneof![4 => Just(Populate::OnDemand), 1 => Just(Populate::Now)];
    let advice = prop_oneof![
        4 => Just(Advice::DontNeed),
        2 => Just(Advice::GuardInstall),
        2 => Just(Advice::GuardRemove),
        1 => Just(Advice::DontFork),
        1 => Just(Advice::WipeOnFork),
        1 => Just(Advice::DoFork),
    ];
    prop_oneof![
        3 => (range(), access(), replace, populate).prop_map(|((start, count), access, replace, populate)| {
            // Memory for what is populated is short.
            let populate = if count > 64 { Populate::OnDemand } else { populate };
            Step::Map { start, count, access, replace, populate }
        }),
        2 => range().prop_map(|(start, count)| Step::Unmap { start, count }),
        2 => (range(), access()).prop_map(|((start, count), access)| Step::Protect { start, count, access }),
        1 => (range(), advice).prop_map(|((start, count), advice)| Step::Advise { start, count, advice }),
        2 => (range(), 1..20u64, 0..COUNT).prop_map(|((start, old), new, to)| {
            // Longer by a few pages, or shorter.
            let new = if new < 10 { old + new } else { old.saturating_sub(new - 10).max(1) };
            Step::Move { start, old, new, to: to.min(COUNT - new.min(COUNT)) }
        }),
        2 => (0..COUNT).prop_map(|page| Step::Read { page }),
        6 => (0..3u64, 0..NEAR).prop_map(|(end, page)| Step::Read { page: near(end, page) }),
        2 => (0..COUNT, 1..u64::MAX).prop_map(|(page, value)| Step::Write { page, value }),
        // Pages that are likely to be there.
        12 => (0..3u64, 0..NEAR, 1..u64::MAX)
            .prop_map(|(end, page, value)| Step::Write { page: near(end, page), value }),
        1 => (0..COUNT / 512).prop_map(|start| Step::Collapse { start: start * 512 }),
        1 => Just(Step::Fork),
        1 => Just(Step::Exit),
    ]
}

type Model = BTreeMap<u64, Page>;

/// What an access to `page` finds.
fn expected(model: &Model, page: u64, write: Option<u64>) -> Result<u64, FaultError> {
    let page = model.get(&page).ok_or(FaultError::NotMapped)?;
    let permitted = if write.is_some() { page.access.writes() } else { page.access.reads() };
    match (permitted, page.guard) {
        (false, _) => Err(FaultError::Denied),
        (true, true) => Err(FaultError::Guarded),
        (true, false) => Ok(write.unwrap_or(page.value)),
    }
}

/// Moves `old` pages from `start` on to `to`, where there are to be `new` pages.
fn move_pages(pin: &CpuPin, space: &Space, model: &mut Model, [start, old, new, to]: [u64; 4]) {
    if to + new > COUNT {
        return;
    }
    let [start, to] = [start, to].map(|page| FIRST + page);
    let moved = old.min(new);
    let alike = |page: &Page, other: &Page| Page { value: 0, ..*page } == Page { value: 0, ..*other };
    let first = model.get(&start).copied();
    let whole = |first: Page| {
        (start..start + moved).all(|page| model.get(&page).is_some_and(|page| alike(page, &first)))
    };
    let outcome = space.mremap(pin, at(start), old << 12, new << 12, Relocation::Fixed(at(to)));
    if start < to + new && to < start + old {
        return assert_eq!(outcome, Err(MremapError::Overlap));
    }
    let Some(first) = first.filter(|&first| whole(first)) else {
        return assert!(matches!(outcome, Err(MremapError::NoRegion(_))), "{outcome:?}");
    };
    assert_eq!(outcome, Ok(at(to)));
    model.retain(|page, _| !(to..to + new).contains(page));
    for page in 0..new {
        let contents =
            if page < moved { model[&(start + page)] } else { Page { value: 0, guard: false, ..first } };
        model.insert(to + page, contents);
    }
    model.retain(|page, _| !(start..start + old).contains(page));
}

fn apply(sim: &'static Sim, pin: &CpuPin, process: &mut Process, step: &Step) {
    let Process { space, model } = process;
    match *step {
        Step::Map { start, count, access, replace, populate } => {
            let pages = FIRST + start..FIRST + start + count;
            let taken = model.range(pages.clone()).next().map(|(&page, _)| page);
            let placement = match replace {
                Replace::Yes => Placement::Fixed(at(pages.start)),
                Replace::No => Placement::FixedNoReplace(at(pages.start)),
            };
            let request = MapRequest::anonymous(count << 12).access(access).populate(populate);
            match (space.mmap(pin, &request.placed(placement)), taken) {
                (Ok(start), None) => assert_eq!(start, at(pages.start)),
                (Ok(start), Some(_)) => assert_eq!((start, replace), (at(pages.start), Replace::Yes)),
                (Err(error), Some(page)) => {
                    assert_eq!((error, replace), (MmapError::Occupied(at(page)), Replace::No));
                    return;
                }
                (Err(error), None) => panic!("{error}"),
            }
            model.extend(pages.map(|page| {
                (page, Page { access, guard: false, inheritance: Inheritance::Copied, value: 0 })
            }));
        }
        Step::Collapse { start } => match space.collapse(pin, at(FIRST + start), 2 << 20) {
            // Contents stay, whatever the outcome.
            Ok(()) | Err(CollapseError::Unfit(_)) => {}
            Err(error) => panic!("{error}"),
        },
        Step::Unmap { start, count } => {
            space.munmap(pin, at(FIRST + start), count << 12).unwrap().wait(pin);
            model.retain(|page, _| !(FIRST + start..FIRST + start + count).contains(page));
        }
        Step::Protect { start, count, access } => {
            let pages = FIRST + start..FIRST + start + count;
            let hole = pages.clone().find(|page| !model.contains_key(page));
            match (space.mprotect(pin, at(pages.start), count << 12, access), hole) {
                (Ok(unmapping), None) => unmapping.wait(pin),
                (Err(error), Some(hole)) => assert_eq!(error, MprotectError::NoRegion(at(hole))),
                (outcome, hole) => panic!("{outcome:?} with a hole at {hole:?}"),
            }
            for page in pages.start..hole.unwrap_or(pages.end) {
                model.get_mut(&page).unwrap().access = access;
            }
        }
        Step::Advise { start, count, advice } => {
            let pages = FIRST + start..FIRST + start + count;
            let holes = pages.clone().any(|page| !model.contains_key(&page));
            match space.madvise(pin, at(pages.start), count << 12, advice) {
                Ok(unmapping) => {
                    assert!(!holes);
                    unmapping.wait(pin);
                }
                Err(error) => assert_eq!((error, holes), (MadviseError::NoRegion, true)),
            }
            for (_, page) in model.range_mut(pages) {
                match advice {
                    Advice::DontNeed => page.value = 0,
                    Advice::GuardInstall => (page.guard, page.value) = (true, 0),
                    Advice::GuardRemove => page.guard = false,
                    Advice::DontFork => page.inheritance = Inheritance::Left,
                    Advice::WipeOnFork => page.inheritance = Inheritance::Wiped,
                    _ => page.inheritance = Inheritance::Copied,
                }
            }
        }
        Step::Move { start, old, new, to } => move_pages(pin, space, model, [start, old, new, to]),
        Step::Read { page } => {
            let page = FIRST + page;
            assert_eq!(touch(sim, pin, space, page, None), expected(model, page, None), "reading {page:#x}");
        }
        Step::Write { page, value } => {
            let page = FIRST + page;
            let found = touch(sim, pin, space, page, Some(value));
            assert_eq!(found, expected(model, page, Some(value)), "writing {page:#x}");
            if found.is_ok() {
                model.get_mut(&page).unwrap().value = value;
            }
        }
        Step::Fork | Step::Exit => unreachable!("of the programs, not of one"),
    }
}

/// What a fork of a program with `model` finds.
fn forked(model: &Model) -> Model {
    let mut child = model.clone();
    child.retain(|_, page| page.inheritance != Inheritance::Left);
    // The child has none of the parent's entries there: neither contents nor guards.
    for page in child.values_mut().filter(|page| page.inheritance == Inheritance::Wiped) {
        (page.guard, page.value) = (false, 0);
    }
    child
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_plain_model(
        steps in proptest::collection::vec((0..PROCESSES, step()), 1..80),
        huge in prop_oneof![Just(HugePages::Advised), Just(HugePages::Always)],
        around in prop_oneof![Just(1), Just(8), Just(64)],
    ) {
        let (sim, service) = booted(1);
        sim.on(CpuId::BOOT, |pin| {
            let before = allocated(service);
            let space = service.create_space(pin).unwrap();
            space.set_huge_pages(huge);
            space.set_fault_around(around);
            let mut processes = vec![Process { space, model: Model::new() }];
            for (process, step) in &steps {
                let count = processes.len();
                let process = process % count;
                let Process { space, model } = &mut processes[process];
                activate(space, pin);
                match step {
                    Step::Fork if count < PROCESSES => {
                        let child = Process { space: space.fork(pin).unwrap(), model: forked(model) };
                        processes.push(child);
                    }
                    Step::Exit if count > 1 => {
                        deactivate(service, pin);
                        processes.swap_remove(process);
                    }
                    Step::Fork | Step::Exit => {}
                    step => apply(sim, pin, &mut processes[process], step),
                }
            }
            for Process { space, model } in processes {
                activate(&space, pin);
                let around = (0..3).flat_map(|end| (0..NEAR).map(move |page| near(end, page)));
                for page in (0..COUNT).step_by(61).chain(around).map(|page| FIRST + page) {
                    assert_eq!(touch(sim, pin, &space, page, None), expected(&model, page, None));
                }
                deactivate(service, pin);
            }
            while service.run_pending_work(pin) != PendingWork::Done {}
            assert_eq!(allocated(service), before, "frames leaked");
        });
    }
}
