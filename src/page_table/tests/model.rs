//! Random changes, checked against a plain map after each.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::tables::memory::table_at;
use super::*;

/// The pages played with: four 2 MiB stretches across a boundary, of 1 GiB or of 512 GiB.
const FIRSTS: [u64; 2] = [(1 << 18) - 1024, (1 << 27) - 1024];
const COUNT: u64 = 2048;

#[derive(Debug, Clone)]
enum Step {
    /// Borrowed frames from this number on, with leaves up to this level.
    Map {
        start: u64,
        count: u64,
        frame: u64,
        largest: Level,
    },
    /// Frames of the arena.
    Own {
        start: u64,
        count: u64,
    },
    /// 2 MiB of the arena's frames, one by one, in the 2 MiB stretch of this number.
    OwnStretch {
        stretch: u64,
        frame: u64,
    },
    /// So many stretches.
    Promote {
        stretch: u64,
        count: u64,
    },
    Clear {
        start: u64,
        count: u64,
    },
    /// All that an entry of this level covers, before the boundary or after it.
    ClearEntry {
        level: Level,
        side: u64,
    },
    Protect {
        start: u64,
        count: u64,
        protection: Protection,
    },
    /// To the pages from another one on.
    Move {
        start: u64,
        count: u64,
        to: u64,
    },
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0..COUNT, 1..40u64),
        // Whole 2 MiB stretches, and more.
        (0..4u64, 1..3u64).prop_map(|(start, count)| (start * 512, count * 512)),
        (0..COUNT, 1..COUNT),
    ]
    .prop_map(|(start, count)| (start, count.min(COUNT - start)))
}

fn step() -> impl Strategy<Value = Step> {
    let level = prop_oneof![Just(Level::PAGE), Just(Level::HUGE), Just(Level::GIANT)];
    let protection = prop_oneof![
        Just(Protection::USER_DATA),
        Just(Protection::USER_CODE),
        Just(Protection::USER_READ_ONLY),
    ];
    prop_oneof![
        4 => (range(), 0..4u64, 0..2u64, level).prop_map(|((start, count), base, skew, largest)| {
            // Congruent with the pages modulo 2 MiB, or off by one.
            Step::Map { start, count, frame: 0x10_0000 + base * 4096 + start + skew, largest }
        }),
        2 => (0..COUNT, 1..9u64).prop_map(|(start, count)| Step::Own { start, count: count.min(COUNT - start) }),
        2 => (0..4u64, 1..3u64)
            .prop_map(|(stretch, run)| Step::OwnStretch { stretch, frame: run * 512 }),
        4 => (0..4u64, 1..3u64)
            .prop_map(|(stretch, count)| Step::Promote { stretch, count: count.min(4 - stretch) }),
        4 => range().prop_map(|(start, count)| Step::Clear { start, count }),
        1 => (prop_oneof![Just(Level::GIANT), Just(Level::FOURTH)], 0..2u64)
            .prop_map(|(level, side)| Step::ClearEntry { level, side }),
        2 => (range(), 0..COUNT, prop_oneof![Just(511u64), Just(0)]).prop_map(|((start, count), to, mask)| {
            // Congruent with the old place modulo 2 MiB, or not.
            Step::Move { start, count, to: to & !mask | start & mask }
        }),
        2 => (range(), protection)
            .prop_map(|((start, count), protection)| Step::Protect { start, count, protection }),
    ]
}

/// A way to a page: the tables, from the root down, and the leaf at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    tables: Vec<PhysFrame>,
    leaf: Option<(PhysFrame, Level, Protection)>,
}

fn way(table: &Table, arena: &Arena, page: u64) -> Way {
    let (mut tables, mut level) = (std::vec![table.root()], Level::FOURTH);
    while let Some(&last) = tables.last() {
        // SAFETY: it is linked, and the test changes nothing meanwhile.
        let raw = unsafe { table_at(arena, last) }.load(level.index(page));
        match (X64::<4>::decode(raw, level), level.below()) {
            (Entry::Table(next), Some(below)) => {
                tables.push(next);
                level = below;
            }
            _ => break,
        }
    }
    Way { tables, leaf: find(table, arena, page) }
}

/// The ways to all pages played with.
fn ways(table: &Table, arena: &Arena, first: u64) -> Vec<Way> {
    (first..first + COUNT).map(|page| way(table, arena, page)).collect()
}

