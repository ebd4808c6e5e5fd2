//! A CPU's magazine: frames for the CPU to allocate and free without other CPUs.
//!
//! Based on Bonwick and Adams, "Magazines and Vmem" (USENIX 2001), but a magazine here is no list
//! of addresses, but a small direct-mapped set of bitmap words. A refill takes a whole word, up
//! to 64 frames, in one swap. Frames freed in any order gather in words, and are flushed up
//! to 64 at a time in one compare-and-swap. A hit finds or sets a bit: no lock, no atomic
//! read-modify-write. A frame freed twice is detected at once if the frame is free in the magazine or in
//! the bitmap.
//!
//! Only the owning CPU writes, in one context at a time (the gate); other CPUs read. Every field
//! is an atomic, loaded and stored Relaxed: on common machines plain moves. The owner's operations
//! are in [`gate`], [`runs`] and [`guard`]; the reads of any CPU in [`contents`].

mod block_filter;
mod contents;
mod count;
mod counters;
pub(super) mod direct;
pub(super) mod entry;
mod gate;
pub(super) mod guard;
pub(super) mod held_words;
mod huge_slots;
mod runs;
pub(super) mod table;

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64};
use topomem_percpu::{CpuId, NodeId};

use crate::frames::node::turns::Turns;
use crate::frames::node::zeroed_pool::PoolCursor;
use crate::frames::region::transit::Transits;
use crate::frames::types::Zone;
use block_filter::BlockFilter;
use count::Count;
use direct::Direct;
use entry::{Entry, closed};
use held_words::HeldWords;
use huge_slots::HugeSlots;

/// The maximum number of words of the CPU's own node, by the low bits of the word's number.
pub(crate) const NEAR: usize = 16;
/// Words of other nodes or scarce zones, to be flushed.
pub(crate) const AWAY: usize = 4;
/// The initial and the minimum number of near words.
pub(crate) const LEAST_NEAR: u32 = 4;
/// Words whose misses are remembered.
pub(super) const MISSED: usize = 4;
/// Orders of runs from a magazine: 1 to 8.
pub(super) const RUN_ORDERS: usize = 8;

/// Whether frees and allocations are checked against a mark per frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    No,
    EveryUse,
}

/// A CPU's magazine, on the CPU's node. Aligned against prefetch of line pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Magazine {
    /// The gate: the near entry used by allocations and frees; [`closed`] while a context uses the
    /// magazine, and [`entry::barred`] in paranoid mode.
    current: AtomicPtr<Entry>,
    /// Single frames taken out.
    taken: Count,
    pub(crate) node: NodeId,
    /// Another CPU requested a drain.
    attention: AtomicBool,
    /// Near entries in use, a power of two.
    size: AtomicU32,
    /// In paranoid mode, the near entry used last. Set before the gate first opens.
    last: AtomicPtr<Entry>,
    /// In paranoid mode, `last` again, or [`closed`] where freed frames are cleared first.
    insert_at: AtomicPtr<Entry>,
    direct: Direct,
    /// The blocks of the near words and of the whole words.
    blocks: BlockFilter,
    near: [Entry; NEAR],
    /// The words of the last frames freed directly into a bitmap, by the low bits of the words' numbers.
    missed: [Count; MISSED],
    /// Frees directly into a bitmap.
    straight: Count,
    /// Unreported changes of the zones of the magazine's node, as two's complement.
    unreported: [Count; Zone::COUNT],
    /// The CPU's contexts in transit during uses of the magazine: by zone of the CPU's own node, and
    /// contexts moving frames of other nodes or within the magazine.
    transits: [Transits; Zone::COUNT + 1],
    /// The near entry of the last run taken.
    near_run: AtomicU32,
    // Here, in room that was free: what frees use is on two lines.
    pub(crate) cpu: CpuId,
    away: [Entry; AWAY],
    /// The away entry to be replaced next.
    next_away: AtomicU16,
    /// Calls of `trim` since the last review.
    round: AtomicU16,
    /// Refills and evictions since the last review of the size.
    window: [AtomicU16; 2],
    huge: HugeSlots,
    /// Whole words, by block.
    held: HeldWords,
    /// Runs taken out, by order from 1 on.
    runs: [Count; RUN_ORDERS],
    /// The owned block: the number of the first frame + 1; 0 for none.
    block: AtomicU64,
    misses: Count,
    refills: Count,
    flushes: Count,
    /// Frames gained by refills, less frames lost by flushes.
    net_moved: Count,
    /// Whole blocks taken out.
    huge_taken: Count,
    /// Written by nested contexts: may lose counts, but is never corrupted.
    nested: Count,
    /// As `nested`, like the three below: runs not counted elsewhere.
    local: Count,
    remote: Count,
    /// Frames taken from the node's pool of zeroed frames, and requests with the pool empty.
    zeroed_hits: Count,
    zeroed_misses: Count,
    /// Frames freed twice, detected only by the flush of the word.
    late_doubles: Count,
    /// The CPU's position in the node's pool of zeroed frames.
    zeroed_place: PoolCursor,
    /// `taken` at the last review for shrinking.
    taken_at_trim: Count,
    /// As `taken_at_trim`, of runs of whole words.
    runs_at_trim: Count,
    /// The CPU's turns in interleaving.
    turns: Turns,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Magazine>() <= 2048, "at most 2 KiB per CPU");

