//! An ordinary program: threads, collections, locks, output. It knows of no kernel.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What each thread counts to.
const COUNT: u64 = 2_000;

fn main() {
    let threads: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    println!("{} threads", threads);
    println!("sum {}", sum(threads));
    println!("words {}", words());
    println!("in turn {}", in_turn(threads));
    println!("slept {}", slept());
    println!("deep {}", deep(1000));
}

/// Threads that add to one number, and send what each has added.
fn sum(threads: u64) -> u64 {
    let total = Arc::new(Mutex::new(0));
    let start = Arc::new(Barrier::new(threads as usize));
    let (sender, parts) = mpsc::channel();
    let handles: Vec<_> = (0..threads)
        .map(|number| {
            let (total, start, sender) = (Arc::clone(&total), Arc::clone(&start), sender.clone());
            thread::spawn(move || {
                start.wait();
                let mut part = 0;
                for value in (number..COUNT * threads).step_by(threads as usize) {
                    part += value;
                    *total.lock().unwrap_or_else(|error| error.into_inner()) += value;
                }
                let _ = sender.send(part);
            })
        })
        .collect();
    drop(sender);
    let parts: u64 = parts.iter().sum();
    for handle in handles {
        if handle.join().is_err() {
            return 0;
        }
    }
    let total = *total.lock().unwrap_or_else(|error| error.into_inner());
    if parts == total { total } else { 0 }
}

/// Collections that grow, and the heap below them.
fn words() -> usize {
    let mut lengths = HashMap::new();
    let mut texts = BTreeMap::new();
    for number in 0..5_000_u32 {
        let text = format!("{number:x}");
        *lengths.entry(text.len()).or_insert(0) += 1;
        texts.insert(text, vec![number; number as usize % 50]);
    }
    let large: Vec<u64> = (0..200_000).collect();
    texts.values().map(Vec::len).sum::<usize>() + lengths.values().sum::<usize>() + large.len()
}

/// Threads that wait for each other's turns.
fn in_turn(threads: u64) -> u64 {
    let turn = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let handles: Vec<_> = (0..threads)
        .map(|number| {
            let turn = Arc::clone(&turn);
            thread::spawn(move || {
                let (turn, changed) = &*turn;
                for round in 0..10 {
                    let mine = round * threads + number;
                    let mut now = turn.lock().unwrap_or_else(|error| error.into_inner());
                    while *now != mine {
                        now = changed.wait(now).unwrap_or_else(|error| error.into_inner());
                    }
                    *now += 1;
                    changed.notify_all();
                }
            })
        })
        .collect();
    handles.into_iter().for_each(|handle| drop(handle.join()));
    *turn.0.lock().unwrap_or_else(|error| error.into_inner())
}

/// Was a sleep as long as it should be?
fn slept() -> bool {
    let start = Instant::now();
    thread::sleep(Duration::from_millis(20));
    start.elapsed() >= Duration::from_millis(20)
}

/// A deep recursion, for the stack.
fn deep(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 32]);
    if depth == 0 { 0 } else { deep(depth - 1) + room[7] / depth }
}
