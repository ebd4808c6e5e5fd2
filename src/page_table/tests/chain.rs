use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{Chain, TableMemory};
use super::arena::Arena;
use super::foreign;

const FRAMES: u64 = 24;

#[derive(Debug, Clone)]
enum Step {
    /// Puts a frame that is in neither chain into one of the two.
    Push {
        chain: usize,
        frame: u64,
    },
    Pop {
        chain: usize,
    },
    PopRun {
        chain: usize,
    },
    /// The second goes into the first.
    Append,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2usize, 1..=FRAMES).prop_map(|(chain, frame)| Step::Push { chain, frame }),
        2 => (0..2usize).prop_map(|chain| Step::Pop { chain }),
        1 => (0..2usize).prop_map(|chain| Step::PopRun { chain }),
        1 => Just(Step::Append),
    ]
}

/// Takes the frames of a run out of the model.
fn gone(model: &mut BTreeSet<u64>, first: u64, count: u64) {
    for frame in first..first + count {
        assert!(model.remove(&frame), "frame {frame} was not in the chain");
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "safe code")]
    fn holds_what_was_pushed(steps in prop::collection::vec(step(), 1..80)) {
        let arena = Arena::new(FRAMES);
        let mut chains = [Chain::EMPTY, Chain::EMPTY];
        let mut models = [BTreeSet::new(), BTreeSet::new()];
        for step in steps {
            match step {
                Step::Push { chain, frame } => {
                    if models.iter().all(|model| !model.contains(&frame)) {
                        chains[chain].push(&arena, foreign(frame));
                        models[chain].insert(frame);
                    }
                }
                Step::Pop { chain } => match chains[chain].pop(&arena) {
                    Some(frame) => gone(&mut models[chain], u64::from(arena.link(frame)), 1),
                    None => prop_assert!(models[chain].is_empty()),
                },
                Step::PopRun { chain } => match chains[chain].pop_run(&arena) {
                    Some((first, count)) => gone(&mut models[chain], u64::from(arena.link(first)), count),
                    None => prop_assert!(models[chain].is_empty()),
                },
                Step::Append => {
                    let [first, second] = &mut chains;
                    first.append(&arena, core::mem::take(second));
                    let moved = core::mem::take(&mut models[1]);
                    models[0].extend(moved);
                }
            }
            for (chain, model) in chains.iter().zip(&models) {
                prop_assert_eq!(chain.len(), model.len() as u64);
            }
        }
        for (chain, model) in chains.iter_mut().zip(&mut models) {
            while let Some((first, count)) = chain.pop_run(&arena) {
                gone(model, u64::from(arena.link(first)), count);
            }
            prop_assert!(model.is_empty());
        }
        let linked: Vec<u64> = (1..=FRAMES)
            .filter(|&frame| arena.aux(foreign(frame)).load(core::sync::atomic::Ordering::Relaxed) != 0)
            .collect();
        prop_assert!(linked.is_empty(), "{linked:?} keep a link");
    }
}

#[test]
fn neighbours_are_one_run_in_either_direction() {
    let arena = Arena::new(9);
    for order in [[3, 4, 5], [5, 4, 3], [4, 5, 3]] {
        let mut chain = Chain::EMPTY;
        order.iter().for_each(|&frame| chain.push(&arena, foreign(frame)));
        assert_eq!(chain.pop_run(&arena), Some((foreign(3), 3)));
        assert!(chain.is_empty());
    }
}
