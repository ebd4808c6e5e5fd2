//! Random operations of several spaces that map several memory objects, against a plain model; and memory that
//! runs out at every allocation.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod object_support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use object_support::{Bench, Object, PagerFile, Space, at, run_pending_work};
use proptest::prelude::*;
use topomem::object::{MemoryObject, ObjectMapping, Residency};
use topomem::region::{
    FaultAccess, FaultError, MapRequest, MmapError, PageFault, Placement, RegionName, Sharing,
};
use topomem::sim::Fault;
use topomem::{CpuPin, FrameRequest, Order, PhysFrame};

/// Where regions are mapped: across an end of 2 MiB.
const FIRST: u64 = (1 << 18) - 6;
const COUNT: u64 = 12;

/// How many pages an object has at most.
const MOST: u64 = 8;

#[derive(Debug, Clone)]
enum Step {
    Map { space: usize, first: u64, count: u64, object: usize, page: u64, sharing: Sharing },
    Unmap { space: usize, first: u64, count: u64 },
    Read { space: usize, page: u64 },
    Write { space: usize, page: u64, value: u64 },
    Resize { object: usize, pages: u64 },
    Punch { object: usize, first: u64, count: u64 },
    Sync { object: usize },
    Evict { object: usize },
    Fork { space: usize },
    Exit { space: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..COUNT).prop_flat_map(|first| (Just(first), 1..=COUNT - first));
    let space = || 0..3_usize;
    let object = || 0..2_usize;
    let sharing = || prop_oneof![Just(Sharing::Shared), Just(Sharing::Private)];
    prop_oneof![
        4 => (space(), range(), object(), 0..MOST, sharing()).prop_map(
            |(space, (first, count), object, page, sharing)| Step::Map { space, first, count, object, page, sharing }
        ),
        2 => (space(), range()).prop_map(|(space, (first, count))| Step::Unmap { space, first, count }),
        6 => (space(), 0..COUNT).prop_map(|(space, page)| Step::Read { space, page }),
        8 => (space(), 0..COUNT, 1..1000_u64).prop_map(|(space, page, value)| Step::Write { space, page, value }),
        2 => (object(), 0..=MOST).prop_map(|(object, pages)| Step::Resize { object, pages }),
        1 => (object(), 0..MOST, 1..4_u64).prop_map(|(object, first, count)| Step::Punch { object, first, count }),
        2 => object().prop_map(|object| Step::Sync { object }),
        2 => object().prop_map(|object| Step::Evict { object }),
        1 => space().prop_map(|space| Step::Fork { space }),
        1 => space().prop_map(|space| Step::Exit { space }),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    object: usize,
    page: u64,
    sharing: Sharing,
    copy: Option<u64>,
}

struct Process {
    space: Space,
    pages: BTreeMap<u64, Mapping>,
}

/// An object's pages: the first word of each.
struct Contents {
    size: u64,
    words: Vec<u64>,
}

/// What runs besides: the pager.
struct Pager<'f> {
    serve: RefCell<Pin<Box<dyn Future<Output = ()> + 'f>>>,
}

impl<'f> Pager<'f> {
    fn of(bench: &Bench, file: &'f PagerFile) -> Pager<'f> {
        let serve = file.requests.serve(bench.service, file);
        Pager {
            serve: RefCell::new(Box::pin(async move {
                let _ = serve.await;
            })),
        }
    }

    fn turn(&self) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(self.serve.borrow_mut().as_mut().poll(&mut context).is_pending());
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = Box::pin(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            self.turn();
        }
    }

