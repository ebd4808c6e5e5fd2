//! The frames held by a magazine, as any CPU reads the words.

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::Ordering;

use super::entry::Entry;
use super::held_words::HeldBlock;
use super::{Magazine, NEAR};
use crate::frames::node::turns::Turns;
use crate::frames::node::zeroed_pool::PoolCursor;
use crate::frames::region::transit::Watch;
use crate::frames::region::word::Word;
use crate::frames::types::{BLOCK, FrameNumber, WordNumber, Zone};

impl Magazine {
    /// Returns the place of a near word.
    #[inline]
    pub(super) fn near_place(&self, key: WordNumber) -> &Entry {
        &self.near[key.get() as usize & (self.size.load(Ordering::Relaxed) as usize - 1) & (NEAR - 1)]
    }

    /// Takes a frame out of `entry`, an entry of the magazine. The caller has exclusive use of the magazine.
    #[inline(always)]
    pub(in crate::frames) fn take_from(&self, entry: &Entry) -> Option<PhysFrame> {
        entry.take(&self.taken)
    }

    /// Takes a frame out of `entry`, an entry of the magazine, marked as handed out, in paranoid mode. The caller has exclusive use of the magazine.
    #[inline(always)]
    pub(in crate::frames) fn take_marked_from(&self, entry: &Entry) -> Option<PhysFrame> {
        entry.take_marked(&self.taken)
    }

    /// Returns the CPU's position in its node's pool of zeroed frames.
    #[inline]
    pub(in crate::frames) fn zeroed_place(&self) -> &PoolCursor {
        &self.zeroed_place
    }

    /// Returns the CPU's turns in interleaving.
    pub(in crate::frames) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Returns true if the word numbered `key` is held among whole words. For contexts of the CPU.
    #[inline]
    pub(in crate::frames) fn holds_whole(&self, key: WordNumber) -> bool {
        self.held.has(key)
    }

    /// Returns the places of whole words.
    pub(in crate::frames) fn whole_words(&self) -> impl Iterator<Item = &HeldBlock> {
        self.held.iter()
    }

    /// Returns the place of whole words of the block from the frame numbered `first` on, if any.
    pub(in crate::frames) fn whole_words_of(&self, first: FrameNumber) -> Option<&HeldBlock> {
        self.held.place_of(first)
    }

    /// Returns every word with held frames; an estimate while the CPU continues to use the
    /// magazine.
    pub(crate) fn words(&self) -> impl Iterator<Item = Word> {
        self.near.iter().chain(&self.away).filter_map(Entry::read).chain(self.held.words())
    }

    /// Returns the first frames of the held whole blocks; an estimate like `words`.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = FrameNumber> {
        self.huge.iter()
    }

    /// Returns the first frame of the owned block.
    pub(crate) fn block(&self) -> Option<FrameNumber> {
        self.block.load(Ordering::Relaxed).checked_sub(1).map(FrameNumber::new)
    }

    /// Returns a held frame among the `count` frames from `first` on.
    pub(crate) fn holds_of(&self, first: FrameNumber, count: u64) -> Option<FrameNumber> {
        let keys = first.word()..=(first + count.saturating_sub(1)).word();
        self.words().filter(|word| keys.contains(&word.key)).find_map(|word| {
            let held = word.mask & word.key.mask_below(first + count) & !word.key.mask_below(first);
            (held != 0).then(|| word.key.lowest_of(held))
        })
    }

    /// Returns true if the frame numbered `number` is held in a word. For a context of its CPU that
    /// has interrupted no use of the magazine.
    #[inline]
    pub(in crate::frames) fn holds(&self, number: FrameNumber) -> bool {
        let key = number.word();
        let near = self.near_place(key);
        let holds = |entry: &Entry| {
            entry.read().is_some_and(|word| word.key == key && word.mask & number.mask_in_word() != 0)
        };
        holds(near) || self.away.iter().any(holds) || self.held.has(key)
    }

    /// Returns the number of held frames.
    pub(crate) fn cached(&self) -> u64 {
        let whole = self.blocks().count() as u64 * BLOCK;
        self.words().map(Word::frames).sum::<u64>() + whole
    }

    /// Returns true if a context of its CPU is in transit with frames of any zone.
    pub(crate) fn is_moving(&self) -> bool {
        self.transits.iter().any(|transits| transits.load().under_way())
    }

    /// Adds to a reading the counts of frames moved in `zone` and the zones below, and of frames
    /// taken out. For another node's CPU, adds only the counts of frames of any node.
    pub(in crate::frames) fn watch(&self, watch: &mut Watch, zone: Option<Zone>) {
        let (others, own) = (&self.transits[Zone::COUNT], &self.transits[..Zone::COUNT]);
        watch.add(others.load());
        if let Some(zone) = zone {
            own.iter().take(zone.index() + 1).for_each(|transits| watch.add(transits.load()));
            watch.add_taken(self.taken.get().wrapping_add(self.huge_taken.get()));
            watch.add_taken(self.runs_taken());
        }
    }
}
