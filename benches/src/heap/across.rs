//! One thread allocates and writes, another one reads and frees.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::churn::mixed;
use super::counted;
use super::subject::Subject;
use super::work::Object;
use crate::random::Random;
use crate::threads::timed;

/// Objects that are handed over at a time.
pub(super) const BATCH: usize = 256;

/// How large the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// 64 bytes.
    Same,
    /// 16 bytes to 4 KiB.
    Mixed,
}

impl Sizes {
    #[inline(always)]
    fn next(self, random: &mut Random) -> usize {
        match self {
            Sizes::Same => 64,
            Sizes::Mixed => mixed(random.next_u64()),
        }
    }
}

/// How many batches are handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batches {
    /// Before any is counted.
    pub before: usize,
    /// Afterwards.
    pub counted: usize,
    /// At most so many are on their way. With a single one the threads take turns.
    pub at_once: usize,
}

/// What a thread does, with its ends of the two channels: full batches go one way, empty ones come back.
enum Side {
    Allocates(Sender<Vec<Object>>, Receiver<Vec<Object>>),
    Frees(Receiver<Vec<Object>>, Sender<Vec<Object>>),
}

/// The time of the slower thread.
pub(super) fn hand_over<A: Subject>(heap: &A, sizes: Sizes, batches: Batches) -> Duration {
    let (send, receive) = mpsc::channel();
    let (send_back, receive_back) = mpsc::channel();
    for _ in 0..batches.at_once {
        // Both ends are still here.
        let _ = send_back.send(Vec::with_capacity(BATCH));
    }
    let sides = [Side::Allocates(send, receive_back), Side::Frees(receive, send_back)];
    let sides = Mutex::new(sides.map(Some));
    timed(
        2,
        |cpu| {
            heap.enter(cpu);
            sides.lock().ok()?[cpu].take()
        },
        |side| match side.take() {
            Some(Side::Allocates(full, empty)) => {
                let mut random = Random::new(5);
                for number in 0..batches.before + batches.counted {
                    let Ok(mut batch) = empty.recv() else { return };
                    match number < batches.before {
                        true => fill(heap, sizes, &mut random, &mut batch),
                        false => counted::fill(heap, sizes, &mut random, &mut batch),
                    }
                    if full.send(batch).is_err() {
                        return;
                    }
                }
            }
            Some(Side::Frees(full, empty)) => {
                for (number, mut batch) in full.into_iter().enumerate() {
                    match number < batches.before {
                        true => clear(heap, &mut batch),
                        false => counted::clear(heap, &mut batch),
                    }
                    // The other thread may have filled all that it was to fill.
                    let _ = empty.send(batch);
                }
            }
            None => {}
        },
        |_| (),
    )
}

/// Allocates a batch of objects, and writes to them.
#[inline(always)]
pub(super) fn fill<A: Subject>(heap: &A, sizes: Sizes, random: &mut Random, batch: &mut Vec<Object>) {
    for _ in 0..BATCH {
        batch.push(Object::new(heap, sizes.next(random)));
    }
}

/// Reads a batch of objects, and frees them.
#[inline(always)]
pub(super) fn clear<A: Subject>(heap: &A, batch: &mut Vec<Object>) {
    for object in batch.drain(..) {
        // SAFETY: the object's first word was written by whoever allocated it.
        black_box(unsafe { object.memory.cast::<u64>().read() });
        object.free(heap);
    }
}
