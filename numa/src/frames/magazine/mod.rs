//! A CPU's magazine: frames that the CPU can allocate and free without other CPUs.
//!
//! Based on Bonwick and Adams, "Magazines and Vmem" (USENIX 2001), but a magazine here is no list
//! of addresses: it is a small direct-mapped set of bitmap words. A refill takes a whole word, up
//! to 64 frames, in one swap. Frames freed in any order gather in their words, and are flushed up
//! to 64 at a time in one compare-and-swap. A hit finds or sets a bit: no lock, no atomic
//! read-modify-write. A frame freed twice is detected at once if it is free in this magazine or in
//! its bitmap.
//!
//! Only the owning CPU writes, in one context at a time (the gate); other CPUs read. So every field
//! is an atomic, loaded and stored Relaxed: on common machines plain moves. The owner's operations
//! are in [`guard`].

mod block_filter;
mod direct;
pub(super) mod entry;
pub(super) mod guard;
pub(super) mod held_words;
pub(super) mod huge_slots;
pub(super) mod table;

use core::ptr;

use topomem_percpu::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence,
};
use topomem_percpu::{CpuId, NodeId, Order, PhysFrame};

use crate::frames::node::turns::Turns;
use crate::frames::node::zeroed_pool::Place;
use crate::frames::region::BLOCK;
use crate::frames::region::bitmap::ones;
use crate::frames::region::marks::{give_run, take_run_back};
use crate::frames::region::transit::{Transits, Watch};
use crate::frames::types::{Zeroing, Zone};
use block_filter::BlockFilter;
use direct::Direct;
use entry::{Entry, Give, Word, barred, closed};
use guard::MagazineGuard;
use held_words::{HeldWords, WORD_ORDER, words_of};
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
const RUN_ORDERS: usize = 8;
/// The maximum difference between a CPU's count of a zone and the shared count.
pub(crate) const UNREPORTED: i64 = 256;

/// A counter with one writer.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    /// Creates a counter (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Returns the frames from `first` in parts of one word each.
fn by_word(first: PhysFrame, count: u32) -> impl Iterator<Item = (PhysFrame, u32)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = count.checked_sub(done).filter(|&left| left > 0)?;
        let start = first + u64::from(done);
        let in_word = 64 - (start.start_address().as_u64() >> 12) as u32 % 64;
        let part = left.min(in_word);
        done += part;
        Some((start, part))
    })
}

/// Returns true if the near entry, found at the gate, belongs to a magazine that may be used
/// quickly.
#[inline]
pub(super) fn is_open(current: &Entry) -> bool {
    !ptr::eq(current, closed()) && !ptr::eq(current, barred())
}

/// Whether frees and allocations are checked against a mark per frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    No,
    EveryUse,
}

