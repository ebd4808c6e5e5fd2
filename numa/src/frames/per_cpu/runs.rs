//! Runs of orders 1 to 8 from the CPU's magazine, like single frames.
//!
//! Runs of up to 32 frames are bits of the magazine's words, and come with the same refills from
//! the CPU's own block. Longer runs are whole words, held by block ([`crate::frames::magazine::held_words`]): freed
//! runs, and the rest of a block broken up for a run.

use topomem_percpu::{CpuPin, Order, PhysAddr, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::alloc::frame;
use crate::frames::free::is_near;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::entry::{Give, Word};
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::held_words::{BlockHome, HeldBlock, WORD_ORDER, mask_of};
use crate::frames::region::bitmap::{BITS, WORDS, ones};
use crate::frames::region::free::Refused;
use crate::frames::region::{BLOCK, Region};
use crate::frames::state::Machine;

/// Returns true if a run of `order` consists of whole words of a block.
#[inline]
pub(in crate::frames) fn is_of_words(order: Order) -> bool {
    (WORD_ORDER..Order::HUGE.get()).contains(&order.get())
}

impl<P: Platform> Frames<P> {
    /// Takes a run of orders 1 to 8 from the CPU's magazine.
    #[inline]
    pub(in crate::frames) fn take_run(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        let taken =
            if is_of_words(order) { self.take_words(pin, order) } else { self.take_short(pin, order) };
        // SAFETY: the magazine's words are of managed frames, the addresses of which are multiples of
        // 4096 below 2^52.
        taken.map(|address| unsafe { PhysFrame::from_start_address_unchecked(PhysAddr::new(address)) })
    }

    // Not inlined, since not all callers have a constant order.

    #[inline(never)]
    fn take_short(&self, pin: &CpuPin, order: Order) -> Option<u64> {
        let taken = self.rack.with_open(pin, |magazine| magazine.take_run(order)).flatten();
        taken.or_else(|| self.take_checked_run(pin, order))
    }

    #[inline(never)]
    fn take_words(&self, pin: &CpuPin, order: Order) -> Option<u64> {
        self.rack.with_open(pin, |magazine| magazine.take_words(order)).flatten()
    }

    /// Frees a run of orders 1 to 8 into the CPU's magazine, if it has a place for it.
    #[inline]
    pub(in crate::frames) fn give_run(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> bool {
        let given = if is_of_words(order) {
            self.give_words(pin, frame, order)
        } else {
            self.give_short(pin, frame, order)
        };
        given == Give::Taken
    }

    #[inline(never)]
    fn give_short(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Give {
        if frame.start_address().as_u64() & (order.bytes() - 1) != 0 {
            return Give::Elsewhere;
        }
        let count = order.frames() as u32;
        match self.rack.with_open(pin, |magazine| magazine.give_run(frame, count)) {
            Some(given) => given,
            None if self.give_checked_run(pin, frame, order) => Give::Taken,
            None => Give::Elsewhere,
        }
    }

    /// Frees consecutive frames, fewer than 512, into the CPU's magazine, if it has all of their
    /// words.
    #[inline]
    pub(in crate::frames) fn give_frames(&self, pin: &CpuPin, first: PhysFrame, count: u32) -> bool {
        self.rack.with_open(pin, |magazine| magazine.give_frames(first, count)) == Some(Give::Taken)
    }

    #[inline(never)]
    fn give_words(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Give {
        let given = self.rack.with_open(pin, |magazine| magazine.give_words(frame, order));
        given.unwrap_or(Give::Elsewhere)
    }

    /// Holds the rest of the block after a run of whole words was allocated on the shared path, if
    /// all of the rest is free, as after a block was broken up for the run. So CPUs do not share
    /// blocks while there are whole blocks.
    ///
    /// Bound: two claims of words of the block.
    pub(in crate::frames) fn hold_rest(&self, machine: &Machine, pin: &CpuPin, number: u64, order: Order) {
        let Some(region) = machine.region_of(number) else { return };
        let Some(entered) = self.rack.get(pin.cpu()).and_then(Magazine::enter) else { return };
        let (block, start) = (region.block_of(number), (number % BLOCK) as usize);
        let (line, count) = (region.line(block), order.frames() as usize);
        let own = mask_of(order) << (start / 64);
        let home = BlockHome { first: region.first_frame(block), line, state: region.entry(block) };
        // A near word would take a frame held here, too.
        let is_near = |word: usize| entered.has_near(frame(home.first + word as u64 * 64));
        let is_free = |word: usize| own >> word & 1 != 0 || (line.load(word) == u64::MAX && !is_near(word));
        let place = entered.held.place_of(home.first).filter(|place| place.is_empty());
        let Some(place) = place.filter(|_| {
            (0..WORDS).all(is_free)
                && home.state.load().is_inner_bitmap()
                && !home.state.load().is_owned()
                && self.may_keep_words(machine, &entered, region, home.first)
        }) else {
            return;
        };
        let transit = entered.transit(region);
        let mut claimed = 0;
        for (from, to) in [(0, start), (start + count, BITS)] {
            let whole = |from: usize, to: usize| ones((to / 64) as u32) & !ones((from / 64) as u32);
            if from < to && region.tentative(block, |line| line.claim_run(from, to - from)).is_ok() {
                claimed |= whole(from, to);
            }
        }
        let mut kept = 0;
        for word in (0..WORDS).filter(|word| claimed >> word & 1 != 0) {
            if !self.leave_home(machine, region, block, word, u64::MAX) {
                kept |= 1 << word;
            }
        }
        if kept == 0 {
            return if claimed == 0 { transit.cancel() } else { drop(transit) };
        }
        entered.hold_words(place, home, kept);
        let frames = u64::from(kept.count_ones()) * 64;
        self.account(machine, &entered, region, -(frames as i64));
        entered.net_moved.add(frames);
        drop(transit);
    }

    /// Returns true if words of the block that begins at `first` may stay with this CPU: memory is
    /// not scarce.
    fn may_keep_words(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &Region,
        first: u64,
    ) -> bool {
        let zone = machine.zone_of(region);
        is_near(entered, region)
            && !entered.is_checked()
            && zone.free() >= zone.watermarks.low as i64
            && !entered.wants_attention()
            && !self.waiters.any()
            && !region.retired.touch_block_of(first)
    }

    /// Keeps a freed run below order 9 in the magazine. Returns false if it is to go to the bitmap,
    /// which also finds the errors of the free.
    pub(in crate::frames) fn keep_run(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &'static Region,
        number: u64,
        order: Order,
    ) -> Result<bool, Refused> {
        if is_of_words(order) {
            let may = self.may_gather(entered, region, number);
            return Ok(may && self.keep_words(machine, entered, region, number, order));
        }
        let mask = ones(order.frames() as u32) << (number % 64);
        self.keep_bits(machine, entered, region, Word { key: number / 64, mask })
    }

    /// Keeps freed frames of one word in the magazine. Returns false if they are to go to the
    /// bitmap, which also finds the errors of the free.
    pub(in crate::frames) fn keep_bits(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &'static Region,
        word: Word,
    ) -> Result<bool, Refused> {
        let number = word.first();
        // Refused there; the bitmap finds the reason.
        if !self.may_gather(entered, region, number)
            || entered.has_near(frame(number))
            || !entered.freed_before(word.key)
        {
            return Ok(false);
        }
        self.gather(machine, entered, region, word)
    }

    /// Returns true if freed frames that begin at `number` may stay with this CPU.
    fn may_gather(&self, entered: &MagazineGuard, region: &Region, number: u64) -> bool {
        is_near(entered, region) && !self.waiters.any() && !region.retired.touch_block_of(number)
    }

    fn keep_words(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &Region,
        number: u64,
        order: Order,
    ) -> bool {
        let first = number - number % BLOCK;
        let keys = number / 64..(number + order.frames()) / 64;
        let Some(place) = entered.held.place_of(first) else { return false };
        // Refused there; or a near word would take a frame held here, too.
        if place.is_of(first)
            || keys.clone().any(|key| entered.has_near(frame(key * 64)))
            || !self.may_keep_words(machine, entered, region, first)
        {
            return false;
        }
        let is_inner = region.check_small(number, order.frames()).is_ok_and(|block| !block.is_edge());
        let block = region.block_of(number);
        let line = region.line(block);
        if !is_inner || keys.clone().any(|key| line.load(key as usize % WORDS) != 0) {
            return false;
        }
        self.flush_words(machine, entered, place);
        let mask = mask_of(order) << (keys.start % WORDS as u64);
        entered.hold_words(place, BlockHome { first, line, state: region.entry(block) }, mask);
        true
    }

    /// Flushes the frames of the word numbered `key` from the magazine's near and whole words.
    pub(in crate::frames) fn flush_key(&self, machine: &Machine, entered: &MagazineGuard, key: u64) {
        if let Some(entry) = entered.near_of(key) {
            return self.flush(machine, entered, entry);
        }
        if let Some(place) = entered.held.place_of(key * 64 / BLOCK * BLOCK).filter(|_| entered.held.has(key))
        {
            let word = Word { key, mask: u64::MAX };
            self.flush_word(machine, entered, word, || place.remove(word));
        }
    }

    /// Flushes the words in a place of the magazine, and empties it.
    pub(in crate::frames) fn flush_words(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        place: &HeldBlock,
    ) {
        while let Some(word) = place.top() {
            self.flush_word(machine, entered, word, || place.remove(word));
        }
        place.vacate();
    }
}