/// Every page whose translation is another now, or one of whose tables is unlinked, is among those
/// that TLBs are told of, and no TLB keeps a smaller page than it is told of.
fn check_stale(first: u64, before: &[Way], after: &[Way], changed: &Changed) {
    for (page, (before, after)) in (first..).zip(before.iter().zip(after)) {
        let same_leaf = match (before.leaf, after.leaf) {
            // A smaller leaf in its place says the same, and its own flush removes the larger one.
            (Some((frame, level, protection)), Some(now)) => {
                (frame, protection) == (now.0, now.2) && now.1 <= level
            }
            (None, _) => true,
            (Some(_), None) => false,
        };
        let kept_tables = before.tables.iter().all(|table| after.tables.contains(table));
        if same_leaf && kept_tables {
            continue;
        }
        let told = changed.stale.is_some_and(|stale| stale.first <= page && page <= stale.last);
        assert!(told, "page {page:#x} would stay in TLBs: {before:?}, now {after:?}");
        if let (false, Some((_, level, _))) = (same_leaf, before.leaf) {
            assert!(changed.smallest <= level, "page {page:#x} would be flushed as one larger");
        }
        assert!(kept_tables || !changed.retired.tables.is_empty(), "walkers are told of no tables");
    }
}

type Model = BTreeMap<u64, (PhysFrame, Protection)>;

fn apply(table: &Table, arena: &Arena, model: &mut Model, first: u64, step: &Step) {
    let pin = pin(0);
    let before = ways(table, arena, first);
    let told = |changed: &Changed| check_stale(first, &before, &ways(table, arena, first), changed);
    match *step {
        Step::Map { start, count, frame, largest } => {
            let range = pages(first + start, count);
            let occupied = model.range(range.first..=range.last).next().map(|(&page, _)| page);
            match map(table, arena, &pin, range, foreign(frame), largest) {
                Ok(()) => assert_eq!(occupied, None),
                // A large leaf reports its first page in the range.
                Err(FillError::Occupied { page, .. }) => assert_eq!(Some(page), occupied),
                Err(FillError::Tables(_)) => panic!("the arena is too small"),
            }
            if occupied.is_none() {
                let mapped = (0..count).map(|page| (range.first + page, foreign(frame + page)));
                model.extend(mapped.map(|(page, frame)| (page, (frame, Protection::USER_DATA))));
            }
        }
        Step::Own { start, count } => own(table, arena, model, &pin, pages(first + start, count)),
        Step::OwnStretch { stretch, frame } => {
            let range = pages(first + stretch * 512, 512);
            let vacant = model.range(range.first..=range.last).next().is_none();
            if vacant && arena.allocate_at(frame, 512) {
                own_run(table, arena, &pin, range, foreign(frame));
                let mapped = (0..512).map(|page| (range.first + page, foreign(frame + page)));
                model.extend(mapped.map(|(page, frame)| (page, (frame, Protection::USER_DATA))));
            }
        }
        Step::Promote { stretch, count } => {
            let stretches: Vec<u64> =
                (stretch..stretch + count).map(|stretch| first + stretch * 512).collect();
            let small: Vec<u64> =
                stretches.iter().copied().filter(|&first| is_small(table, arena, first)).collect();
            let unfit = small.iter().find_map(|&first| unfit(model, first));
            match promote(table, arena, &pin, pages(stretches[0], count * 512), Level::HUGE) {
                Ok(changed) => {
                    told(&changed);
                    assert_eq!(unfit, None);
                    assert_eq!(changed.pages, 512 * small.len() as u64);
                    assert_eq!(changed.retired.tables.len(), small.len() as u64);
                    for first in small {
                        let stale = changed.stale.unwrap();
                        assert!(stale.first <= first && first + 511 <= stale.last);
                    }
                    assert!(stretches.iter().all(|&first| !is_small(table, arena, first)));
                    arena.free_changed(&pin, changed);
                }
                Err(refused) => assert_eq!(Some(refused), unfit),
            }
        }
        Step::Clear { start, count } => unmap(table, arena, model, first, pages(first + start, count)),
        Step::ClearEntry { level, side } => {
            let page = first + side * (COUNT - 1);
            let whole = pages(page & !(level.pages() - 1), level.pages());
            unmap(table, arena, model, first, whole);
        }
        Step::Protect { start, count, protection } => {
            let range = pages(first + start, count);
            let changed = reprotect(table, arena, &pin, range, protection).unwrap();
            told(&changed);
            let mut differing = 0;
            for (_, mapping) in model.range_mut(range.first..=range.last) {
                differing += u64::from(mapping.1 != protection);
                mapping.1 = protection;
            }
            assert_eq!(changed.pages, differing);
        }
        Step::Move { start, count, to } => {
            let count = count.min(COUNT - to);
            if start < to + count && to < start + count {
                return;
            }
            let (from, to) = (pages(first + start, count), pages(first + to, count));
            let mut reserve = Reserve::new(arena, &pin);
            match table
                .relocate(arena.by(&pin), &mut reserve, from, to, MovedRegions::default(), |changed| changed)
            {
                Ok(changed) => {
                    // TLBs are told of the new place apart, if tables went there.
                    let mut all =
                        Changed { stale: changed.stale, smallest: changed.smallest, ..Changed::NOTHING };
                    if !changed.retired.tables.is_empty() {
                        all.note_table(to);
                    }
                    all.retired = changed.retired;
                    check_stale(first, &before, &ways(table, arena, first), &all);
                    arena.free_changed(&pin, all);
                    for page in from.first..=from.last {
                        if let Some(mapping) = model.remove(&page) {
                            model.insert(page - from.first + to.first, mapping);
                        }
                    }
                }
                Err(RelocateError::Occupied { page }) => {
                    let occupied = model.range(to.first..=to.last).next().map(|(&page, _)| page);
                    assert!(occupied.is_some_and(|first| first <= page));
                }
                Err(RelocateError::WouldSplit(level)) => {
                    assert!(!from.first.abs_diff(to.first).is_multiple_of(level.pages()));
                }
                Err(RelocateError::Tables(_)) => panic!("the arena is too small"),
                Err(RelocateError::Changed) => panic!("nothing was expected"),
            }
        }
    }
}

