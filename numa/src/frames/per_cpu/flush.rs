//! Flushes of the CPU's magazine to the bitmaps.

use topomem_percpu::{CpuPin, Platform};

use crate::frames::magazine::entry::Entry;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::held_words::HeldBlock;
use crate::frames::ready::Ready;
use crate::frames::region::word::Word;
use crate::frames::region::{BlockIndex, Region};
use crate::frames::types::{BLOCK, WordNumber, Zone};

/// The maximum number of attempts to flush a word, each without the frames found free.
const LATE_TRIES: u32 = 64;

impl<P: Platform> Ready<'_, P> {
    /// Returns this CPU's magazine, drained if requested. Returns `None` if the CPU has no
    /// magazine, or is using it.
    pub(in crate::frames) fn enter_magazine(self, pin: &CpuPin) -> Option<MagazineGuard> {
        let guard = self.frames.magazines.get(pin.cpu())?.enter()?;
        if guard.wants_attention() {
            self.flush_all(&guard);
        }
        Some(guard)
    }

    /// Flushes the frames of an entry of the magazine, and empties it.
    pub(super) fn flush(self, guard: &MagazineGuard, entry: &Entry) {
        match entry.read() {
            Some(word) => self.flush_word(guard, word, || entry.vacate()),
            None => entry.vacate(),
        }
    }

    /// Flushes a word of the magazine, taken out by `remove`.
    pub(super) fn flush_word(self, guard: &MagazineGuard, word: Word, remove: impl FnOnce()) {
        let Some(region) = self.state.region_of(word.first()) else { return remove() };
        let transit = guard.transit(region);
        remove();
        let block = region.block_of(word.key.first_frame());
        let at = word.key.index_in_block();
        // Frames already free in the bitmap or in the pool, or retired, were freed twice, there and
        // here. The second free is refused late, and changes nothing. The same holds for all frames
        // if the block has left the bitmap: it is whole, or a run.
        let mut bits =
            word.mask & !self.state.pooled(region, word.key) & !region.retired.complete_in_word(word.key);
        if !region.has_bitmap(word.key.first_frame()) {
            bits = 0;
        }
        for _ in 0..LATE_TRIES {
            if bits == 0 || region.free_word(block, at, bits).is_ok() {
                break;
            }
            bits &= !region.line(block).load(at);
        }
        self.state.account(guard, region, i64::from(bits.count_ones()));
        guard.flushed(word, (word.mask & !bits).count_ones());
        drop(transit);
        self.state.sweep(region);
        self.frames.waiters.note();
    }

    /// Flushes everything held by a magazine: frames, blocks, its own block, its counts.
    pub(in crate::frames) fn flush_all(self, guard: &MagazineGuard) {
        guard.empty(|entry| self.flush(guard, entry));
        guard.whole_words().for_each(|place| self.flush_words(guard, place));
        while let Some((region, block)) = guard.top_huge().and_then(|first| self.state.block_at(first)) {
            let transit = guard.transit(region);
            guard.drop_huge();
            region.release_blocks(block, 1);
            self.state.account(guard, region, BLOCK as i64);
            drop(transit);
            self.state.sweep(region);
            self.frames.waiters.note();
        }
        if let Some((region, block)) = guard.block().and_then(|first| self.state.block_at(first)) {
            self.disown_block(guard, region, block);
        }
        if let Some(node) = self.state.node(guard.node) {
            for zone in Zone::ALL {
                // Until the zone has the count, it may seem to be down to its reserve.
                let _transit = guard.transit_in(zone);
                node.zones[zone.index()].add(guard.report(zone));
            }
        }
    }

    /// Ends the magazine's ownership of its block.
    pub(super) fn disown_block(self, guard: &MagazineGuard, region: &Region, block: BlockIndex) {
        let transit = guard.transit(region);
        guard.set_block(None);
        region.disown(block);
        drop(transit);
        self.state.sweep(region);
        self.frames.waiters.note();
    }

    /// Drains this CPU's magazine. Returns true if it held anything.
    pub(in crate::frames) fn drain_own_magazine(self, pin: &CpuPin) -> bool {
        let Some(guard) = self.frames.magazines.get(pin.cpu()).and_then(|magazine| magazine.enter()) else {
            return false;
        };
        if guard.words().next().is_none() && guard.blocks().next().is_none() && guard.block().is_none() {
            return false;
        }
        self.flush_all(&guard);
        true
    }

    /// Flushes the frames of the word numbered `key` from the magazine's near and whole words.
    pub(in crate::frames) fn flush_key(self, guard: &MagazineGuard, key: WordNumber) {
        if let Some(entry) = guard.near_of(key) {
            return self.flush(guard, entry);
        }
        let first = key.block().first_frame();
        if let Some(place) = guard.whole_words_of(first).filter(|_| guard.holds_whole(key)) {
            let word = Word { key, mask: u64::MAX };
            self.flush_word(guard, word, || place.remove(word));
        }
    }

    /// Flushes the words in a place of the magazine, and empties it.
    pub(in crate::frames) fn flush_words(self, guard: &MagazineGuard, place: &HeldBlock) {
        while let Some(word) = place.top() {
            self.flush_word(guard, word, || place.remove(word));
        }
        place.vacate();
    }
}
