//! Lists of frames freed by one call: all that may be freed is, the rest is refused, and the first refusal is told.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::collections::BTreeSet;

use frames_support::{Host, MIB, Machine, frame, number, online, pin};
use proptest::prelude::*;
use topomem_numa::frames::{
    DoubleFrees, FrameRequest, Frames, FramesConfig, FreeError, ZeroedFrames, Zeroing,
};
use topomem_percpu::{Order, PhysFrame};

const ONE: FrameRequest = FrameRequest::frame();

/// What the machine is like.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    /// Frames of another node than the CPU's are in the lists, too.
    TwoNodes,
    /// Frames of a scarce zone, and of two zones in one list.
    TwoZones,
    /// The pool of zeroed frames is full.
    Pool,
    /// Frames of the lists' blocks are retired.
    Retired,
    Paranoid,
    ClearedWhenFreed,
}

/// What is done with the next frame of a list.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// An allocated frame, anywhere.
    Any(u16),
    /// The neighbour of the last frame of the list.
    Next,
    /// A frame that stands in the list already.
    Again(u16),
    /// A frame that is free, by whatever number, or in no memory.
    Free(u16),
    /// The first frame of an allocated huge page.
    Huge,
}

fn machine(kind: Kind) -> &'static Frames<Host> {
    let plain = FramesConfig { zeroed: ZeroedFrames::Frames(0), ..FramesConfig::without_reserve() };
    let (ranges, config): (&[_], _) = match kind {
        Kind::TwoNodes => (&[(16 * MIB, 21 * MIB, 0), (21 * MIB, 26 * MIB, 1)], plain),
        Kind::TwoZones => (&[(12 * MIB, 20 * MIB, 0)], plain),
        Kind::Pool => {
            (&[(16 * MIB, 24 * MIB, 0)], FramesConfig { zeroed: ZeroedFrames::Frames(64), ..plain })
        }
        Kind::Paranoid => {
            (&[(16 * MIB, 24 * MIB, 0)], FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..plain })
        }
        Kind::ClearedWhenFreed => {
            (&[(16 * MIB, 24 * MIB, 0)], FramesConfig { zeroing: Zeroing::OnFree, ..plain })
        }
        Kind::Plain | Kind::Retired => (&[(16 * MIB, 24 * MIB, 0)], plain),
    };
    let cpus: &[usize] = if matches!(kind, Kind::TwoNodes) { &[0, 1] } else { &[0, 0] };
    let frames = Machine::new(ranges, cpus).frames(&config);
    online(frames, 2);
    frames
}

fn drain(frames: &Frames<Host>) {
    (0..2).for_each(|cpu| _ = frames.drain(&pin(cpu)));
}