/// One CPU's magazine, on that CPU's node. Aligned against prefetch of line pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Magazine {
    /// The gate: the near entry used by allocations and frees; [`closed`] while a context uses the
    /// magazine, and [`barred`] in paranoid mode.
    current: AtomicPtr<Entry>,
    /// Single frames taken out.
    pub(crate) taken: Count,
    pub(crate) node: NodeId,
    /// Another CPU requested a drain.
    attention: AtomicBool,
    /// Near entries in use, a power of two.
    pub(super) size: AtomicU32,
    /// In paranoid mode, the near entry used last. Set before the gate first opens.
    last: AtomicPtr<Entry>,
    /// In paranoid mode, `last` again, or [`closed`] where freed frames are cleared first.
    given_to: AtomicPtr<Entry>,
    direct: Direct,
    /// The blocks of the near words and of the whole words.
    blocks: BlockFilter,
    pub(super) near: [Entry; NEAR],
    /// The words of the last frames freed directly into a bitmap, by the low bits of their numbers.
    pub(super) missed: [Count; MISSED],
    /// Frees directly into a bitmap.
    pub(crate) straight: Count,
    /// Unreported changes of its node's zones, as two's complement.
    pub(super) unreported: [Count; Zone::COUNT],
    /// The CPU's contexts in transit while they use the magazine: by zone of its own node, and
    /// those moving frames of other nodes or within the magazine.
    pub(super) transits: [Transits; Zone::COUNT + 1],
    /// The near entry of the last run taken.
    near_run: AtomicU32,
    // Here, in room that was free: what frees use is on two lines.
    pub(crate) cpu: CpuId,
    pub(super) away: [Entry; AWAY],
    /// The away entry that is replaced next.
    pub(super) next_away: AtomicU16,
    /// Calls of `trim` since the last review.
    pub(super) round: AtomicU16,
    /// Refills and evictions since the last review of the size.
    pub(super) window: [AtomicU16; 2],
    pub(super) huge: HugeSlots,
    /// Whole words, by block.
    pub(super) held: HeldWords,
    /// Runs taken out, by order from 1 on.
    runs: [Count; RUN_ORDERS],
    /// The owned block: its first frame + 1; 0 for none.
    pub(super) block: AtomicU64,
    pub(crate) misses: Count,
    pub(crate) refills: Count,
    pub(crate) flushes: Count,
    /// Frames that came with refills, less those that left with flushes.
    pub(super) net_moved: Count,
    /// Whole blocks taken out.
    pub(crate) huge_taken: Count,
    /// Written by nested contexts, so it may lose counts, but is never corrupted.
    pub(crate) nested: Count,
    /// As `nested`, like the three below: runs not counted elsewhere.
    pub(crate) local: Count,
    pub(crate) remote: Count,
    /// Frames taken from the node's pool of zeroed frames, and requests that found the pool empty.
    pub(crate) zeroed_hits: Count,
    pub(crate) zeroed_misses: Count,
    /// Frames freed twice, detected only when their word was flushed.
    pub(crate) late_doubles: Count,
    /// The position in its node's pool of zeroed frames.
    pub(super) zeroed_place: Place,
    /// `taken` at the last review for shrinking.
    pub(super) taken_at_trim: Count,
    /// As `taken_at_trim`, of runs of whole words.
    pub(super) runs_at_trim: Count,
    /// The CPU's turns in interleaving.
    pub(super) turns: Turns,
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
            given_to: AtomicPtr::new(ptr::from_ref(closed()).cast_mut()),
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
            zeroed_place: Place::new($cpu.index()),
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

    /// Opens the magazine to its CPU.
    pub(super) fn open(&'static self, checked: Checked, zeroing: Zeroing) {
        self.remember(&self.near[0]);
        if zeroing == Zeroing::OnRequest {
            self.given_to.store(ptr::from_ref(&self.near[0]).cast_mut(), Ordering::Relaxed);
        }
        let entry = if checked == Checked::EveryUse { barred() } else { &self.near[0] };
        self.current.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
    }

    /// Passes the current entry to `act`: an entry without frames and without word if the magazine
    /// is in use, or may not be used quickly. The caller is pinned to the magazine's CPU.
    #[inline]
    pub(crate) fn with_current<R>(&self, act: impl FnOnce(&Entry, &Magazine) -> R) -> R {
        // Only contexts of this CPU get here, nested in each other, so plain accesses suffice. A
        // handler that ran between the two has finished; a later handler finds the gate closed.
        let current = self.current.load(Ordering::Relaxed);
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: only `'static` entries are ever stored.
        let result = act(unsafe { &*current }, self);
        compiler_fence(Ordering::SeqCst);
        self.current.store(current, Ordering::Relaxed);
        result
    }

    /// Passes the last used near entry to `act`, in paranoid mode. Returns `None` in another mode,
    /// or if the magazine is in use, or to be drained. The caller is pinned to the magazine's CPU.
    #[inline(always)]
    pub(super) fn with_checked<R>(&self, act: impl FnOnce(&Entry, &Magazine) -> R) -> Option<R> {
        // As in `with_current`.
        let resting = self.current.load(Ordering::Relaxed);
        if !ptr::eq(resting, barred()) || self.wants_attention() {
            return None;
        }
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: set before the gate first opened, and to `'static` entries only.
        let result = act(unsafe { &*self.last.load(Ordering::Relaxed) }, self);
        compiler_fence(Ordering::SeqCst);
        self.current.store(resting, Ordering::Relaxed);
        Some(result)
    }

    /// Takes out a run of `order` (1 to 5), marked as handed out, in paranoid mode. Returns its
    /// physical address. The caller has exclusive use of the magazine.
    ///
    /// Bound: a check of each near entry; mostly, of one.
    #[inline(always)]
    pub(super) fn take_marked_run(&self, order: Order) -> Option<u64> {
        let run = self.take_run(order)?;
        self.near_place(run >> 18).mark_at(run).into_iter().for_each(|mark| give_run(mark, order));
        Some(run)
    }

    /// Frees a run of `order` (1 to 5) marked as handed out, if the magazine has the word, in
    /// paranoid mode. The caller has exclusive use of the magazine.
    #[inline(always)]
    pub(super) fn give_marked_run(&self, first: PhysFrame, order: Order) -> Give {
        let address = first.start_address().as_u64();
        if address & (order.bytes() - 1) != 0 {
            return Give::Elsewhere;
        }
        let (entry, count) = (self.near_place(address >> 18), order.frames() as u32);
        match entry.mark_at(address) {
            Some(mark) if entry.has_room_for(first, count) && take_run_back(mark, order) => {
                entry.add_run(first, count)
            }
            _ => Give::Elsewhere,
        }
    }

    /// Returns the count of runs of `order` (1 to 8) taken out.
    #[inline]
    fn runs_of(&self, order: Order) -> &Count {
        &self.runs[(order.get() as usize).wrapping_sub(1) % RUN_ORDERS]
    }

    /// Takes out a run of `order` (1 to 5). Returns its physical address. The caller has exclusive
    /// use of the magazine.
    ///
    /// Bound: a check of each near entry; mostly, of one.
    #[inline(always)]
    pub(super) fn take_run(&self, order: Order) -> Option<u64> {
        let first = &self.near[self.near_run.load(Ordering::Relaxed) as usize % NEAR];
        first.take_run(order, self.runs_of(order)).or_else(|| self.take_run_elsewhere(order))
    }

    #[inline(never)]
    fn take_run_elsewhere(&self, order: Order) -> Option<u64> {
        let near = self.near.iter().zip(0..self.size.load(Ordering::Relaxed));
        near.into_iter().find_map(|(entry, index)| {
            let run = entry.take_run(order, self.runs_of(order))?;
            self.near_run.store(index, Ordering::Relaxed);
            Some(run)
        })
    }

    /// Takes out a run of `order` (6 to 8), as [`Magazine::take_run`] does.
    #[inline(always)]
    pub(super) fn take_words(&self, order: Order) -> Option<u64> {
        self.held.take(order, self.runs_of(order))
    }

    /// Frees a run of `count` frames of one word, if the magazine has the word. The caller has
    /// exclusive use of the magazine.
    #[inline(always)]
    pub(super) fn give_run(&self, first: PhysFrame, count: u32) -> Give {
        self.near_place(first.start_address().as_u64() >> 18).add_run(first, count)
    }

    /// Frees a run of `count` frames of any words, if the magazine has all of the words and no
    /// drain is requested. The caller has exclusive use of the magazine.
    #[inline]
    pub(super) fn give_frames(&self, first: PhysFrame, count: u32) -> Give {
        let near = |part: PhysFrame| self.near_place(part.start_address().as_u64() >> 18);
        // A request to drain is handled on the longer path.
        if self.wants_attention()
            || !by_word(first, count).all(|(part, count)| near(part).has_room_for(part, count))
        {
            return Give::Elsewhere;
        }
        for (part, count) in by_word(first, count) {
            near(part).add_run(part, count);
        }
        Give::Taken
    }

    /// Frees a run of `order` (6 to 8), if the magazine has the block. The caller has exclusive use
    /// of the magazine.
    #[inline(always)]
    pub(super) fn give_words(&self, frame: PhysFrame, order: Order) -> Give {
        let key = frame.start_address().as_u64() >> 18;
        // A near word would take a frame held among whole words, too.
        let mut word = 0;
        while word < words_of(order) as u64 {
            if self.near_place(key + word).has_key(key + word) {
                return Give::Elsewhere;
            }
            word += 1;
        }
        self.held.add(frame, order)
    }

    /// Returns the place of a near word.
    #[inline]
    pub(super) fn near_place(&self, key: u64) -> &Entry {
        &self.near[key as usize & (self.size.load(Ordering::Relaxed) as usize - 1) & (NEAR - 1)]
    }

    /// Returns true if another frame of this word bypassed the magazine recently, and records this
    /// one.
    #[inline]
    pub(crate) fn freed_before(&self, key: u64) -> bool {
        let missed = &self.missed[key as usize % MISSED];
        let before = missed.get();
        missed.set(key);
        before == key
    }

    /// Counts frames gained or lost by its node's `zone`. Returns the sum if it is to be reported
    /// now.
    #[inline]
    pub(crate) fn account(&self, zone: Zone, frames: i64) -> Option<i64> {
        let count = &self.unreported[zone.index()];
        let sum = count.get() as i64 + frames;
        if sum.abs() < UNREPORTED {
            count.set(sum as u64);
            return None;
        }
        count.set(0);
        Some(sum)
    }

    /// Returns the entry at the gate. The caller is pinned to the magazine's CPU.
    #[inline(always)]
    pub(super) fn resting(&self) -> &'static Entry {
        let resting = self.current.load(Ordering::Relaxed);
        // SAFETY: only `'static` entries are ever stored.
        unsafe {
            core::hint::assert_unchecked(!resting.is_null());
            &*resting
        }
    }

    /// Begins a use of a magazine that rests at an entry of its own. The caller is pinned to the
    /// magazine's CPU, and ends the use by [`Magazine::leave`].
    #[inline(always)]
    pub(super) fn begin(&self) {
        // As in `with_current`.
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Frees a frame marked as handed out, if it is of the word used last, in paranoid mode, where
    /// the gate is [`barred`]. Returns false, with nothing changed, if the frame is of another word,
    /// or is to be cleared first, or is refused, or if a drain is requested. The caller is pinned to
    /// the magazine's CPU.
    #[inline(always)]
    pub(super) fn give_checked(&self, frame: PhysFrame) -> bool {
        if self.wants_attention() {
            return false;
        }
        self.begin();
        // SAFETY: only `'static` entries are ever stored.
        let given = unsafe { &*self.given_to.load(Ordering::Relaxed) }.add_marked(frame);
        self.leave(barred());
        given == Give::Taken
    }

    /// Enters the magazine, unless an interrupted context of this CPU uses it. The caller is pinned
    /// to its CPU.
    pub(crate) fn enter(&'static self) -> Option<MagazineGuard> {
        let resting = self.current.load(Ordering::Relaxed);
        if ptr::eq(resting, closed()) {
            return None;
        }
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: only `'static` entries are ever stored.
        Some(MagazineGuard::new(self, unsafe { &*resting }))
    }

    /// Returns the last used entry in paranoid mode, in which the gate does not tell it.
    pub(super) fn last(&'static self) -> &'static Entry {
        // SAFETY: set before the gate first opened, and to `'static` entries only.
        unsafe { &*self.last.load(Ordering::Relaxed) }
    }

    /// Stores the entry for [`Magazine::last`].
    pub(super) fn remember(&self, entry: &'static Entry) {
        self.last.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
        if !ptr::eq(self.given_to.load(Ordering::Relaxed), closed()) {
            self.given_to.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
        }
    }

    /// Ends a use.
    #[inline]
    pub(super) fn leave(&self, resting: &'static Entry) {
        compiler_fence(Ordering::SeqCst);
        self.current.store(ptr::from_ref(resting).cast_mut(), Ordering::Relaxed);
    }

    /// Asks the owner to drain.
    pub(crate) fn request_drain(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Returns true if a drain is requested. Acquire pairs with the Release in `request_drain`: a
    /// context that sees the request sees the waiter.
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Clears the request to drain.
    pub(super) fn forget_request(&self) {
        // Acquire pairs with the Release in `request_drain`: writes before any request handled here
        // are seen from here on.
        self.attention.swap(false, Ordering::Acquire);
    }

    /// Returns every word with held frames; an estimate while the CPU continues to use the
    /// magazine.
    pub(crate) fn words(&self) -> impl Iterator<Item = Word> {
        self.near.iter().chain(&self.away).filter_map(Entry::read).chain(self.held.words())
    }

    /// Returns the first frames of the held whole blocks; an estimate like `words`.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.huge.iter()
    }

    /// Returns a held frame among the `count` frames from `first` on.
    pub(crate) fn holds_of(&self, first: u64, count: u64) -> Option<u64> {
        let keys = first / 64..=(first + count.saturating_sub(1)) / 64;
        self.words().filter(|word| keys.contains(&word.key)).find_map(|word| {
            let base = word.key * 64;
            let below = |end: u64| ones(end.saturating_sub(base).min(64) as u32);
            let held = word.mask & below(first + count) & !below(first);
            (held != 0).then(|| base + u64::from(held.trailing_zeros()))
        })
    }

    /// Returns true if the frame numbered `number` is held in a word. For a context of its CPU that
    /// has interrupted no use of the magazine.
    #[inline]
    pub(super) fn holds(&self, number: u64) -> bool {
        let key = number / 64;
        let near = self.near_place(key);
        let holds = |entry: &Entry| {
            entry.read().is_some_and(|word| word.key == key && word.mask >> (number % 64) & 1 != 0)
        };
        holds(near) || self.away.iter().any(holds) || self.held.has(key)
    }

    /// Returns the number of held frames.
    pub(crate) fn cached(&self) -> u64 {
        let whole = self.blocks().count() as u64 * BLOCK;
        self.words().map(Word::frames).sum::<u64>() + whole
    }

    /// Returns true if a context of its CPU is using the magazine. For a context of that CPU: true
    /// if it interrupted such a use.
    pub(crate) fn is_busy(&self) -> bool {
        ptr::eq(self.current.load(Ordering::Relaxed), closed())
    }

    /// Returns true if a context of its CPU is in transit with frames of any zone.
    pub(crate) fn is_moving(&self) -> bool {
        self.transits.iter().any(|transits| transits.load().under_way())
    }

    /// Adds to a reading the counts of frames moved in `zone` and the zones below, and of frames
    /// taken out. For another node's CPU, adds only the counts of frames of any node.
    pub(super) fn watch(&self, watch: &mut Watch, zone: Option<Zone>) {
        let (others, own) = (&self.transits[Zone::COUNT], &self.transits[..Zone::COUNT]);
        watch.add(others.load());
        if let Some(zone) = zone {
            own.iter().take(zone.index() + 1).for_each(|transits| watch.add(transits.load()));
            watch.add_taken(self.taken.get().wrapping_add(self.huge_taken.get()));
            watch.add_taken(self.runs_taken());
        }
    }

    /// Returns the number of runs of orders 1 to 8 taken out.
    pub(crate) fn runs_taken(&self) -> u64 {
        self.runs.iter().map(Count::get).sum()
    }

    /// Returns the number of runs of whole words taken out.
    pub(super) fn runs_of_words_taken(&self) -> u64 {
        self.runs.iter().skip(WORD_ORDER as usize - 1).map(Count::get).sum()
    }

    /// Returns the number of frames taken out of near words, alone or in runs.
    pub(super) fn frames_taken(&self) -> u64 {
        let runs = self.runs.iter().zip(1..).take(WORD_ORDER as usize - 1);
        self.taken.get() + runs.map(|(count, order)| count.get() << order).sum::<u64>()
    }

    /// Returns the number of frames freed into the magazine, alone or in runs below order 9: the
    /// frames taken out and held, less the frames brought by refills.
    pub(crate) fn frees(&self) -> u64 {
        let held: u64 = self.words().map(Word::frames).sum();
        let runs = self.runs.iter().zip(1..).map(|(count, order)| count.get() << order);
        let frees = (self.taken.get() + runs.sum::<u64>() + held).wrapping_sub(self.net_moved.get()) as i64;
        // A momentary disagreement between the parts must not show.
        frees.max(0) as u64
    }

    /// Returns the first frame of the owned block.
    pub(crate) fn block(&self) -> Option<u64> {
        self.block.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Returns the unreported change of its node's zone.
    pub(crate) fn unreported(&self, zone: Zone) -> i64 {
        self.unreported[zone.index()].get() as i64
    }
}
