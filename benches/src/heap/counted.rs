//! What `valgrind --tool=callgrind` counts: it starts and stops with the functions of this module
//! (`--toggle-collect`), so whatever is done before and after is left out.

use super::across::{self, Sizes};
use super::subject::Subject;
use super::work::{Object, Work};
use crate::random::Random;

/// Does `work` so many times.
#[inline(never)]
pub(super) fn turns<A: Subject, W: Work<A>>(heap: &A, work: &mut W, turns: usize) {
    for _ in 0..turns {
        work.turn(heap);
    }
}

/// [`across::fill`].
#[inline(never)]
pub(super) fn fill<A: Subject>(heap: &A, sizes: Sizes, random: &mut Random, batch: &mut Vec<Object>) {
    across::fill(heap, sizes, random, batch);
}

/// [`across::clear`].
#[inline(never)]
pub(super) fn clear<A: Subject>(heap: &A, batch: &mut Vec<Object>) {
    across::clear(heap, batch);
}