/// Frees the list of `items` on CPU 0, and compares with a set of the allocated frames.
fn free_list(kind: Kind, taken: usize, items: &[Item]) {
    let frames = machine(kind);
    let huge = frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)).unwrap();
    let all: Vec<_> = (0..taken).map(|index| frames.alloc(&pin(index % 2), &ONE).unwrap()).collect();
    let mut allocated: BTreeSet<u64> = all.iter().map(|&of| number(of)).collect();
    // A second free of what another CPU's magazine has is found late.
    frames.drain(&pin(1));
    if let Kind::Pool = kind {
        frames.drain(&pin(0));
        assert!(frames.refill_zeroed(&pin(0), 64) > 0);
    }
    let mut retired = BTreeSet::new();
    if let Kind::Retired = kind {
        for &of in all.iter().step_by(37) {
            frames.retire(&pin(0), of).unwrap();
            retired.insert(number(of));
        }
    }
    let mut list: Vec<PhysFrame> = Vec::new();
    let mut expected = Ok(());
    for &item in items {
        let of = match item {
            Item::Any(index) => all[usize::from(index) % all.len()],
            Item::Next => list.last().map_or(all[0], |&last| frame(number(last) + 1)),
            Item::Again(index) if list.is_empty() => all[usize::from(index) % all.len()],
            Item::Again(index) => list[usize::from(index) % list.len()],
            Item::Free(index) => frame(12 * 256 + u64::from(index) % (16 * 256)),
            Item::Huge => huge,
        };
        let in_huge = number(of).wrapping_sub(number(huge)) < 512 && of != huge;
        // Which error is told of a part of the huge page is not this test's matter. And a frame of the pool that is
        // freed into a word of the magazine is found late.
        if in_huge || (matches!(kind, Kind::Pool) && !all.contains(&of) && of != huge) {
            continue;
        }
        list.push(of);
        if !allocated.remove(&number(of)) && expected.is_ok() {
            expected = Err(of);
        }
    }
    // SAFETY: nobody uses the arena.
    let freed = unsafe { frames.free_bulk(&pin(0), &list) };
    match (freed, expected) {
        (Ok(()), Ok(())) => {}
        (Err(FreeError::WrongOrder { frame, .. }), Err(of)) => assert_eq!((frame, of), (huge, huge)),
        (
            Err(
                FreeError::DoubleFree(told)
                | FreeError::OutOfRange(told)
                | FreeError::Reserved(told)
                | FreeError::NotAllocated(told),
            ),
            Err(of),
        ) => assert_eq!(told, of),
        other => panic!("{other:?} for {list:?}"),
    }
    drain(frames);
    let totals = frames.validate().unwrap();
    let gone = retired.iter().filter(|&of| !allocated.contains(of)).count() as u64;
    assert_eq!((totals.allocated, totals.retired), (allocated.len() as u64 + 512, gone));
    let left: Vec<_> = allocated.into_iter().map(frame).collect();
    // SAFETY: nobody uses the arena.
    assert_eq!(unsafe { frames.free_bulk(&pin(1), &left) }, Ok(()));
    drain(frames);
    assert_eq!(frames.validate().unwrap().allocated, 512);
    // SAFETY: the arena is used no more.
    unsafe { frames_support::end(frames) };
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        8 => any::<u16>().prop_map(Item::Any),
        8 => Just(Item::Next),
        1 => any::<u16>().prop_map(Item::Again),
        1 => any::<u16>().prop_map(Item::Free),
        1 => Just(Item::Huge),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Plain),
        Just(Kind::TwoNodes),
        Just(Kind::TwoZones),
        Just(Kind::Pool),
        Just(Kind::Retired),
        Just(Kind::Paranoid),
        Just(Kind::ClearedWhenFreed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "takes thousands of frames; `frames_basic` runs the same unsafe code")]
    fn a_list_frees_what_may_be_freed(
        kind in kind(),
        taken in 1_usize..1200,
        items in proptest::collection::vec(item(), 0..400),
    ) {
        free_list(kind, taken, &items);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames; `frames_basic` runs the same unsafe code")]
fn frames_of_the_pool_are_free() {
    let frames = machine(Kind::Pool);
    let held: Vec<_> = (0..100).map(|_| frames.alloc(&pin(0), &ONE).unwrap()).collect();
    // Its region is remembered from here on.
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(0), held[50], Order::FRAME) }.unwrap();
    frames.drain(&pin(0));
    assert_eq!(frames.refill_zeroed(&pin(0), 64), 64);
    let before = frames.validate().unwrap();
    for of in (16 * 256..24 * 256).map(frame).filter(|of| !held.contains(of) || *of == held[50]) {
        // SAFETY: as above; all of these are to be refused.
        assert_eq!(unsafe { frames.free_bulk(&pin(0), &[of]) }, Err(FreeError::DoubleFree(of)));
        // SAFETY: as above.
        assert!(unsafe { frames.free_run(&pin(0), of, 2) }.is_err());
    }
    let after = frames.validate().unwrap();
    assert_eq!((before.free, before.allocated), (after.free, after.allocated));
}

