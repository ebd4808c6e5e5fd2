//! Cache lines of frees in random order.

use std::cell::Cell;
use std::rc::Rc;

use topomem_percpu::Order;

use super::machine;
use crate::frames::{BULK, FRAMES};
use crate::random::Random;
use crate::sample::{Key, Summary};
use crate::subject::Subject;
use crate::subjects::Topomem;

/// Counts the cache lines of atomics that a free of topomem's uses, on average, where 1 GiB of single frames is freed
/// in random order. Lines that only hold what never changes, such as a region's bounds, are not seen.
#[must_use]
pub fn lines_of_random_frees() -> Summary {
    let lines = Rc::new(Cell::new(0));
    let sum = lines.clone();
    let program = move || {
        let subject = Topomem::new(FRAMES, 1);
        let cpu = subject.cpu(0);
        let mut held: Vec<_> = (0..BULK).filter_map(|_| subject.alloc(&cpu, Order::FRAME)).collect();
        assert_eq!(held.len(), BULK, "exhausted");
        Random::new(0).shuffle(&mut held);
        for frame in held {
            let used = machine::distinct_lines(|| subject.free(&cpu, frame, Order::FRAME));
            sum.set(sum.get() + used);
        }
    };
    machine::reset();
    machine::run(vec![Box::new(program)], 0);
    let key =
        Key { suite: "frames", case: "lines_free_random", subject: "topomem", cpus: 1, unit: "per free" };
    key.summary(&[lines.get() as f64 / BULK as f64])
}
