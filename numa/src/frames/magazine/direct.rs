//! Frees of single frames directly into their bitmap, past the magazine: one, or many of a list.
//!
//! A frame freed out of order costs one compare-and-swap, and little else: the magazine knows the region of the
//! last frame freed directly. The next frame of the region needs no search for the region, and no look at facts
//! decided by the region's place in the machine. Rarely due work after a free is a call at the end: a free saves
//! no registers for the rare work.

use core::ptr;

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::Magazine;
use super::block_filter::Blocks;
use super::runs::{by_word, word_of};
use crate::frames::node::UNREPORTED;
use crate::frames::node::zeroed_pool::ZeroedPool;
use crate::frames::region::Region;
use crate::frames::region::transit::Transit;
use crate::frames::region::word::Word;
use crate::frames::types::{FrameNumber, WordNumber, Zone};

/// The region of the frames that a CPU frees directly, and the pool of the region's node.
///
/// Empty before the first direct free, and where every free is checked against a mark or clears the frame. The
/// region is of the magazine's node, and magazines may hold the region's frames.
/// Written and read by the magazine's CPU alone, in one context at a time: Relaxed.
#[derive(Debug)]
pub(super) struct Direct {
    /// The number of the region's first frame.
    start: AtomicU64,
    /// The number of the region's frames; 0 without a region.
    frames: AtomicU64,
    region: AtomicPtr<Region>,
    pool: AtomicPtr<ZeroedPool>,
}

macro_rules! nothing {
    () => {
        Direct {
            start: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            region: AtomicPtr::new(ptr::null_mut()),
            pool: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

impl Direct {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Direct {
        nothing!()
    }

    /// Creates a place without a region (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Direct {
        nothing!()
    }

    /// Returns the region and the pool of the region's node, if the region has the frame numbered `number`.
    #[inline(always)]
    fn of(&self, number: FrameNumber) -> Option<(&'static Region, &'static ZeroedPool)> {
        let offset = number.get().wrapping_sub(self.start.load(Ordering::Relaxed));
        if offset >= self.frames.load(Ordering::Relaxed) {
            return None;
        }
        let (region, pool) = (self.region.load(Ordering::Relaxed), self.pool.load(Ordering::Relaxed));
        // SAFETY: a region has frames here only after `remember` stored the addresses of two `&'static`.
        unsafe {
            core::hint::assert_unchecked(!region.is_null() && !pool.is_null());
            Some((&*region, &*pool))
        }
    }

    /// Returns the region and the pool of the region's node, if any region is remembered.
    #[inline(always)]
    fn any(&self) -> Option<(&'static Region, &'static ZeroedPool)> {
        let (region, pool) = (self.region.load(Ordering::Relaxed), self.pool.load(Ordering::Relaxed));
        // SAFETY: `remember` stores the addresses of two `&'static`; before that the region is null.
        unsafe { region.as_ref().map(|region| (region, &*pool)) }
    }

    /// Remembers a region. Returns false if the region is the remembered region.
    fn remember(&self, region: &'static Region, pool: &'static ZeroedPool) -> bool {
        if ptr::eq(self.region.load(Ordering::Relaxed), region) {
            return false;
        }
        self.pool.store(ptr::from_ref(pool).cast_mut(), Ordering::Relaxed);
        self.region.store(ptr::from_ref(region).cast_mut(), Ordering::Relaxed);
        self.start.store(region.span.start.get(), Ordering::Relaxed);
        self.frames.store(region.span.frames(), Ordering::Relaxed);
        true
    }
}

/// Where frames outside of bitmaps and magazines are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frames) enum Elsewhere {
    /// Nowhere: no frame is freed directly if a pool was ever filled, or any frame is
    /// retired. A free calls nothing.
    Never,
    /// In the pool of zeroed frames, and among retired frames.
    Perhaps,
}

/// The outcome of a direct free.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) enum Freed {
    /// Nothing has changed: the frame is to be freed in another way.
    No,
    Yes,
    /// The frame is free, and the caller still in transit: more is due in the region.
    MoreIsDue(&'static Region),
}

/// Frames of a list that are free, and that are yet to be counted.
#[derive(Debug)]
pub(in crate::frames) struct FreedList<'m> {
    /// The number of frames from the list's first on.
    pub(in crate::frames) frames: usize,
    pub(in crate::frames) region: &'static Region,
    pub(in crate::frames) transit: Transit<'m>,
}