/// In whatever order: the frames are counted, and their blocks become whole again.
#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames; `frames_basic` runs the same unsafe code")]
fn lists_in_order_and_shuffled_come_back_whole() {
    let blocks = 4;
    let frames = Machine::simple(2 * blocks, 1).frames(&FramesConfig::without_reserve());
    online(frames, 1);
    for step in [1, 5, 67, 173] {
        let mut all = vec![frame(0); 512 * blocks as usize];
        frames.alloc_bulk(&pin(0), &ONE, &mut all).unwrap();
        all.sort_unstable();
        let list: Vec<_> = (0..all.len()).map(|index| all[index * step % all.len()]).collect();
        // SAFETY: nobody uses the arena.
        assert_eq!(unsafe { frames.free_bulk(&pin(0), &list) }, Ok(()));
        assert_eq!(frames.stats(topomem_numa::NodeId::ZERO).unwrap().all_free(), 512 * blocks, "step {step}");
        frames.drain(&pin(0));
        let huge: Vec<_> =
            std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)).ok()).collect();
        assert_eq!(huge.len() as u64, blocks, "step {step}: blocks become whole again");
        // SAFETY: nobody uses the arena.
        huge.into_iter().for_each(|of| unsafe { frames.free(&pin(0), of, Order::HUGE) }.unwrap());
        frames.drain(&pin(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Frames of some words are in the magazine, others are not; some frames of some runs are free already.
    #[test]
    #[cfg_attr(miri, ignore = "takes thousands of frames; `frames_basic` runs the same unsafe code")]
    fn a_run_is_freed_as_a_whole_or_refused(
        kind in kind(),
        runs in proptest::collection::vec((1_u64..200, any::<u16>()), 1..40),
        order in any::<u64>(),
    ) {
        let frames = machine(kind);
        let free_run = |first, count| {
            // SAFETY: nobody uses the arena.
            unsafe { frames.free_run(&pin(0), first, count) }
        };
        let mut held: Vec<_> = runs
            .iter()
            .filter_map(|&(count, hole)| Some((frames.alloc_run(&pin(0), &ONE, count, 1).ok()?, count, hole)))
            .collect();
        if let Kind::Pool = kind {
            frames.drain(&pin(0));
            frames.refill_zeroed(&pin(0), 64);
        }
        let mut allocated: u64 = held.iter().map(|run| run.1).sum();
        while !held.is_empty() {
            let (first, count, hole) = held.swap_remove((order % held.len() as u64) as usize);
            let hole = u64::from(hole) % (2 * count);
            // In paranoid mode runs are freed as they were allocated.
            if hole < count && count > 1 && !matches!(kind, Kind::Paranoid) {
                // SAFETY: nobody uses the arena.
                unsafe { frames.free(&pin(0), first + hole, Order::FRAME) }.unwrap();
                allocated -= 1;
                prop_assert_eq!(free_run(first, count), Err(FreeError::DoubleFree(first + hole)));
                prop_assert_eq!(frames.validate().unwrap().allocated, allocated);
                for part in [(first, hole), (first + hole + 1, count - hole - 1)] {
                    if part.1 > 0 {
                        free_run(part.0, part.1).unwrap();
                        allocated -= part.1;
                    }
                }
            } else {
                free_run(first, count).unwrap();
                allocated -= count;
            }
            prop_assert_eq!(frames.validate().unwrap().allocated, allocated);
            let again = free_run(first, count);
            // With marks a run that is free was never allocated.
            let is_refused = match kind {
                Kind::Paranoid => again.is_err(),
                _ => matches!(again, Err(FreeError::DoubleFree(_))),
            };
            prop_assert!(is_refused, "{:?}", again);
        }
        drain(frames);
        prop_assert_eq!(frames.validate().unwrap().allocated, 0);
        // SAFETY: the arena is used no more.
        unsafe { frames_support::end(frames) };
    }
}
