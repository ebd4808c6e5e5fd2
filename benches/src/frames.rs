//! The frame allocator's cases: each returns one sample of one subject.

use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, SyncSender};

use topomem_percpu::Order;

use crate::random::Random;
use crate::subject::Subject;
use crate::threads::timed;

/// How many frames the measured allocators manage: 4 GiB.
pub const FRAMES: usize = 1 << 20;

/// How many frames a bulk case allocates on each thread: 1 GiB.
pub const BULK: usize = 256 << 10;

/// What a thread holds: the CPU that it plays, and frames.
struct Held<S: Subject> {
    cpu: S::Cpu,
    frames: Vec<S::Frame>,
}

impl<S: Subject> Held<S> {
    /// Room for `count` frames, touched already: a round of allocating and freeing as many warms
    /// the list, the allocator and its bookkeeping.
    fn warm(subject: &S, cpu: usize, order: Order, count: usize) -> Held<S> {
        let mut held = Held { cpu: subject.cpu(cpu), frames: Vec::with_capacity(count) };
        held.take(subject, order, count);
        held.give(subject, order);
        held
    }

    /// `count` single frames, just allocated.
    fn full(subject: &S, cpu: usize, count: usize) -> Held<S> {
        let mut held = Held { cpu: subject.cpu(cpu), frames: Vec::with_capacity(count) };
        held.take(subject, Order::FRAME, count);
        held
    }

    #[inline]
    fn take(&mut self, subject: &S, order: Order, count: usize) {
        for _ in 0..count {
            match subject.alloc(&self.cpu, order) {
                Some(frame) => self.frames.push(frame),
                None => panic!("{}: exhausted after {} of {count}", S::NAME, self.frames.len()),
            }
        }
    }

    /// Frees all in the order of the list, which keeps its room.
    #[inline]
    fn give(&mut self, subject: &S, order: Order) {
        for &frame in &self.frames {
            subject.free(&self.cpu, frame, order);
        }
        self.frames.clear();
    }
}

/// Nanoseconds per alloc and free: each thread takes `burst` runs, then frees them in order.
pub fn pairs<S: Subject>(subject: &S, cpus: usize, order: Order, burst: usize, rounds: usize) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| Held::warm(subject, cpu, order, burst),
        |held| {
            for _ in 0..rounds {
                held.take(subject, order, burst);
                held.give(subject, order);
            }
        },
        |_| (),
    );
    elapsed.as_nanos() as f64 / (burst * rounds) as f64
}

/// In which order a bulk case frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeOrder {
    /// As allocated.
    InOrder,
    /// Shuffled.
    Random,
    /// Every second frame in the measured part, the rest afterwards.
    Alternate,
}

/// Nanoseconds per alloc of [`BULK`] frames on each thread.
pub fn bulk_alloc<S: Subject>(subject: &S, cpus: usize) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| Held::warm(subject, cpu, Order::FRAME, BULK),
        |held| held.take(subject, Order::FRAME, BULK),
        |mut held| held.give(subject, Order::FRAME),
    );
    elapsed.as_nanos() as f64 / BULK as f64
}

/// Nanoseconds per free of what each thread allocated in bulk.
pub fn bulk_free<S: Subject>(subject: &S, cpus: usize, order: FreeOrder) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| {
            let mut held = Held::full(subject, cpu, BULK);
            let mut rest = Vec::new();
            match order {
                FreeOrder::InOrder => {}
                FreeOrder::Random => Random::new(cpu as u64).shuffle(&mut held.frames),
                FreeOrder::Alternate => {
                    held.frames.sort_unstable();
                    rest = held.frames.iter().copied().skip(1).step_by(2).collect();
                    held.frames = held.frames.iter().copied().step_by(2).collect();
                }
            }
            (held, rest)
        },
        |(held, _)| held.give(subject, Order::FRAME),
        |(mut held, rest)| {
            held.frames = rest;
            held.give(subject, Order::FRAME);
        },
    );
    let freed = if order == FreeOrder::Alternate { BULK / 2 } else { BULK };
    elapsed.as_nanos() as f64 / freed as f64
}

/// Frames in a list that is freed by one call.
pub const LIST: usize = 512;

