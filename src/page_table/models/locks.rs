//! The reader-writer lock of a table.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use topomem_percpu::sync::atomic::AtomicU32;

use super::super::lock::{LockCounters, lock_exclusive, lock_shared, unlock_exclusive, unlock_shared};
use super::explore;

/// What a lock guards: loom finds accesses that it does not order.
struct Guarded {
    word: AtomicU32,
    counters: LockCounters,
    value: UnsafeCell<u32>,
}

// SAFETY: loom checks the accesses, which is what the models are for.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Guarded> {
        let (word, counters) = (AtomicU32::new(0), LockCounters::new());
        Arc::new(Guarded { word, counters, value: UnsafeCell::new(0) })
    }

    fn read(&self) -> u32 {
        lock_shared(&self.word, &self.counters, thread::yield_now);
        // SAFETY: loom checks that nobody writes meanwhile.
        let value = self.value.with(|value| unsafe { *value });
        unlock_shared(&self.word);
        value
    }

    fn add_one(&self) {
        lock_exclusive(&self.word, &self.counters, thread::yield_now);
        // SAFETY: loom checks that nobody else accesses it meanwhile.
        self.value.with_mut(|value| unsafe { *value += 1 });
        unlock_exclusive(&self.word);
    }
}

#[test]
fn writers_exclude_each_other() {
    explore(|| {
        let guarded = Guarded::new();
        let writer = {
            let guarded = guarded.clone();
            thread::spawn(move || guarded.add_one())
        };
        guarded.add_one();
        writer.join().unwrap();
        assert_eq!(guarded.read(), 2);
    });
}

/// Whoever of them waits gets its turn, and leaves the lock free for the next.
#[test]
fn a_writer_and_a_reader_take_turns() {
    explore(|| {
        let guarded = Guarded::new();
        let reader = {
            let guarded = guarded.clone();
            thread::spawn(move || [guarded.read(), guarded.read()])
        };
        guarded.add_one();
        guarded.add_one();
        let seen = reader.join().unwrap();
        assert!(seen[0] <= seen[1] && seen[1] <= 2);
        assert_eq!(guarded.read(), 2);
    });
}
