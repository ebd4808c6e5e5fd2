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
    // A second free of what another CPU's magazine has, or the pool and this magazine, is found late.
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
        if number(of).wrapping_sub(number(huge)) < 512 && of != huge {
            // In the huge page: which error is told is not this test's matter.
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
