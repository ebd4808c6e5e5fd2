//! Frames chained through their words of the per-frame table: a list without allocation, which
//! never touches its members' contents. Consecutive frames count as a single member.

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysAddr, PhysFrame};

use crate::page_table::tables::memory::TableMemory;

/// In a link: the run beginning there has several frames, and the second frame's aux word holds
/// their number.
const SEVERAL: u32 = 1 << 31;

fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / 4096
}

fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

/// A bag of frames, kept as runs of consecutive frames. The newest run lies in the chain itself;
/// the rest are linked through the aux words of their first frames. A range mapped to a single run
/// costs no access to the per-frame table.
///
/// The chain owns its frames without freeing them: dropping a chain with frames leaks them.
#[derive(Debug, Default)]
#[must_use = "a dropped chain leaks its frames"]
pub struct Chain {
    /// The newest run: its first frame's number and its length. Frames get links only when chained:
    /// consecutive frames are recognised by their numbers.
    first: u64,
    count: u32,
    /// Links to the newest and the oldest of the remaining runs; 0 if none.
    head: u32,
    tail: u32,
    /// Number of frames in all. Links number all frames of a machine in 31 bits.
    frames: u32,
}

impl Chain {
    /// The empty chain.
    pub const EMPTY: Chain = Chain { first: 0, count: 0, head: 0, tail: 0, frames: 0 };

    /// Returns the number of frames.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.frames as u64
    }

    /// Returns whether the chain has no frames.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds `frame`, whose aux word is zero and given up by the caller.
    #[inline]
    pub fn push<M: TableMemory + ?Sized>(&mut self, memory: &M, frame: PhysFrame) {
        let number = number(frame);
        self.frames += 1;
        if self.count > 0 && number == self.first + u64::from(self.count) {
            self.count += 1;
        } else if self.count > 0 && number + 1 == self.first {
            self.first = number;
            self.count += 1;
        } else {
            self.close(memory);
            (self.first, self.count) = (number, 1);
        }
    }

    /// Takes a frame out, with its aux word zero again.
    #[inline]
    pub fn pop<M: TableMemory + ?Sized>(&mut self, memory: &M) -> Option<PhysFrame> {
        self.open(memory)?;
        let frame = frame(self.first);
        self.first += 1;
        self.count -= 1;
        self.frames -= 1;
        Some(frame)
    }

    /// Takes a run out: its first frame and its length.
    #[inline]
    pub fn pop_run<M: TableMemory + ?Sized>(&mut self, memory: &M) -> Option<(PhysFrame, u64)> {
        self.open(memory)?;
        let (first, count) = (frame(self.first), self.count);
        self.count = 0;
        self.frames -= count;
        Some((first, u64::from(count)))
    }

    /// Takes at most `limit` frames of a run out, at least one.
    pub(crate) fn pop_part<M: TableMemory + ?Sized>(
        &mut self,
        memory: &M,
        limit: u64,
    ) -> Option<(PhysFrame, u64)> {
        self.open(memory)?;
        let first = frame(self.first);
        let count = u64::from(self.count).min(limit.max(1));
        // Not more than `self.count`.
        self.first += count;
        self.count -= count as u32;
        self.frames -= count as u32;
        Some((first, count))
    }

    /// Takes over all of `other`, in constant time.
    #[inline]
    pub fn append<M: TableMemory + ?Sized>(&mut self, memory: &M, other: Chain) {
        if self.is_empty() {
            *self = other;
        } else if !other.is_empty() {
            self.join(memory, other);
        }
    }

    fn join<M: TableMemory + ?Sized>(&mut self, memory: &M, mut other: Chain) {
        other.close(memory);
        // Relaxed, here and below: a chain has a single owner at a time, and passes from owner to
        // owner through a lock or a Release store of its own.
        memory.aux(memory.frame_of(other.tail & !SEVERAL)).store(self.head, Ordering::Relaxed);
        if self.head == 0 {
            self.tail = other.tail;
        }
        self.head = other.head;
        self.frames += other.frames;
    }

    /// Links the newest run to the rest.
    #[inline]
    fn close<M: TableMemory + ?Sized>(&mut self, memory: &M) {
        if self.count == 0 {
            return;
        }
        memory.aux(frame(self.first)).store(self.head, Ordering::Relaxed);
        let mut link = memory.link(frame(self.first));
        if self.count > 1 {
            memory.aux(frame(self.first + 1)).store(self.count, Ordering::Relaxed);
            link |= SEVERAL;
        }
        if self.head == 0 {
            self.tail = link;
        }
        self.head = link;
        self.count = 0;
    }

    /// Ensures the newest run has frames; returns `None` if the chain is empty.
    #[inline]
    fn open<M: TableMemory + ?Sized>(&mut self, memory: &M) -> Option<()> {
        if self.count == 0 {
            if self.head == 0 {
                return None;
            }
            self.unlink(memory);
        }
        Some(())
    }

    /// Takes the newest of the linked runs out, with its aux words zero again.
    #[inline]
    fn unlink<M: TableMemory + ?Sized>(&mut self, memory: &M) {
        let link = self.head;
        self.first = number(memory.frame_of(link & !SEVERAL));
        self.head = memory.aux(frame(self.first)).swap(0, Ordering::Relaxed);
        self.count = 1;
        if link & SEVERAL != 0 {
            self.count = memory.aux(frame(self.first + 1)).swap(0, Ordering::Relaxed);
        }
    }
}

/// Tables allocated before a change, so nothing can fail after the change has begun.
///
/// The remaining tables return to the allocator on drop.
#[derive(Debug)]
pub(crate) struct Reserve<'a, M: TableMemory> {
    memory: &'a M,
    pin: &'a CpuPin,
    tables: Chain,
    /// Number of tables requested last.
    wanted: u64,
}

impl<'a, M: TableMemory> Reserve<'a, M> {
    #[inline]
    pub(crate) const fn new(memory: &'a M, pin: &'a CpuPin) -> Reserve<'a, M> {
        Reserve { memory, pin, tables: Chain::EMPTY, wanted: 0 }
    }

    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        self.tables.len()
    }

    /// Allocates until the reserve has `tables` tables.
    pub(crate) fn fill_to(&mut self, tables: u64) -> Result<(), M::Error> {
        self.wanted = tables;
        self.refill()
    }

    /// Continues a failed [`Reserve::fill_to`].
    pub(crate) fn refill(&mut self) -> Result<(), M::Error> {
        while self.tables.len() < self.wanted {
            let frame = self.memory.allocate(self.pin)?;
            self.tables.push(self.memory, frame);
        }
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Option<PhysFrame> {
        self.tables.pop(self.memory)
    }

    #[cold]
    fn give_back(&mut self) {
        while let Some(table) = self.tables.pop(self.memory) {
            // SAFETY: the table came from `allocate` and was never linked into a page table.
            unsafe { self.memory.free(self.pin, table) };
        }
    }

    /// Returns a never linked table to the reserve.
    pub(crate) fn put_back(&mut self, table: PhysFrame) {
        self.tables.push(self.memory, table);
    }
}

impl<M: TableMemory> Drop for Reserve<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if !self.tables.is_empty() {
            self.give_back();
        }
    }
}