/// Nanoseconds per free of what each thread allocated in bulk, shuffled and freed in lists of [`LIST`].
pub fn list_free<S: Subject>(subject: &S, cpus: usize) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| {
            let mut held = Held::full(subject, cpu, BULK);
            Random::new(cpu as u64).shuffle(&mut held.frames);
            held
        },
        |held| held.frames.chunks(LIST).for_each(|list| subject.free_list(&held.cpu, list)),
        |_| (),
    );
    elapsed.as_nanos() as f64 / BULK as f64
}

/// What a thread does across CPUs, with its end of the channel.
enum Side<S: Subject> {
    Allocates(S::Cpu, SyncSender<Vec<S::Frame>>),
    Frees(S::Cpu, Receiver<Vec<S::Frame>>),
}

/// Nanoseconds per frame that one thread allocates and another frees, in batches of 256.
pub fn cross_free<S: Subject>(subject: &S, frames: usize) -> f64 {
    const BATCH: usize = 256;
    let (send, receive) = mpsc::sync_channel(64);
    let ends = (Mutex::new(Some(send)), Mutex::new(Some(receive)));
    let take = |cpu: usize| match cpu {
        0 => ends.0.lock().ok()?.take().map(|send| Side::<S>::Allocates(subject.cpu(cpu), send)),
        _ => ends.1.lock().ok()?.take().map(|receive| Side::Frees(subject.cpu(cpu), receive)),
    };
    let elapsed = timed(
        2,
        take,
        |side| match side.take() {
            Some(Side::Allocates(cpu, send)) => {
                for _ in 0..frames / BATCH {
                    let batch: Vec<_> =
                        (0..BATCH).filter_map(|_| subject.alloc(&cpu, Order::FRAME)).collect();
                    assert_eq!(batch.len(), BATCH, "{}: exhausted across CPUs", S::NAME);
                    if send.send(batch).is_err() {
                        return;
                    }
                }
            }
            Some(Side::Frees(cpu, receive)) => {
                for batch in receive {
                    batch.into_iter().for_each(|frame| subject.free(&cpu, frame, Order::FRAME));
                }
            }
            None => {}
        },
        |_| (),
    );
    elapsed.as_nanos() as f64 / frames as f64
}

/// How many 2 MiB runs are left after churn at `fill` percent, in percent of what the number of
/// free frames would allow.
///
/// Each thread fills its share of the memory, then four times over frees a random frame and
/// allocates another; the runs are then taken one by one.
pub fn huge_left<S: Subject>(subject: &S, cpus: usize, fill: usize) -> f64 {
    let share = FRAMES * fill / 100 / cpus;
    timed(
        cpus,
        |cpu| (cpu, Held::full(subject, cpu, share)),
        |(cpu, held)| {
            let mut random = Random::new(7 + *cpu as u64);
            for _ in 0..4 * held.frames.len() {
                let index = random.below(held.frames.len());
                subject.free(&held.cpu, held.frames[index], Order::FRAME);
                match subject.alloc(&held.cpu, Order::FRAME) {
                    Some(frame) => held.frames[index] = frame,
                    None => panic!("{}: exhausted in churn", S::NAME),
                }
            }
        },
        |_| (),
    );
    (0..cpus).for_each(|cpu| subject.drain(&subject.cpu(cpu)));
    let left = std::iter::from_fn(|| subject.alloc(&subject.cpu(0), Order::HUGE)).count();
    100.0 * left as f64 / ((FRAMES - share * cpus) / 512) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects::{Bitmap, Buddy, Paranoid, Topomem};

    /// The measured operations are the same work for every subject: all frames come back.
    fn returns_what_it_took<S: Subject>() {
        let subject = S::new(4096, 2);
        assert!(pairs(&subject, 2, Order::FRAME, 32, 4) > 0.0);
        assert!(pairs(&subject, 1, Order::HUGE, 2, 4) > 0.0);
        assert!(cross_free(&subject, 1024) > 0.0);
        (0..2).for_each(|cpu| subject.drain(&subject.cpu(cpu)));
        let cpu = subject.cpu(0);
        assert_eq!(std::iter::from_fn(|| subject.alloc(&cpu, Order::HUGE)).count(), 8, "{}", S::NAME);
    }

    #[test]
    fn every_subject_does_the_same_work() {
        returns_what_it_took::<Topomem>();
        returns_what_it_took::<Paranoid>();
        returns_what_it_took::<Bitmap>();
        returns_what_it_took::<Buddy>();
    }
}
