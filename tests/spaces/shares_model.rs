//! Random changes of several spaces that share pages, checked against plain maps after each: who maps
//! what, and does every frame keep its contents as long as somebody maps it?
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use topomem::address_space::{MapError, ShareError};
use topomem::page_table::Ownership;
use topomem::sim::{Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, PendingWork, Platform, Protection,
    VirtAddr,
};

const SPACES: usize = 3;
/// Pages played with, of each space: four 2 MiB stretches.
const COUNT: u64 = 2048;
const BASE: u64 = 0x10_0000_0000;

type Space = AddressSpace<&'static Sim>;

#[derive(Debug, Clone)]
enum Step {
    Map {
        space: usize,
        pages: Pages,
    },
    Share {
        space: usize,
        pages: Pages,
        into: usize,
        to: u64,
    },
    Unmap {
        space: usize,
        pages: Pages,
        wait: bool,
    },
    /// Cuts large pages at the ends.
    Protect {
        space: usize,
        pages: Pages,
    },
    Move {
        space: usize,
        pages: Pages,
        to: u64,
    },
    Promote {
        space: usize,
        stretch: u64,
    },
    Drop {
        space: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct Pages {
    first: u64,
    count: u64,
    size: PageSize,
}

impl Pages {
    fn range(self) -> PageRange {
        let start = VirtAddr::new(BASE + self.first * 4096).unwrap();
        PageRange::new(start, self.count * 4096 / self.size.bytes(), self.size).unwrap()
    }

    fn iter(self) -> impl Iterator<Item = u64> {
        self.first..self.first + self.count
    }
}

fn pages() -> impl Strategy<Value = Pages> {
    let small = (0..COUNT, 1..30u64);
    prop_oneof![
        small.prop_map(|(first, count)| (first, count, PageSize::Size4KiB)),
        (0..4u64, 1..3u64).prop_map(|(first, count)| (first * 512, count * 512, PageSize::Size2MiB)),
        (0..4u64).prop_map(|first| (first * 512, 512, PageSize::Size4KiB)),
    ]
    .prop_map(|(first, count, size)| Pages { first, count: count.min(COUNT - first), size })
}

fn step() -> impl Strategy<Value = Step> {
    let space = || 0..SPACES;
    // Often to the same offset in a large page, so that large pages fit.
    let to = || prop_oneof![(0..4u64).prop_map(|stretch| stretch * 512), 0..COUNT];
    prop_oneof![
        3 => (space(), pages()).prop_map(|(space, pages)| Step::Map { space, pages }),
        6 => (space(), pages(), space(), to())
            .prop_map(|(space, pages, into, to)| Step::Share { space, pages, into, to }),
        3 => (space(), pages(), any::<bool>())
            .prop_map(|(space, pages, wait)| Step::Unmap { space, pages, wait }),
        1 => (space(), pages()).prop_map(|(space, pages)| Step::Protect { space, pages }),
        1 => (space(), pages(), to()).prop_map(|(space, pages, to)| Step::Move { space, pages, to }),
        1 => (space(), 0..4u64).prop_map(|(space, stretch)| Step::Promote { space, stretch }),
        1 => space().prop_map(|space| Step::Drop { space }),
    ]
}

/// What a space maps: the tag that is written in each page's frame, and the size of the page.
type Map = BTreeMap<u64, (u64, PageSize)>;

struct World<'p> {
    service: &'static SimService,
    pin: &'p CpuPin,
    spaces: Vec<Space>,
    maps: Vec<Map>,
    last_tag: u64,
}

impl World<'_> {
    fn word(&self, space: &Space, page: u64) -> Option<(&AtomicU64, PageSize, Ownership)> {
        let found = space.translate(self.pin, VirtAddr::new(BASE + page * 4096).unwrap())?;
        let place = self.service.platform().phys_to_virt(found.address);
        // SAFETY: the frame is mapped; all accesses to its first word are atomic.
        Some((unsafe { place.cast().as_ref() }, found.size, found.leaf.ownership))
    }

    /// Large pages that `pages` covers in part are large no more.
    fn cut(&mut self, space: usize, pages: Pages) {
        for stretch in [pages.first / 512, (pages.first + pages.count - 1) / 512] {
            let whole = pages.first <= stretch * 512 && stretch * 512 + 512 <= pages.first + pages.count;
            if !whole {
                for (_, (_, size)) in self.maps[space].range_mut(stretch * 512..stretch * 512 + 512) {
                    *size = PageSize::Size4KiB;
                }
            }
        }
    }

    fn vacant(&self, space: usize, pages: Pages) -> bool {
        pages.iter().all(|page| !self.maps[space].contains_key(&page))
    }