#[cfg(not(loom))]
macro_rules! each {
    ($value:expr; $count:expr) => {
        [const { $value }; $count]
    };
}

#[cfg(loom)]
macro_rules! each {
    ($value:expr; $count:expr) => {
        core::array::from_fn(|_| $value)
    };
}

macro_rules! shut {
    ($cpu:expr, $node:expr, $slots:expr) => {
        Magazine {
            current: AtomicPtr::new(ptr::from_ref(closed()).cast_mut()),
            taken: Count::new(),
            cpu: $cpu,
            node: $node,
            attention: AtomicBool::new(false),
            size: AtomicU32::new(LEAST_NEAR),
            last: AtomicPtr::new(ptr::null_mut()),
            insert_at: AtomicPtr::new(ptr::from_ref(closed()).cast_mut()),
            direct: Direct::new(),
            blocks: BlockFilter::new(),
            near: each!(Entry::new(); NEAR),
            near_run: AtomicU32::new(0),
            away: each!(Entry::new(); AWAY),
            next_away: AtomicU16::new(0),
            round: AtomicU16::new(0),
            window: each!(AtomicU16::new(0); 2),
            missed: each!(Count::new(); MISSED),
            huge: HugeSlots::new($slots),
            held: HeldWords::new($slots),
            runs: each!(Count::new(); RUN_ORDERS),
            block: AtomicU64::new(0),
            unreported: each!(Count::new(); Zone::COUNT),
            misses: Count::new(),
            refills: Count::new(),
            flushes: Count::new(),
            net_moved: Count::new(),
            huge_taken: Count::new(),
            straight: Count::new(),
            nested: Count::new(),
            local: Count::new(),
            remote: Count::new(),
            zeroed_hits: Count::new(),
            zeroed_misses: Count::new(),
            late_doubles: Count::new(),
            transits: each!(Transits::new(); Zone::COUNT + 1),
            zeroed_place: PoolCursor::new($cpu.index()),
            taken_at_trim: Count::new(),
            runs_at_trim: Count::new(),
            turns: Turns::new(),
        }
    };
}

impl Magazine {
    /// Creates a closed magazine, with room for `slots` whole blocks, and for words of as many.
    #[cfg(not(loom))]
    pub(super) const fn new(cpu: CpuId, node: NodeId, slots: usize) -> Magazine {
        shut!(cpu, node, slots)
    }

    /// Creates a closed magazine (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new(cpu: CpuId, node: NodeId, slots: usize) -> Magazine {
        shut!(cpu, node, slots)
    }
}
