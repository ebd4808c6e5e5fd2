//! Runs of 2 MiB, linked through their first frames' words of the per-frame table.

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::Ordering;

use crate::page_table::tables::memory::TableMemory;

/// A bag of 2 MiB runs. The bag owns its runs without freeing them, as a
/// [`Chain`](super::chain::Chain) does, but takes less room: runs are few, and neighbours are not
/// joined.
#[derive(Debug)]
#[must_use = "a dropped bag leaks its runs"]
pub(crate) struct Runs {
    /// Links to the newest and the oldest run; 0 if none.
    head: u32,
    tail: u32,
    count: u32,
}

impl Runs {
    pub(crate) const EMPTY: Runs = Runs { head: 0, tail: 0, count: 0 };

    /// Returns the number of runs.
    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        self.count as u64
    }

    /// Adds the run from `first`, given up by the caller.
    pub(crate) fn push<M: TableMemory>(&mut self, memory: &M, first: PhysFrame) {
        // Relaxed, here and below: a bag has a single owner at a time, and passes from owner to
        // owner through a lock or a Release store of its own.
        memory.aux(first).store(self.head, Ordering::Relaxed);
        let link = memory.link(first);
        if self.head == 0 {
            self.tail = link;
        }
        self.head = link;
        self.count += 1;
    }

    /// Takes a run out, with its aux words zero again.
    pub(crate) fn pop<M: TableMemory>(&mut self, memory: &M) -> Option<PhysFrame> {
        if self.head == 0 {
            return None;
        }
        let first = memory.frame_of(self.head);
        self.head = memory.aux(first).swap(0, Ordering::Relaxed);
        self.count -= 1;
        Some(first)
    }

    /// Takes over all of `other`, in constant time.
    #[inline]
    pub(crate) fn append<M: TableMemory>(&mut self, memory: &M, other: Runs) {
        if self.count == 0 {
            *self = other;
        } else if other.count != 0 {
            memory.aux(memory.frame_of(other.tail)).store(self.head, Ordering::Relaxed);
            self.head = other.head;
            self.count += other.count;
        }
    }
}
