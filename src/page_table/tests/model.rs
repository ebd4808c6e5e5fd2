//! Random changes, checked against a plain map after each.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// The pages played with: four 2 MiB stretches across a 1 GiB boundary.
const FIRST: u64 = (1 << 18) - 1024;
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
    Clear {
        start: u64,
        count: u64,
    },
    Protect {
        start: u64,
        count: u64,
        protection: Protection,
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
        4 => range().prop_map(|(start, count)| Step::Clear { start, count }),
        2 => (range(), protection)
            .prop_map(|((start, count), protection)| Step::Protect { start, count, protection }),
    ]
}

type Model = BTreeMap<u64, (PhysFrame, Protection)>;

fn apply(table: &Table, arena: &Arena, model: &mut Model, step: &Step) {
    let pin = pin(0);
    match *step {
        Step::Map { start, count, frame, largest } => {
            let range = pages(FIRST + start, count);
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
        Step::Own { start, count } => own(table, arena, model, &pin, pages(FIRST + start, count)),
        Step::Clear { start, count } => {
            let range = pages(FIRST + start, count);
            let changed = clear(table, arena, &pin, range).unwrap();
            let gone: Vec<u64> = model.range(range.first..=range.last).map(|(&page, _)| page).collect();
            assert_eq!(changed.pages, gone.len() as u64);
            for page in &gone {
                let stale = changed.stale.unwrap();
                assert!(stale.first <= *page && *page <= stale.last, "{page} would stay in TLBs");
                model.remove(page);
            }
            arena.free_changed(&pin, changed);
        }
        Step::Protect { start, count, protection } => {
            let range = pages(FIRST + start, count);
            let mut reserve = Reserve::new(arena, &pin);
            let changed = reprotect(table, arena, &mut reserve, range, protection).unwrap();
            let mut differing = 0;
            for (_, mapping) in model.range_mut(range.first..=range.last) {
                differing += u64::from(mapping.1 != protection);
                mapping.1 = protection;
            }
            assert_eq!(changed.pages, differing);
        }
    }
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
    let filled = table.fill(arena, &mut Reserve::new(arena, pin), range, &mut backing);
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

fn check(table: &Table, arena: &Arena, model: &Model) {
    for page in FIRST..FIRST + COUNT {
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
    fn agrees_with_a_plain_map(steps in prop::collection::vec(step(), 1..40)) {
        let arena = Arena::new(500);
        let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
        let mut model = Model::new();
        for step in &steps {
            apply(&table, &arena, &mut model, step);
            check(&table, &arena, &model);
        }
        finish(&table, &arena);
    }
}