    fn apply(&mut self, step: &Step) {
        let pin = self.pin;
        match *step {
            Step::Map { space, pages } => {
                let order = if pages.size == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
                let request = FrameRequest::order(order);
                let mapped = self.spaces[space].map(pin, pages.range(), request, Protection::USER_DATA);
                match mapped {
                    Ok(()) => assert!(self.vacant(space, pages)),
                    // Large pages may not be had.
                    Err(MapError::OutOfFrames(_)) => return,
                    Err(error) => {
                        assert!(matches!(error, MapError::AlreadyMapped { .. }), "{error}");
                        return assert!(!self.vacant(space, pages));
                    }
                }
                for page in pages.iter() {
                    self.last_tag += 1;
                    let (word, ..) = self.word(&self.spaces[space], page).unwrap();
                    word.store(self.last_tag, Ordering::Relaxed);
                    self.maps[space].insert(page, (self.last_tag, pages.size));
                }
            }
            Step::Share { space, pages, into, to } => {
                let to = to.min(COUNT - pages.count);
                let aligned = (to * 4096).is_multiple_of(pages.size.bytes());
                let target = Pages { first: to, ..pages };
                let start = VirtAddr::new(BASE + to * 4096).unwrap();
                let (from, other) = (&self.spaces[space], &self.spaces[into]);
                let shared = from.share(pin, pages.range(), other, start, Protection::USER_DATA);
                let whole = pages.iter().all(|page| self.maps[space].contains_key(&page));
                let sized = whole && pages.iter().all(|page| self.maps[space][&page].1 == pages.size);
                match shared {
                    Ok(()) => assert!(aligned && sized && self.vacant(into, target)),
                    Err(ShareError::Target(_)) => return assert!(!aligned),
                    Err(ShareError::NotMapped(_)) => return assert!(!whole),
                    Err(ShareError::OtherSize { .. }) => return assert!(!sized),
                    Err(ShareError::Map(MapError::AlreadyMapped { .. })) => {
                        return assert!(sized && !self.vacant(into, target));
                    }
                    Err(error) => panic!("{error}"),
                }
                for (old, new) in pages.iter().zip(target.iter()) {
                    let entry = self.maps[space][&old];
                    self.maps[into].insert(new, entry);
                }
            }
            Step::Unmap { space, pages, wait } => {
                let unmapping = self.spaces[space].unmap(pin, pages.range()).unwrap();
                if wait {
                    unmapping.wait(pin);
                } else {
                    unmapping.detach();
                }
                self.cut(space, pages);
                self.maps[space].retain(|page, _| !(pages.first..pages.first + pages.count).contains(page));
            }
            Step::Protect { space, pages } => {
                for protection in [Protection::USER_READ_ONLY, Protection::USER_DATA] {
                    self.spaces[space].protect(pin, pages.range(), protection).unwrap().wait(pin);
                }
                self.cut(space, pages);
            }
            Step::Move { space, pages, to } => {
                let to = to.min(COUNT - pages.count);
                let start = VirtAddr::new(BASE + to * 4096).unwrap();
                // The cuts at the ends stay, even of a move that fails.
                let moved = self.spaces[space].remap(pin, pages.range(), start);
                if moved.map(|moved| moved.wait(pin)).is_ok() {
                    let target = Pages { first: to, ..pages };
                    assert!(self.vacant(space, target));
                    self.cut(space, pages);
                    for (old, new) in pages.iter().zip(target.iter()) {
                        if let Some(entry) = self.maps[space].remove(&old) {
                            self.maps[space].insert(new, entry);
                        }
                    }
                } else {
                    self.adopt_sizes(space);
                }
            }
            Step::Promote { space, stretch } => {
                let range = Pages { first: stretch * 512, count: 512, size: PageSize::Size2MiB };
                let promoted = self.spaces[space].promote(pin, range.range());
                if promoted.map(|promoted| promoted.wait(pin)).is_ok() {
                    range.iter().for_each(|page| self.maps[space].get_mut(&page).unwrap().1 = range.size);
                }
            }
            Step::Drop { space } => {
                self.spaces[space] = self.service.create_space(pin).unwrap();
                assert_eq!(self.service.run_pending_work(pin), PendingWork::Done);
                self.maps[space].clear();
            }
        }
    }

    /// A move that fails may have cut large pages.
    fn adopt_sizes(&mut self, space: usize) {
        let found: Vec<u64> = self.maps[space].keys().copied().collect();
        for page in found {
            let (_, size, _) = self.word(&self.spaces[space], page).unwrap();
            self.maps[space].get_mut(&page).unwrap().1 = size;
        }
    }

    fn check(&self) {
        let mut holders: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        for (space, map) in self.spaces.iter().zip(&self.maps) {
            assert_eq!(space.mapped_pages(), map.len() as u64);
            for (&page, &(tag, size)) in map {
                let (word, found, ownership) = self.word(space, page).unwrap();
                assert_eq!(word.load(Ordering::Relaxed), tag, "page {page}: the frame became another");
                assert_eq!(found, size, "page {page}");
                let (count, owned) = holders.entry(tag).or_default();
                *count += 1;
                *owned |= ownership == Ownership::Owned;
            }
        }
        for (tag, (count, owned)) in holders {
            assert!(count == 1 || !owned, "tag {tag} has {count} holders, and an owner");
        }
    }
}

#[test]
fn agrees_with_plain_maps() {
    let sim = Sim::builder().cpus(1).memory(96 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let allocated = || service.frames().validate().unwrap().allocated;
        let mut runner = TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
        let outcome = runner.run(&prop::collection::vec(step(), 1..40), |steps| {
            let before = allocated();
            let spaces = (0..SPACES).map(|_| service.create_space(pin).unwrap()).collect();
            let maps = vec![Map::new(); SPACES];
            let mut world = World { service, pin, spaces, maps, last_tag: 0 };
            for step in &steps {
                world.apply(step);
                world.check();
            }
            drop(world);
            prop_assert_eq!(service.run_pending_work(pin), PendingWork::Done);
            prop_assert_eq!(allocated(), before, "frames leaked");
            Ok(())
        });
        outcome.unwrap();
    });
}
