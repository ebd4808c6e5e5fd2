//! The frame allocator's cases: each returns one sample of one subject.

use std::sync::mpsc;

use topomem_percpu::Order;

use crate::random::Random;
use crate::subject::Subject;
use crate::threads::timed;

/// How many frames the measured allocators manage: 4 GiB.
pub const FRAMES: usize = 1 << 20;

/// How many frames a bulk case allocates on each thread: 1 GiB.
pub const BULK: usize = 256 << 10;

fn take<S: Subject>(subject: &S, cpu: usize, order: Order, count: usize, into: &mut Vec<u64>) {
    for _ in 0..count {
        match subject.alloc(cpu, order) {
            Some(frame) => into.push(frame),
            None => break,
        }
    }
}

/// Nanoseconds per alloc and free: each thread takes `burst` runs, then frees them in order.
pub fn pairs<S: Subject>(subject: &S, cpus: usize, order: Order, burst: usize, rounds: usize) -> f64 {
    let elapsed = timed(
        cpus,
        |_| Vec::with_capacity(burst),
        |cpu, held: &mut Vec<u64>| {
            for _ in 0..rounds {
                take(subject, cpu, order, burst, held);
                assert_eq!(held.len(), burst, "{}: exhausted in a burst", S::NAME);
                for frame in held.drain(..) {
                    subject.free(cpu, frame, order);
                }
            }
        },
        |_, _| (),
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
        |_| Vec::with_capacity(BULK),
        |cpu, held| take(subject, cpu, Order::FRAME, BULK, held),
        |cpu, held: Vec<u64>| {
            assert_eq!(held.len(), BULK, "{}: exhausted in bulk", S::NAME);
            held.into_iter().for_each(|frame| subject.free(cpu, frame, Order::FRAME));
        },
    );
    elapsed.as_nanos() as f64 / BULK as f64
}

/// Nanoseconds per free of what each thread allocated in bulk.
pub fn bulk_free<S: Subject>(subject: &S, cpus: usize, order: FreeOrder) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| {
            let mut held = Vec::with_capacity(BULK);
            take(subject, cpu, Order::FRAME, BULK, &mut held);
            let mut rest = Vec::new();
            match order {
                FreeOrder::InOrder => {}
                FreeOrder::Random => Random::new(cpu as u64).shuffle(&mut held),
                FreeOrder::Alternate => {
                    held.sort_unstable();
                    rest = held.iter().copied().skip(1).step_by(2).collect();
                    held = held.iter().copied().step_by(2).collect();
                }
            }
            (held, rest)
        },
        |cpu, (held, _)| held.iter().for_each(|&frame| subject.free(cpu, frame, Order::FRAME)),
        |cpu, (_, rest)| rest.into_iter().for_each(|frame| subject.free(cpu, frame, Order::FRAME)),
    );
    let freed = if order == FreeOrder::Alternate { BULK / 2 } else { BULK };
    elapsed.as_nanos() as f64 / freed as f64
}

/// Nanoseconds per frame that one thread allocates and another frees, in parcels of 256.
pub fn cross_free<S: Subject>(subject: &S, frames: usize) -> f64 {
    const PARCEL: usize = 256;
    let (send, receive) = mpsc::sync_channel::<Vec<u64>>(8);
    let (send, receive) = (std::sync::Mutex::new(Some(send)), std::sync::Mutex::new(receive));
    let elapsed = timed(
        2,
        |_| (),
        |cpu, ()| {
            if cpu == 0 {
                let Some(send) = send.lock().ok().and_then(|mut send| send.take()) else { return };
                for _ in 0..frames / PARCEL {
                    let mut parcel = Vec::with_capacity(PARCEL);
                    take(subject, cpu, Order::FRAME, PARCEL, &mut parcel);
                    assert_eq!(parcel.len(), PARCEL, "{}: exhausted across CPUs", S::NAME);
                    if send.send(parcel).is_err() {
                        return;
                    }
                }
            } else if let Ok(receive) = receive.lock() {
                for parcel in receive.iter() {
                    parcel.into_iter().for_each(|frame| subject.free(cpu, frame, Order::FRAME));
                }
            }
        },
        |_, ()| (),
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
        |cpu| {
            let mut held = Vec::with_capacity(share);
            take(subject, cpu, Order::FRAME, share, &mut held);
            assert_eq!(held.len(), share, "{}: exhausted while filling", S::NAME);
            held
        },
        |cpu, held| {
            let mut random = Random::new(7 + cpu as u64);
            for _ in 0..4 * held.len() {
                let index = random.below(held.len());
                subject.free(cpu, held[index], Order::FRAME);
                if let Some(frame) = subject.alloc(cpu, Order::FRAME) {
                    held[index] = frame;
                }
            }
        },
        |_, _| (),
    );
    (0..cpus).for_each(|cpu| subject.drain(cpu));
    let left = std::iter::from_fn(|| subject.alloc(0, Order::HUGE)).count();
    100.0 * left as f64 / ((FRAMES - share * cpus) / 512) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects::{Bitmap, Buddy, Topomem};

    /// The measured operations are the same work for every subject: all frames come back.
    fn returns_what_it_took<S: Subject>() {
        let subject = S::new(4096, 2);
        assert!(pairs(&subject, 2, Order::FRAME, 32, 4) > 0.0);
        assert!(pairs(&subject, 1, Order::HUGE, 2, 4) > 0.0);
        assert!(cross_free(&subject, 1024) > 0.0);
        (0..2).for_each(|cpu| subject.drain(cpu));
        assert_eq!(std::iter::from_fn(|| subject.alloc(0, Order::HUGE)).count(), 8, "{}", S::NAME);
    }

    #[test]
    fn every_subject_does_the_same_work() {
        returns_what_it_took::<Topomem>();
        returns_what_it_took::<Bitmap>();
        returns_what_it_took::<Buddy>();
    }
}