impl Magazine {
    /// Makes later frees of frames of `region`, of the node with `pool`, go directly to the bitmap. Returns false if
    /// the region was remembered already.
    pub(in crate::frames) fn remember_region(
        &self,
        region: &'static Region,
        pool: &'static ZeroedPool,
    ) -> bool {
        self.direct.remember(region, pool)
    }

    /// Takes up the transit left by [`Freed::MoreIsDue`], of frames of the own node's `zone`.
    pub(in crate::frames) fn go_on(&self, zone: Zone) -> Transit<'_> {
        self.transits[zone.index()].go_on_alone()
    }

    /// Frees a frame of the remembered region directly into its bitmap.
    ///
    /// Changes nothing if the frame is of another region, if the magazine has its word, if another
    /// frame of the word was freed lately, if the frame may be free or retired, or if a drain is
    /// requested. The caller has exclusive use of the magazine.
    ///
    /// Bound: as for [`Region::release_frame`].
    #[inline(always)]
    pub(in crate::frames) fn free_directly(
        &self,
        number: FrameNumber,
        elsewhere: Elsewhere,
        is_more_due: impl Fn() -> bool,
    ) -> Freed {
        let key = number.word();
        let Some((region, pool)) = self.direct.of(number) else { return Freed::No };
        let is_elsewhere = match elsewhere {
            Elsewhere::Never => pool.is_used() || region.retired.lists_any(),
            Elsewhere::Perhaps => pool.held(key) != 0 || region.retired.touch_block_of(number),
        };
        if is_elsewhere
            || self.wants_attention()
            || (self.blocks.may_have(number) && (self.near_place(key).has_key(key) || self.held.has(key)))
            || self.freed_before(key)
        {
            return Freed::No;
        }
        let zone = region.zone.index();
        let transit = self.transits[zone].begin_alone();
        let Some(change) = region.release_frame(number) else {
            transit.cancel();
            return Freed::No;
        };
        self.straight.add(1);
        let unreported = &self.unreported[zone];
        unreported.add(1);
        if change.changes_hints()
            || unreported.get() as i64 >= UNREPORTED
            || region.retired.lists_any()
            || is_more_due()
        {
            core::mem::forget(transit);
            return Freed::MoreIsDue(region);
        }
        Freed::Yes
    }

    /// Frees frames of the remembered region directly into their bitmap, from the first of `frames` on, until one
    /// that [`Magazine::free_directly`] would not free so. Consecutive frames of one word are freed together.
    /// Returns the frames freed, with the caller still in transit, or `None` if there are none: nothing has changed
    /// then. The caller has exclusive use of the magazine.
    ///
    /// Bound: one compare-and-swap for each word, retried only if another CPU changed the word.
    pub(in crate::frames) fn free_list_directly(&self, frames: &[PhysFrame]) -> Option<FreedList<'_>> {
        let (region, pool) = self.direct.any()?;
        if self.wants_attention() {
            return None;
        }
        // Only uses of the magazine add blocks. All blocks are looked at if frames may be elsewhere.
        let looked_at = match pool.is_used() || region.retired.lists_any() {
            true => Blocks::ALL,
            false => self.blocks.read(),
        };
        let words = region.words();
        let zone = region.zone.index();
        let transit = self.transits[zone].begin_alone();
        let mut freed = 0;
        while let Some(&first) = frames.get(freed) {
            let first = FrameNumber::of(first);
            let mut group =
                Group { frames: Word { key: first.word(), mask: first.mask_in_word() }, end: freed + 1 };
            if frames.get(group.end).is_some_and(|&next| WordNumber::of(next) == group.frames.key) {
                group = Group::gather(frames, freed);
            }
            if looked_at.may_have(first) && self.is_elsewhere(region, pool, group.frames) {
                break;
            }
            let Some(change) = words.release(group.frames) else { break };
            if change.changes_hints() {
                region.update_hints(region.block_of(first));
            }
            freed = group.end;
        }
        if freed == 0 {
            transit.cancel();
            return None;
        }
        self.straight.add(freed as u64);
        Some(FreedList { frames: freed, region, transit })
    }

    /// Frees `count` consecutive frames of one block of the remembered region directly into their bitmap. Returns the
    /// freed frames as [`Magazine::free_list_directly`] does: all, but for another context's free of the same frames at
    /// the same time; or `None` if one of them is to be freed in another way. The caller has exclusive use of the
    /// magazine.
    ///
    /// Bound: a look and a compare-and-swap for each word.
    pub(in crate::frames) fn free_run_directly(&self, first: PhysFrame, count: u32) -> Option<FreedList<'_>> {
        let (region, pool) = self.direct.any()?;
        let number = FrameNumber::of(first);
        if self.wants_attention() || region.retired.touch_block_of(number) {
            return None;
        }
        let words = region.words();
        let is_pooled = |word: Word| pool.is_used() && pool.held(word.key) & word.mask != 0;
        let is_one_word = number.bit_in_word() + u64::from(count) <= 64;
        for (part, count) in by_word(first, count) {
            let word = word_of(part, count);
            let near = self.near_place(word.key);
            let may_be_freed = if near.has_key(word.key) {
                near.has_room_for(part, count)
            } else if is_one_word && self.freed_before(word.key) {
                // Frames of a word that comes up again gather in the magazine.
                false
            } else {
                words.free_of(word.key)? & word.mask == 0 && !self.held.has(word.key) && !is_pooled(word)
            };
            if !may_be_freed {
                return None;
            }
        }
        let transit = self.transits[region.zone.index()].begin_alone();
        let mut freed = FreedList { frames: 0, region, transit };
        for (part, count) in by_word(first, count) {
            let word = word_of(part, count);
            let Some(change) = words.release(word) else { break };
            region.update_hints_after(region.block_of(word.first()), change);
            freed.frames += count as usize;
        }
        self.straight.add(freed.frames as u64);
        Some(freed)
    }

    /// Returns true if a frame of the word is in another place: the magazine has the word, the pool the frame, or the
    /// frame's block a retired frame.
    #[inline(never)]
    fn is_elsewhere(&self, region: &Region, pool: &ZeroedPool, frames: Word) -> bool {
        let first = frames.key.first_frame();
        (self.blocks.may_have(first)
            && (self.near_place(frames.key).has_key(frames.key) || self.held.has(frames.key)))
            || (pool.is_used() && pool.held(frames.key) & frames.mask != 0)
            || region.retired.touch_block_of(first)
    }
}

/// Frames of one word that are neighbours in a list.
#[derive(Debug, Clone, Copy)]
struct Group {
    frames: Word,
    /// The index behind the last of them.
    end: usize,
}

impl Group {
    /// Returns the group that begins at `start`. A frame that is listed twice begins a group of its own.
    #[inline(never)]
    fn gather(frames: &[PhysFrame], start: usize) -> Group {
        let mut group = Group { frames: Word { key: WordNumber::new(0), mask: 0 }, end: start };
        while let Some(&frame) = frames.get(group.end) {
            let number = FrameNumber::of(frame);
            let (key, bit) = (number.word(), number.mask_in_word());
            if group.frames.mask != 0 && (key != group.frames.key || group.frames.mask & bit != 0) {
                break;
            }
            group = Group { frames: Word { key, mask: group.frames.mask | bit }, end: group.end + 1 };
        }
        group
    }
}