    /// Accesses the first word of a page as a program does.
    fn touch(
        &self,
        bench: &Bench,
        pin: &CpuPin,
        space: &Space,
        page: u64,
        store: Option<u64>,
    ) -> Result<u64, FaultError> {
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        loop {
            let outcome = match store {
                Some(value) => bench.sim.store(at(page), value).map(|()| value),
                None => bench.sim.load(at(page)),
            };
            let tried = if store.is_some() { FaultAccess::Write } else { FaultAccess::Read };
            match outcome {
                Ok(value) => return Ok(value),
                Err(Fault::NotPresent { .. } | Fault::Denied { .. }) => {
                    match space.on_page_fault(pin, PageFault::new(at(page), tried)) {
                        Ok(_) => {}
                        Err(FaultError::Waits(wait)) => wait.wait(|| self.turn()).unwrap(),
                        Err(error) => return Err(error),
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

fn run(steps: &[Step]) {
    let bench = Bench::new(1);
    let file = PagerFile::new(&bench, MOST);
    bench.on(|pin| {
        let pager = Pager::of(&bench, &file);
        let objects: [Object; 2] = [
            MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap(),
            file.object(&bench, pin, MOST << 12),
        ];
        let mut contents = [
            Contents { size: 4, words: vec![0; MOST as usize] },
            Contents { size: MOST, words: (0..MOST).map(|page| file.initial(page)).collect() },
        ];
        let process = || Process { space: bench.space(pin), pages: BTreeMap::new() };
        let mut processes: Vec<Process> = (0..3).map(|_| process()).collect();
        for step in steps {
            match *step {
                Step::Map { space, first, count, object, page, sharing } => {
                    let process = &mut processes[space];
                    bench.map(pin, &process.space, &objects[object], FIRST + first, count, page, sharing);
                    let pages = (0..count).map(|index| {
                        (first + index, Mapping { object, page: page + index, sharing, copy: None })
                    });
                    process.pages.extend(pages);
                }
                Step::Unmap { space, first, count } => {
                    let process = &mut processes[space];
                    process.space.munmap(pin, at(FIRST + first), count << 12).unwrap().wait(pin);
                    process.pages.retain(|page, _| !(first..first + count).contains(page));
                }
                Step::Read { space, page } => {
                    let process = &processes[space];
                    let seen = pager.touch(&bench, pin, &process.space, FIRST + page, None);
                    let expected = match process.pages.get(&page) {
                        None => Err(FaultError::NotMapped),
                        Some(mapping) if mapping.page >= contents[mapping.object].size => {
                            Err(FaultError::BeyondEnd)
                        }
                        Some(mapping) => {
                            Ok(mapping.copy.unwrap_or(contents[mapping.object].words[mapping.page as usize]))
                        }
                    };
                    assert_eq!(seen, expected, "{step:?}");
                }
                Step::Write { space, page, value } => {
                    let process = &mut processes[space];
                    let seen = pager.touch(&bench, pin, &process.space, FIRST + page, Some(value));
                    let expected = match process.pages.get_mut(&page) {
                        None => Err(FaultError::NotMapped),
                        Some(mapping) if mapping.page >= contents[mapping.object].size => {
                            Err(FaultError::BeyondEnd)
                        }
                        Some(mapping) => {
                            match mapping.sharing {
                                Sharing::Private => mapping.copy = Some(value),
                                Sharing::Shared => {
                                    contents[mapping.object].words[mapping.page as usize] = value;
                                }
                            }
                            Ok(value)
                        }
                    };
                    assert_eq!(seen, expected, "{step:?}");
                }
                Step::Resize { object, pages } => {
                    objects[object].set_size(pin, pages << 12).unwrap();
                    if object == 1 {
                        file.cut(pages);
                    }
                    contents[object].size = pages;
                    contents[object].words[pages as usize..].fill(0);
                    for process in &mut processes {
                        let cut = |mapping: &&mut Mapping| mapping.object == object && mapping.page >= pages;
                        process.pages.values_mut().filter(cut).for_each(|mapping| mapping.copy = None);
                    }
                }
                Step::Punch { object, first, count } => {
                    pager.block_on(objects[object].punch_hole(first << 12..(first + count) << 12)).unwrap();
                    let end = (first + count).min(contents[object].size) as usize;
                    let start = (first as usize).min(end);
                    contents[object].words[start..end].fill(0);
                }
                Step::Sync { object } => {
                    pager.block_on(objects[object].sync(0..u64::MAX)).unwrap();
                    if object == 1 {
                        for page in 0..contents[1].size {
                            assert_eq!(file.word(page), contents[1].words[page as usize], "page {page}");
                        }
                    }
                }
                Step::Evict { object } => {
                    objects[object].evict(pin, 0..u64::MAX);
                }
                Step::Fork { space } => {
                    let child = processes[space].space.fork(pin).unwrap();
                    let pages = processes[space].pages.clone();
                    processes[(space + 1) % 3] = Process { space: child, pages };
                }
                Step::Exit { space } => processes[space] = process(),
            }
        }
        bench.leave(pin);
        drop(processes);
        drop(objects);
        drop(pager);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn objects_are_as_in_a_plain_model(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps);
    }
}

/// Takes all frames that the allocator has, but for `left`.
fn take_all_but(bench: &Bench, pin: &CpuPin, left: usize) -> Vec<PhysFrame> {
    let mut taken: Vec<PhysFrame> =
        std::iter::from_fn(|| bench.service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect();
    give_back(bench, pin, taken.split_off(taken.len() - left));
    taken
}

fn give_back(bench: &Bench, pin: &CpuPin, frames: Vec<PhysFrame>) {
    for frame in frames {
        // SAFETY: it was allocated for the test, and is nobody else's.
        unsafe { bench.service.frames().free(pin, frame, Order::FRAME).unwrap() };
    }
}

/// What operations can change: the regions, and the object.
fn snapshot(space: &Space, object: &Object, pin: &CpuPin) -> (Vec<String>, u64, u64, Vec<u64>) {
    let mut regions = Vec::new();
    space.for_each_region(pin, |range| regions.push(format!("{range:?}")));
    let words = (0..object.size() >> 12).map(|page| {
        let mut word = [0; 8];
        // A page that is not there is not made for a look.
        if object.residency(page << 12) != Residency::Absent {
            object.try_read(pin, page << 12, &mut word).unwrap();
        }
        u64::from_le_bytes(word)
    });
    (regions, object.size(), object.resident_pages(), words.collect())
}

/// Tries `operation` with no frame left, then with one, and so on, until it succeeds: after each failure
/// everything is as before.
fn refuse_each_allocation(what: &str, operation: impl Fn(&CpuPin, &Bench, &Space, &Object) -> bool) {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 6 << 12).unwrap();
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 6, 0, Sharing::Shared);
        bench.map(pin, &space, &object, FIRST + 600, 6, 0, Sharing::Private);
        for page in 0..3 {
            bench.store(pin, &space, FIRST + page, page + 1);
            bench.load(pin, &space, FIRST + 600 + page);
        }
        bench.leave(pin);
        let mut refused = 0;
        loop {
            let before = snapshot(&space, &object, pin);
            let taken = take_all_but(&bench, pin, refused);
            let done = operation(pin, &bench, &space, &object);
            give_back(&bench, pin, taken);
            if done {
                break;
            }
            assert_eq!(snapshot(&space, &object, pin), before, "{what}, allocation {refused}");
            refused += 1;
            assert!(refused < 64, "{what} never succeeds");
        }
        assert!(refused > 0, "{what} allocates nothing");
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn no_allocation_that_fails_changes_anything() {
    refuse_each_allocation("mmap", |pin, _, space, object| {
        let request = MapRequest::anonymous(4 << 12).placed(Placement::Fixed(at(1 << 30)));
        let mapping = ObjectMapping::new(object, 0, Sharing::Shared);
        match space.mmap_object(pin, &request, mapping) {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error, MmapError::OutOfFrames(_)), "{error}");
                false
            }
        }
    });
    for (what, page, access) in [
        ("a fault of a page that is not there", FIRST + 4, FaultAccess::Write),
        ("a private copy", FIRST + 601, FaultAccess::Write),
        ("a private copy of a page that is not there", FIRST + 604, FaultAccess::Write),
    ] {
        refuse_each_allocation(what, |pin, _, space, _| {
            match space.on_page_fault(pin, PageFault::new(at(page), access)) {
                Ok(_) => true,
                Err(error) => {
                    assert!(matches!(error, FaultError::OutOfFrames(_)), "{error}");
                    false
                }
            }
        });
    }
    refuse_each_allocation("a name", |pin, _, space, _| {
        let name = RegionName::new("name").ok();
        space.set_name(pin, at(FIRST), 6 << 12, name).is_ok()
    });
    refuse_each_allocation("an object", |pin, bench, _, _| {
        MemoryObject::anonymous(bench.service, pin, 4096).is_ok()
    });
    refuse_each_allocation("cutting", |pin, _, _, object| object.set_size(pin, 4096).is_ok());
    refuse_each_allocation("a fork", |pin, _, space, _| space.fork(pin).is_ok());
}

/// A mapping that is refused for want of memory does not keep its object.
#[test]
fn a_mapping_that_fails_keeps_no_object() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let space = bench.space(pin);
        let make = || MemoryObject::anonymous(bench.service, pin, 4096).unwrap();
        // From now on the space has what it needs for records.
        let first = make();
        bench.map(pin, &space, &first, FIRST, 1, 0, Sharing::Shared);
        run_pending_work(bench.sim, bench.service, pin);
        let before = bench.allocated();
        let object = make();
        let taken = take_all_but(&bench, pin, 0);
        let request = MapRequest::anonymous(4096).placed(Placement::Fixed(at(1 << 30)));
        let mapping = ObjectMapping::new(&object, 0, Sharing::Shared);
        let refused = space.mmap_object(pin, &request, mapping);
        assert!(matches!(refused, Err(MmapError::OutOfFrames(_))), "{refused:?}");
        give_back(&bench, pin, taken);
        drop(object);
        run_pending_work(bench.sim, bench.service, pin);
        assert_eq!(bench.allocated(), before);
        bench.finish(pin, [space], [first]);
    });
}

#[test]
fn a_dirty_page_stays() {
    run(&[
        Step::Map { space: 0, first: 0, count: 1, object: 1, page: 0, sharing: Sharing::Shared },
        Step::Write { space: 0, page: 0, value: 5 },
        Step::Evict { object: 1 },
        Step::Read { space: 0, page: 0 },
    ]);
}