fn unmap(table: &Table, arena: &Arena, model: &mut Model, first: u64, range: Pages) {
    let pin = pin(0);
    let before = ways(table, arena, first);
    let changed = clear(table, arena, &pin, range).unwrap();
    check_stale(first, &before, &ways(table, arena, first), &changed);
    let gone: Vec<u64> = model.range(range.first..=range.last).map(|(&page, _)| page).collect();
    assert_eq!(changed.pages, gone.len() as u64);
    for page in &gone {
        let stale = changed.stale.unwrap();
        assert!(stale.first <= *page && *page <= stale.last, "{page} would stay in TLBs");
        model.remove(page);
    }
    arena.free_changed(&pin, changed);
}

fn own(table: &Table, arena: &Arena, model: &mut Model, pin: &CpuPin, range: Pages) {
    let mut chain = Chain::EMPTY;
    let mut frames: BTreeSet<PhysFrame> = BTreeSet::new();
    for _ in 0..range.count() {
        let frame = arena.allocate(pin).unwrap();
        chain.push(arena, frame);
        frames.insert(frame);
    }
    let mut backing = Chained { memory: arena, level: Level::PAGE, frames: &mut chain, attributes: OWNED };
    let filled =
        table.fill(arena.by(pin), &mut Reserve::new(arena, pin), range, &mut backing, |replaced| replaced);
    let occupied = model.range(range.first..=range.last).next().is_some();
    match filled {
        Ok(replaced) => {
            assert!(!occupied && replaced.is_empty());
            for page in range.first..=range.last {
                let found = find(table, arena, page).map(|(frame, ..)| frame);
                let frame = found.filter(|frame| frames.remove(frame));
                model.insert(page, (frame.expect("one of the chain's"), Protection::USER_DATA));
            }
        }
        Err(_) => assert!(occupied),
    }
    arena.free_chain(pin, chain);
}

fn is_small(table: &Table, arena: &Arena, first: u64) -> bool {
    find(table, arena, first).is_none_or(|(_, level, _)| level == Level::PAGE)
}

/// Why the stretch from page `first` on cannot be one leaf.
fn unfit(model: &Model, first: u64) -> Option<Unfit> {
    let number = |frame: PhysFrame| frame.start_address().as_u64() / 4096;
    let mut before: Option<(u64, Protection)> = None;
    (first..first + 512).find_map(|page| {
        let Some(&(frame, protection)) = model.get(&page) else {
            return Some(Unfit::Vacant { page });
        };
        let unfit = match before {
            None if number(frame) % 512 != 0 => Some(Unfit::Misaligned { page, frame }),
            None => protection.access().executes().then_some(Unfit::OneSize { page }),
            Some((last, _)) if number(frame) != last + 1 => Some(Unfit::Scattered { page, frame }),
            Some((_, other)) => (protection != other).then_some(Unfit::Differs { page }),
        };
        before = Some((number(frame), protection));
        unfit
    })
}

fn check(table: &Table, arena: &Arena, model: &Model, first: u64) {
    for page in first..first + COUNT {
        let found = find(table, arena, page).map(|(frame, _, protection)| (frame, protection));
        assert_eq!(found, model.get(&page).copied(), "page {page:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes; steps.rs covers the unsafe code")]
    fn agrees_with_a_plain_map(first in prop::sample::select(FIRSTS.to_vec()), steps in prop::collection::vec(step(), 1..40)) {
        // 64 frames for tables and single pages at least, and two runs of 512.
        let arena = Arena::new(512 * 3 + 500);
        let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
        let mut model = Model::new();
        for step in &steps {
            apply(&table, &arena, &mut model, first, step);
            check(&table, &arena, &model, first);
        }
        finish(&table, &arena);
    }
}
