//! Frames whose every use as a table must come between their allocation and their free.

use core::ptr::NonNull;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, PhysFrame};

use super::super::tables::table::Table;
use super::super::{Chain, ENTRIES, Level, RawEntry, SharesFull, TableAccess, TableMemory, Walks};
use super::{frame, number};

/// What an entry of a freed frame says: a leaf that nobody maps.
const POISON: RawEntry = RawEntry(0xdead_d001);

struct Frame {
    table: Table,
    aux: AtomicU32,
    /// Written by the allocator, which zeroes it, and by the free, read by each use: loom finds
    /// a use that isn't ordered between them.
    used: UnsafeCell<()>,
}

pub(super) struct Arena {
    frames: Box<[Frame]>,
    walks: Walks,
    /// Those never handed out. Not loom's mutex, here and below: frames do not come back, so it
    /// orders nothing.
    fresh: Mutex<Vec<u64>>,
    freed: Mutex<Vec<u64>>,
    /// How many further holders the first frames have that pages are mapped to.
    holders: [AtomicU32; 4],
    /// A word in each of these.
    words: [AtomicU64; 4],
    /// Unlinked tables that some CPU may walk through.
    unlinked: Mutex<Vec<PhysFrame>>,
}

// SAFETY: loom checks the accesses to `used`, which is what the models are for.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

/// No frame is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Empty;

impl Arena {
    /// Frames 1 to `frames`.
    pub(super) fn new(frames: u64) -> Arena {
        let frame = |_| Frame { table: Table::new(), aux: AtomicU32::new(0), used: UnsafeCell::new(()) };
        Arena {
            frames: (0..=frames).map(frame).collect(),
            walks: Walks::new(),
            fresh: Mutex::new((1..=frames).collect()),
            freed: Mutex::new(Vec::new()),
            holders: core::array::from_fn(|_| AtomicU32::new(0)),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            unlinked: Mutex::new(Vec::new()),
        }
    }

    /// How many frames are handed out.
    pub(super) fn allocated(&self) -> usize {
        self.frames.len() - 1 - self.fresh.lock().unwrap().len() - self.freed.lock().unwrap().len()
    }

    /// What the CPU of `pin` needs to change page tables.
    pub(super) fn by<'a>(&'a self, pin: &'a CpuPin) -> TableAccess<'a, Arena> {
        TableAccess { memory: self, walks: &self.walks, pin }
    }

    /// Frees unlinked tables, once no cursor walks through them.
    pub(super) fn retire(&self, pin: &CpuPin, mut chain: Chain) {
        if chain.is_empty() {
            return;
        }
        if self.walks.wait_for_others(pin, loom::thread::yield_now) {
            return self.free_chain(pin, chain);
        }
        while let Some(frame) = chain.pop(self) {
            self.unlinked.lock().unwrap().push(frame);
        }
    }

    /// Frees what [`Arena::retire`] has kept. Nobody walks any more.
    pub(super) fn free_unlinked(&self, pin: &CpuPin) {
        for frame in self.unlinked.lock().unwrap().drain(..) {
            // SAFETY: the model's other threads have ended.
            unsafe { self.free(pin, frame) };
        }
    }

    pub(super) fn free_chain(&self, pin: &CpuPin, mut chain: Chain) {
        while let Some(frame) = chain.pop(self) {
            // SAFETY: the model checks that nobody uses it.
            unsafe { self.free(pin, frame) };
        }
    }

    /// Nobody has written to a frame since it was freed.
    pub(super) fn check_freed(&self) {
        for &number in self.freed.lock().unwrap().iter() {
            let Frame { table, aux, .. } = self.frame(frame(number));
            assert!(
                (0..ENTRIES).all(|index| table.load(index) == POISON),
                "somebody wrote into a freed table"
            );
            assert_eq!(aux.load(Ordering::Relaxed), 0, "freed with a link");
        }
    }

    /// The frame numbered `number` of those that pages are mapped to has `holders` holders beyond the first.
    pub(super) fn share_with(&self, number: u64, holders: u32) {
        self.holders[number as usize].store(holders, Ordering::Relaxed);
    }

    /// The word that programs write to in a frame that pages are mapped to.
    pub(super) fn word(&self, frame: PhysFrame) -> &AtomicU64 {
        &self.words[(number(frame) - super::BASE) as usize]
    }

    /// Copies the word of such a frame to another.
    pub(super) fn copy(&self, from: PhysFrame, to: PhysFrame) {
        let word = self.word(from).load(Ordering::Relaxed);
        self.word(to).store(word, Ordering::Relaxed);
    }

    fn holders_of(&self, frame: PhysFrame) -> &AtomicU32 {
        &self.holders[(number(frame) - super::BASE) as usize]
    }

    /// The table in a frame, as the hardware sees it.
    pub(super) fn table(&self, frame: PhysFrame) -> &Table {
        &self.frame(frame).table
    }

    fn frame(&self, frame: PhysFrame) -> &Frame {
        &self.frames[number(frame) as usize]
    }
}

// SAFETY: a frame is handed out once; the tables live as long as the arena.
unsafe impl TableMemory for Arena {
    type Error = Empty;

    fn allocate(&self, _: &CpuPin) -> Result<PhysFrame, Empty> {
        let frame = frame(self.fresh.lock().unwrap().pop().ok_or(Empty)?);
        self.frame(frame).used.with_mut(|_| ());
        Ok(frame)
    }

    unsafe fn free(&self, _: &CpuPin, frame: PhysFrame) {
        let Frame { table, used, .. } = self.frame(frame);
        used.with_mut(|_| ());
        (0..ENTRIES).for_each(|index| table.store(index, POISON));
        self.freed.lock().unwrap().push(number(frame));
    }

    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        let frame = self.frame(frame);
        frame.used.with(|_| ());
        NonNull::from(&frame.table).cast()
    }

    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &self.frame(frame).aux
    }

    fn link(&self, frame: PhysFrame) -> u32 {
        number(frame) as u32
    }

    fn frame_of(&self, link: u32) -> PhysFrame {
        frame(u64::from(link))
    }

    fn split_run(&self, _: PhysFrame) {}

    fn join_run(&self, _: PhysFrame) {}

    // The counts of large pages have a model of their own.

    fn share(&self, frame: PhysFrame, _: Level) -> Result<(), SharesFull> {
        // Relaxed, and Acquire below, as in the production code.
        self.holders_of(frame).fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn drop_share(&self, _: PhysFrame, _: Level) -> Option<(PhysFrame, Level)> {
        None
    }

    fn is_sole_holder(&self, frame: PhysFrame, _: Level) -> bool {
        self.holders_of(frame).load(Ordering::Acquire) == 0
    }

    fn split_shared(&self, _: PhysFrame) {}

    fn relax(&self) {
        loom::thread::yield_now();
    }
}
