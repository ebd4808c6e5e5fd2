//! Frames chained through their words of the per-frame table: a list without allocation, whose
//! members' contents are never touched.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use x86_64::structures::paging::PhysFrame;

use super::memory::TableMemory;

/// A stack of frames; each one's aux word links to the next.
///
/// It owns its frames without freeing them: who drops a chain that is not empty leaks them.
#[derive(Debug, Default)]
#[must_use = "a dropped chain leaks its frames"]
pub struct Chain {
    head: u32,
    tail: u32,
    frames: u64,
}

impl Chain {
    /// The chain without frames.
    pub const EMPTY: Chain = Chain { head: 0, tail: 0, frames: 0 };

    /// How many frames it has.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.frames
    }

    /// Has it none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Puts `frame` in front. The caller gives up the frame's aux word.
    pub fn push<M: TableMemory + ?Sized>(&mut self, memory: &M, frame: PhysFrame) {
        let link = memory.link(frame);
        // Relaxed here and below: a chain has one owner at a time, and goes from one to the
        // next through a lock or a Release store of its own.
        memory.aux(frame).store(self.head, Ordering::Relaxed);
        if self.frames == 0 {
            self.tail = link;
        }
        self.head = link;
        self.frames += 1;
    }

    /// Takes the frame in front, its aux word zero again.
    pub fn pop<M: TableMemory + ?Sized>(&mut self, memory: &M) -> Option<PhysFrame> {
        if self.frames == 0 {
            return None;
        }
        let frame = memory.frame_of(self.head);
        self.head = memory.aux(frame).swap(0, Ordering::Relaxed);
        self.frames -= 1;
        Some(frame)
    }

    /// Puts all of `other` in front, in constant time.
    pub fn append<M: TableMemory + ?Sized>(&mut self, memory: &M, other: Chain) {
        if other.frames == 0 {
            return;
        }
        memory.aux(memory.frame_of(other.tail)).store(self.head, Ordering::Relaxed);
        if self.frames == 0 {
            self.tail = other.tail;
        }
        self.head = other.head;
        self.frames += other.frames;
    }
}

/// Tables allocated ahead of a change, so that nothing fails once the change has begun.
///
/// What is left goes back to the allocator on drop.
#[derive(Debug)]
pub(crate) struct Reserve<'a, M: TableMemory> {
    memory: &'a M,
    pin: &'a CpuPin,
    tables: Chain,
}

impl<'a, M: TableMemory> Reserve<'a, M> {
    pub const fn new(memory: &'a M, pin: &'a CpuPin) -> Reserve<'a, M> {
        Reserve { memory, pin, tables: Chain::EMPTY }
    }

    pub const fn len(&self) -> u64 {
        self.tables.len()
    }

    /// Allocates until there are `tables`.
    pub fn fill_to(&mut self, tables: u64) -> Result<(), M::Error> {
        while self.tables.len() < tables {
            let frame = self.memory.allocate(self.pin)?;
            self.tables.push(self.memory, frame);
        }
        Ok(())
    }

    pub fn take(&mut self) -> Option<PhysFrame> {
        self.tables.pop(self.memory)
    }

    /// Takes back a table that was never linked.
    pub fn put_back(&mut self, table: PhysFrame) {
        self.tables.push(self.memory, table);
    }
}

impl<M: TableMemory> Drop for Reserve<'_, M> {
    fn drop(&mut self) {
        while let Some(table) = self.tables.pop(self.memory) {
            // SAFETY: it came from `allocate` and was never linked into a page table.
            unsafe { self.memory.free(self.pin, table) };
        }
    }
}
