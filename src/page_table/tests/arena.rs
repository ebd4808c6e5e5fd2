//! Host memory in the role of RAM, with an allocator that can be told to fail.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::vec::Vec;

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, PhysFrame};

use super::super::{Chain, Changed, Level, SharesFull, TableAccess, TableMemory, Walks};
use super::foreign;
use crate::retire::Retired;

#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "read through the direct map")] UnsafeCell<[u64; 512]>);

// SAFETY: the page tables under test access it as atomics.
unsafe impl Sync for Page {}

pub(super) struct Arena {
    pages: Box<[Page]>,
    aux: Box<[AtomicU32]>,
    free: Mutex<Vec<u64>>,
    walks: Walks,
    /// How many more allocations succeed.
    budget: AtomicU64,
    /// First frames of 2 MiB that were allocated in frames, and are one leaf's.
    joined: Mutex<BTreeSet<u64>>,
    /// How many 4 KiB leaves hold each frame that was shared.
    holders: Mutex<BTreeMap<u64, u64>>,
    /// The most holders that a frame may have.
    most_holders: AtomicU64,
}

/// No frame is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Empty;

impl Arena {
    /// Frames 1 to `frames`.
    pub(super) fn new(frames: u64) -> Arena {
        Arena {
            pages: (0..=frames).map(|_| Page(UnsafeCell::new([0; 512]))).collect(),
            aux: (0..=frames).map(|_| AtomicU32::new(0)).collect(),
            free: Mutex::new((1..=frames).collect()),
            walks: Walks::new(),
            budget: AtomicU64::new(u64::MAX),
            joined: Mutex::new(BTreeSet::new()),
            holders: Mutex::new(BTreeMap::new()),
            most_holders: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn allocated(&self) -> usize {
        self.pages.len() - 1 - self.free.lock().unwrap().len()
    }

    /// Lets `allocations` more succeed.
    pub(super) fn fail_after(&self, allocations: u64) {
        self.budget.store(allocations, Ordering::Relaxed);
    }

    /// What the CPU of `pin` needs to change page tables.
    pub(super) fn by<'a>(&'a self, pin: &'a CpuPin) -> TableAccess<'a, Arena> {
        TableAccess { memory: self, walks: &self.walks, pin }
    }

    /// Lets a frame have at most `holders`.
    pub(super) fn most_holders(&self, holders: u64) {
        self.most_holders.store(holders, Ordering::Relaxed);
    }

    /// How many leaves hold the frame that was shared; `None` where it never was, or is free.
    pub(super) fn holders(&self, frame: u64) -> Option<u64> {
        self.holders.lock().unwrap().get(&frame).copied()
    }

    pub(super) fn free_chain(&self, pin: &CpuPin, mut chain: Chain) {
        // What the service does after the shootdown.
        while !chain.is_empty() && !self.walks.wait_for_others(pin, std::thread::yield_now) {}
        while let Some(frame) = chain.pop(self) {
            // SAFETY: the test's only user of the frame is done with it.
            unsafe { self.free(pin, frame) };
        }
    }

    /// Takes the frames `first..first + count` one by one, if all are free.
    pub(super) fn allocate_at(&self, first: u64, count: u64) -> bool {
        let mut free = self.free.lock().unwrap();
        let wanted = |frame: &u64| (first..first + count).contains(frame);
        let all = free.iter().filter(|frame| wanted(frame)).count() as u64 == count;
        if all {
            free.retain(|frame| !wanted(frame));
        }
        all
    }

    pub(super) fn free_changed(&self, pin: &CpuPin, changed: Changed) {
        let Retired { tables, frames, mut runs, mut shares } = changed.retired;
        let mut spent = Chain::EMPTY;
        while let Some((first, level)) = shares.take(self, &mut spent) {
            if let Some((frame, level)) = self.drop_share(first, level) {
                assert_eq!(level, Level::PAGE);
                // SAFETY: as in `free_chain`.
                unsafe { self.free(pin, frame) };
            }
        }
        self.free_chain(pin, spent);
        self.free_chain(pin, tables);
        self.free_chain(pin, frames);
        while let Some(first) = runs.pop(self) {
            assert!(self.joined.lock().unwrap().remove(&number(first)), "no run was allocated");
            for frame in 0..512 {
                // SAFETY: as in `free_chain`.
                unsafe { self.free(pin, first + frame) };
            }
        }
    }
}

fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / 4096
}

// SAFETY: a frame is in the free list or handed out once; the pages live as long as the arena.
unsafe impl TableMemory for Arena {
    type Error = Empty;

    fn allocate(&self, _: &CpuPin) -> Result<PhysFrame, Empty> {
        let budget = self.budget.load(Ordering::Relaxed);
        if budget == 0 {
            return Err(Empty);
        }
        if budget != u64::MAX {
            self.budget.store(budget - 1, Ordering::Relaxed);
        }
        let frame = foreign(self.free.lock().unwrap().pop().ok_or(Empty)?);
        // SAFETY: nobody else has the frame.
        unsafe { self.direct_map(frame).cast::<[u64; 512]>().write([0; 512]) };
        assert_eq!(self.aux(frame).load(Ordering::Relaxed), 0, "freed with a link");
        Ok(frame)
    }

    unsafe fn free(&self, _: &CpuPin, frame: PhysFrame) {
        let mut free = self.free.lock().unwrap();
        assert!(!free.contains(&number(frame)), "double free");
        self.aux(frame).store(0, Ordering::Relaxed);
        free.push(number(frame));
    }

    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        NonNull::from(&self.pages[number(frame) as usize]).cast()
    }

    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &self.aux[number(frame) as usize]
    }

    fn link(&self, frame: PhysFrame) -> u32 {
        number(frame) as u32
    }

    fn frame_of(&self, link: u32) -> PhysFrame {
        foreign(u64::from(link))
    }

    fn split_run(&self, first: PhysFrame) {
        assert!(self.joined.lock().unwrap().remove(&number(first)), "no run was allocated");
    }

    fn join_run(&self, first: PhysFrame) {
        assert!(self.joined.lock().unwrap().insert(number(first)), "joined twice");
    }

    /// Only 4 KiB leaves are shared in this arena.
    fn share(&self, first: PhysFrame, level: Level) -> Result<(), SharesFull> {
        assert_eq!(level, Level::PAGE);
        let mut holders = self.holders.lock().unwrap();
        let holders = holders.entry(number(first)).or_insert(1);
        if *holders >= self.most_holders.load(Ordering::Relaxed) {
            return Err(SharesFull);
        }
        *holders += 1;
        Ok(())
    }

    fn drop_share(&self, first: PhysFrame, level: Level) -> Option<(PhysFrame, Level)> {
        let mut all = self.holders.lock().unwrap();
        let holders = all.get_mut(&number(first)).unwrap();
        *holders -= 1;
        if *holders > 0 {
            return None;
        }
        all.remove(&number(first));
        Some((first, level))
    }

    fn is_sole_holder(&self, first: PhysFrame, _: Level) -> bool {
        self.holders(number(first)).is_none_or(|holders| holders == 1)
    }

    fn split_shared(&self, _: PhysFrame) {
        unreachable!("only 4 KiB leaves are shared");
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}
