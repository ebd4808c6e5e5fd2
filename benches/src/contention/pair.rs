//! Atomic read-modify-writes of the magazine's hits.

use std::rc::Rc;

use super::machine;
use super::subjects::{Magazines, Shared};
use crate::instructions::BURST;
use crate::sample::{Key, Summary};

/// Bursts before the count, and in it.
const BURSTS: usize = 100;

/// How many topomem needs per pair, in bursts of 32 on one CPU: hits only.
#[must_use]
pub fn read_modify_writes() -> Summary {
    let subject = Rc::new(Magazines::new(1));
    let run = || {
        let subject = subject.clone();
        let program = move || {
            for _ in 0..BURSTS {
                let held: Vec<u64> = (0..BURST).filter_map(|_| subject.alloc(0)).collect();
                held.into_iter().for_each(|frame| subject.free(0, frame));
            }
        };
        machine::run(vec![Box::new(program)], 0)
    };
    run();
    let per_pair = run().modifications as f64 / (BURSTS * BURST) as f64;
    let key = Key { suite: "frames", case: "atomics_pair", subject: "topomem", cpus: 1, unit: "per pair" };
    key.summary(&[per_pair])
}
