use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::vec::Vec;

use super::*;

/// Pools live for ever, where Miri finds them.
static KEPT: Mutex<Vec<&'static [Set]>> = Mutex::new(Vec::new());

fn pool(target: u64) -> ZeroedPool {
    let sets: Vec<Set> = (0..ZeroedPool::sets_for(target)).map(|_| Set::new()).collect();
    let sets: &'static [Set] = Box::leak(sets.into_boxed_slice());
    if let Ok(mut kept) = KEPT.lock() {
        kept.push(sets);
    }
    ZeroedPool::new(sets, target)
}

fn push(pool: &ZeroedPool, number: u64) -> Pushed {
    pool.push(FrameNumber::new(number))
}

/// Takes a frame, as a CPU with no frame taken so far does.
fn pop(pool: &ZeroedPool, cpu: usize) -> Option<u64> {
    pool.pop(&PoolCursor::new(cpu)).map(FrameNumber::get)
}

fn held(pool: &ZeroedPool, word: u64) -> u64 {
    pool.held(WordNumber::new(word))
}

/// Takes all, but no more than there can be.
fn all(pool: &ZeroedPool) -> Vec<u64> {
    std::iter::from_fn(|| pop(pool, 0)).take(4096).collect()
}

#[test]
fn what_goes_in_comes_out_once() {
    let pool = pool(256);
    assert_eq!(pop(&pool, 0), None);
    let frames: BTreeSet<u64> = (0..256).map(|at| 1 << 40 | at).collect();
    assert!(frames.iter().all(|&frame| push(&pool, frame) == Pushed::Kept));
    assert_eq!((pool.count(), pool.stats().hits), (256, 0));
    let out = all(&pool);
    assert_eq!(out.len(), 256);
    assert_eq!(out.into_iter().collect::<BTreeSet<_>>(), frames);
    assert_eq!((pool.count(), pool.stats().hits), (0, 256));
}

#[test]
fn frame_0_and_the_last_ones_are_frames() {
    let pool = pool(64);
    let last = (1 << 40) - 1;
    for frame in [0, 15, 16, last] {
        assert_eq!(push(&pool, frame), Pushed::Kept);
        assert_eq!(pop(&pool, 3), Some(frame));
    }
    assert_eq!(pool.count(), 0);
}

#[test]
fn it_says_what_it_holds_of_a_word() {
    let pool = pool(256);
    assert_eq!(held(&pool, 7), 0);
    for frame in [7 * 64, 7 * 64 + 17, 7 * 64 + 63, 8 * 64 + 1] {
        push(&pool, frame);
    }
    assert_eq!(held(&pool, 7), 1 | 1 << 17 | 1 << 63);
    assert_eq!(held(&pool, 8), 2);
    assert_eq!(held(&pool, 9), 0);
    assert_eq!(push(&pool, 7 * 64 + 17), Pushed::Twice);
    assert_eq!(pool.count(), 4);
}

#[test]
fn scattered_frames_fill_slots_and_then_it_is_full() {
    let pool = pool(32);
    assert_eq!(ZeroedPool::sets_for(32), 1);
    for group in 0..8 {
        assert_eq!(push(&pool, group * 1024), Pushed::Kept);
    }
    assert_eq!(push(&pool, 8 * 1024), Pushed::Full);
    // Of a group that has a slot there is room for more.
    assert_eq!(push(&pool, 1), Pushed::Kept);
    assert_eq!(pool.count(), 9);
    let mut home = Vec::new();
    pool.empty(|word| home.push((word.key.get(), word.mask)));
    assert_eq!(home.len(), 8);
    assert!(home.contains(&(0, 3)));
    assert_eq!((pool.count(), pool.stats().hits), (0, 0));
}

#[test]
fn a_pool_without_places_takes_nothing() {
    let pool = pool(0);
    assert_eq!(push(&pool, 1), Pushed::Full);
    assert_eq!((pop(&pool, 1), held(&pool, 0), pool.count()), (None, 0, 0));
    pool.empty(|_| panic!("there is nothing"));
}

/// A context nested between any two operations of another finds a complete pool.
#[test]
fn nested_uses_meet_no_half_done_one() {
    let pool = pool(64);
    (0..8).for_each(|frame| _ = push(&pool, frame));
    let mut seen = BTreeSet::new();
    pool.empty(|word| {
        seen.extend((0..64).filter(|bit| word.mask & 1 << bit != 0).map(|bit| word.key.get() * 64 + bit));
        assert_eq!(push(&pool, 100), Pushed::Kept);
        assert_eq!(pop(&pool, 0), Some(100));
    });
    assert_eq!(seen, (0..8).collect());
}

#[test]
fn stillness_is_judged_by_moves() {
    let pool = pool(64);
    let watch = || {
        let mut watch = Watch::default();
        pool.watch(&mut watch);
        watch
    };
    let before = watch();
    assert!(watch().is_calm_since(before));
    let moving = pool.moving();
    assert!(!watch().is_calm_since(before));
    assert!(!watch().is_calm_since(watch()));
    drop(moving);
    assert!(!watch().is_calm_since(before));
    assert!(watch().is_calm_since(watch()));
}

#[test]
fn threads_neither_lose_nor_double_frames() {
    let (threads, each, rounds) = if cfg!(miri) { (2, 8, 12) } else { (4, 64, 20_000) };
    let pool = pool(256);
    let held: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || {
                    // Interleaved, so that threads share groups.
                    let mut held: Vec<u64> = (0..each).map(|at| at * threads + thread).collect();
                    for round in 0..rounds {
                        if round % 3 != 0 {
                            if let Some(frame) = held.pop() {
                                match push(pool, frame) {
                                    Pushed::Kept => {}
                                    Pushed::Full => held.push(frame),
                                    Pushed::Twice => panic!("{frame} is here twice"),
                                }
                            }
                        } else if let Some(frame) = pop(pool, (thread + round) as usize) {
                            held.push(frame);
                        }
                    }
                    held
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mut frames = [held, all(&pool)].concat();
    frames.sort_unstable();
    assert_eq!(frames, (0..threads * each).collect::<Vec<_>>());
}
