//! Free frames that the CPU keeps in its magazine: freed frames, and the rest of a block broken up for a run.

use topomem_percpu::{CpuPin, Order, Platform};

use crate::frames::magazine::Magazine;
use crate::frames::magazine::entry::Entry;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::held_words::{BlockHome, is_of_words, mask_of};
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::bitmap::{BITS, WORDS, ones};
use crate::frames::region::free::FreeRejection;
use crate::frames::region::word::Word;
use crate::frames::types::FrameNumber;

impl<P: Platform> Ready<'_, P> {
    /// Holds the rest of the block after a run of whole words was allocated on the shared path, if
    /// all of the rest is free, as after a block was broken up for the run. So CPUs do not share
    /// blocks while there are whole blocks.
    ///
    /// Bound: two claims of words of the block.
    pub(in crate::frames) fn keep_rest_of_block(self, pin: &CpuPin, number: FrameNumber, order: Order) {
        let Some(region) = self.state.region_of(number) else { return };
        let Some(guard) = self.frames.magazines.get(pin.cpu()).and_then(Magazine::enter) else { return };
        let (block, start) = (region.block_of(number), number.bit_in_block());
        let (line, count) = (region.line(block), order.frames() as usize);
        let own = mask_of(order) << number.word().index_in_block();
        let home = BlockHome { first: region.first_frame(block), line, state: region.entry(block) };
        // A near word would take a frame held here, too.
        let is_near = |word: usize| guard.has_near((home.first.word() + word as u64).first_frame().frame());
        let is_free = |word: usize| own >> word & 1 != 0 || (line.load(word) == u64::MAX && !is_near(word));
        let place = guard.whole_words_of(home.first).filter(|place| place.is_empty());
        let Some(place) = place.filter(|_| {
            (0..WORDS).all(is_free)
                && home.state.load().is_inner_bitmap()
                && !home.state.load().is_owned()
                && self.may_keep_words(&guard, region, home.first)
        }) else {
            return;
        };
        let transit = guard.transit(region);
        let mut claimed = 0;
        for (from, to) in [(0, start), (start + count, BITS)] {
            let whole = |from: usize, to: usize| ones((to / 64) as u32) & !ones((from / 64) as u32);
            if from < to && region.tentative(block, |line| line.claim_run(from, to - from)).is_ok() {
                claimed |= whole(from, to);
            }
        }
        let mut kept = 0;
        for word in (0..WORDS).filter(|word| claimed >> word & 1 != 0) {
            if !self.withhold_retired_word(region, block, word, u64::MAX) {
                kept |= 1 << word;
            }
        }
        if kept == 0 {
            return if claimed == 0 { transit.cancel() } else { drop(transit) };
        }
        let frames = guard.refilled_words(place, home, kept);
        self.state.account(&guard, region, -(frames as i64));
        drop(transit);
    }

    /// Returns true if words of the block that begins at `first` may stay with this CPU: memory is
    /// not scarce.
    fn may_keep_words(self, guard: &MagazineGuard, region: &Region, first: FrameNumber) -> bool {
        let zone = self.state.zone_of(region);
        guard.is_near(region)
            && !guard.is_checked()
            && zone.free() >= zone.watermarks.low as i64
            && !guard.wants_attention()
            && !self.frames.waiters.any()
            && !region.retired.touch_block_of(first)
    }

    /// Keeps a freed run below order 9 in the magazine. Returns false if it is to go to the bitmap,
    /// which also finds the errors of the free.
    pub(in crate::frames) fn keep_run(
        self,
        guard: &MagazineGuard,
        region: &'static Region,
        number: FrameNumber,
        order: Order,
    ) -> Result<bool, FreeRejection> {
        if is_of_words(order) {
            let may = self.may_gather(guard, region, number);
            return Ok(may && self.keep_words(guard, region, number, order));
        }
        let mask = ones(order.frames() as u32) << number.bit_in_word();
        self.keep_bits(guard, region, Word { key: number.word(), mask })
    }

    /// Keeps freed frames of one word in the magazine. Returns false if they are to go to the
    /// bitmap, which also finds the errors of the free.
    pub(in crate::frames) fn keep_bits(
        self,
        guard: &MagazineGuard,
        region: &'static Region,
        word: Word,
    ) -> Result<bool, FreeRejection> {
        let number = word.first();
        // The run then goes to the bitmap, whose path also finds the errors of the free.
        if !self.may_gather(guard, region, number)
            || guard.has_near(number.frame())
            || !guard.freed_before(word.key)
        {
            return Ok(false);
        }
        self.gather_in_word(guard, region, word)
    }

    /// Returns true if freed frames that begin at `number` may stay with this CPU.
    fn may_gather(self, guard: &MagazineGuard, region: &Region, number: FrameNumber) -> bool {
        guard.is_near(region) && !self.frames.waiters.any() && !region.retired.touch_block_of(number)
    }

    fn keep_words(self, guard: &MagazineGuard, region: &Region, number: FrameNumber, order: Order) -> bool {
        let first = number.block().first_frame();
        let keys = number.word().up_to((number + order.frames()).word());
        let Some(place) = guard.whole_words_of(first) else { return false };
        // If the place is the block's, a frame of the run is held already: the bitmap's path finds the double free. A
        // near word of the block would take a frame held here, too.
        if place.is_of(first)
            || keys.clone().any(|key| guard.has_near(key.first_frame().frame()))
            || !self.may_keep_words(guard, region, first)
        {
            return false;
        }
        let is_inner = region.check_small(number, order.frames()).is_ok_and(|block| !block.is_edge());
        let block = region.block_of(number);
        let line = region.line(block);
        if !is_inner || { keys }.any(|key| line.load(key.index_in_block()) != 0) {
            return false;
        }
        self.flush_words(guard, place);
        let mask = mask_of(order) << number.word().index_in_block();
        guard.hold_words(place, BlockHome { first, line, state: region.entry(block) }, mask);
        true
    }

    /// Frees frames of one word, not yet in the magazine, into a separate word there. Returns false
    /// if they must go directly to the bitmap.
    #[inline(never)]
    pub(in crate::frames) fn gather_in_word(
        self,
        guard: &MagazineGuard,
        region: &'static Region,
        word: Word,
    ) -> Result<bool, FreeRejection> {
        let number = word.first();
        let block = region.check_small(number, word.frames())?;
        // An edge block's reserved frames would look allocated to the magazine.
        if block.is_edge() {
            return Ok(false);
        }
        let index = region.block_of(number);
        let at = word.key.index_in_block();
        let free = region.line(index).load(at) & word.mask;
        if free != 0 {
            return Err(FreeRejection::DoubleFree(Word { key: word.key, mask: free }.first()));
        }
        let home = region.home_of(index, at);
        let evict = |entry: &Entry| self.flush(guard, entry);
        if guard.is_near(region) {
            guard.hold(word, home, evict);
        } else {
            guard.hold_away(word, home, evict);
        }
        Ok(true)
    }
}
