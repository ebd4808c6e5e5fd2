//! Frees behind a magazine hit, and flushes of magazines' words to their bitmaps.

mod zeroing;

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::alloc::zeroed::pooled;
use crate::frames::alloc::{frame, number};
use crate::frames::magazine::entry::{Entry, Give, Word};
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::region::bitmap::{WORDS, ones};
use crate::frames::region::free::{Refused, by_block};
use crate::frames::region::marks::Given;
use crate::frames::region::transit::Transit;
use crate::frames::region::{BLOCK, BlockIndex, Region};
use crate::frames::state::Machine;
use crate::frames::types::{FreeError, Zone};

/// The maximum number of attempts to flush a word, each without the frames found free.
const LATE_TRIES: u32 = 64;

impl Refused {
    pub(super) fn error(self, given: Order) -> FreeError {
        match self {
            Refused::DoubleFree(at) => FreeError::DoubleFree(frame(at)),
            Refused::NotAllocated(at) => FreeError::NotAllocated(frame(at)),
            Refused::WrongOrder { frame: at, actual } => {
                FreeError::WrongOrder { frame: frame(at), given, actual }
            }
            Refused::Reserved(at) => FreeError::Reserved(frame(at)),
        }
    }
}

impl<P: Platform> Frames<P> {
    /// Frees a run.
    ///
    /// A run below order 9 of the CPU's own node goes to its magazine. Cost: no atomic
    /// read-modify-write if the magazine has the run's word (from order 6 on, its block), and
    /// otherwise one compare-and-swap for up to 64 frames of another word. Frames of other nodes
    /// gather in separate words, and are then freed in their node.
    ///
    /// Bound: constant up to order 8, one store per 2 MiB block above; lock-free, and safe in
    /// interrupt and NMI handlers.
    ///
    /// # Errors
    ///
    /// After an error nothing has changed.
    ///
    /// - [`FreeError::DoubleFree`] if a frame of the run is already free in its bitmap or in this
    ///   CPU's magazine, or if it is retired.
    /// - [`FreeError::NotAllocated`] if the frame belongs to no allocated run.
    /// - [`FreeError::WrongOrder`] if the frame begins or lies in a run of another order.
    /// - [`FreeError::Misaligned`] if the frame is no multiple of the order's size.
    /// - [`FreeError::Reserved`] if the run contains frames reserved by the memory map.
    /// - [`FreeError::OutOfRange`] if the frame is in no node's memory, or if the run leaves its
    ///   node's memory.
    ///
    /// Three kinds of double frees are detected later, unless the allocator is in paranoid mode:
    ///
    /// - The frame is free in another CPU's magazine.
    /// - The frame is in its node's pool of zeroed frames, and the freeing magazine has its word.
    /// - The frame is of the word of this CPU's last allocation, no frame of that word is left, and
    ///   the block around it has become whole.
    ///
    /// All of them are detected when the word is flushed to its bitmap
    /// ([`MagazineStats::late_doubles`](crate::frames::MagazineStats::late_doubles)). A double free of a
    /// pooled frame is also detected when a CPU whose magazine has the frame takes it from the
    /// pool.
    ///
    /// Several runs below order 9 freed as one are accepted: bitmaps keep no order.
    ///
    /// # Safety
    ///
    /// The caller owns the run, which is not used or mapped any more.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::Order;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let frame = frames.alloc(pin, &FrameRequest::frame())?;
    /// // SAFETY: the frame was just allocated, and is not used.
    /// unsafe { frames.free(pin, frame, Order::FRAME)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Result<(), FreeError> {
        if order == Order::FRAME && self.rack.with_current(pin, |entry, _| entry.add(frame)) == Give::Taken {
            return Ok(());
        }
        if order > Order::FRAME && order < Order::HUGE && self.give_run(pin, frame, order) {
            return Ok(());
        }
        match order {
            Order::FRAME => self.free_frame(pin, frame),
            Order::HUGE => self.free_block(pin, number(frame)),
            _ => self.free_aligned(pin, number(frame), order),
        }
    }

    #[inline(never)]
    pub(super) fn free_otherwise(
        &self,
        machine: &Machine,
        pin: &CpuPin,
        number: u64,
    ) -> Result<(), FreeError> {
        let given = frame(number);
        let region = machine.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        let refuse = |why: Refused| why.error(Order::FRAME);
        region.take_mark_back(number, Given::Aligned(Order::FRAME)).map_err(refuse)?;
        if pooled(machine, region, number / 64) & 1 << (number % 64) != 0 {
            return Err(refuse(Refused::DoubleFree(number)));
        }
        self.clear_freed_part(machine, region, number, 1);
        if let Some(magazine) = self.rack.get(pin.cpu()) {
            if let Some(entered) = magazine.enter() {
                if entered.wants_attention() {
                    self.empty(machine, &entered);
                }
                let given = if entered.held.has(number / 64) {
                    Give::Double
                } else if !is_near(&entered, region) {
                    entered.give_away(given)
                } else if entered.has_emptied(given) && !region.has_bitmap(number) {
                    // All of the block is free, or a run: the word in the bitmap does not tell.
                    Give::Elsewhere
                } else {
                    entered.give_near(given)
                };
                // While a context waits for memory, magazines keep no free frames. A first frame of
                // its word goes directly to the bitmap, by one compare-and-swap: only later frames
                // gather, so that frees in random order do not fill the magazine with words of one
                // frame.
                return match given {
                    Give::Taken => Ok(()),
                    Give::Elsewhere
                        if !region.retired.touch_block_of(number)
                            && !self.waiters.any()
                            && entered.freed_before(number / 64) =>
                    {
                        let word = Word { key: number / 64, mask: 1 << (number % 64) };
                        if self.gather(machine, &entered, region, word).map_err(refuse)? {
                            return Ok(());
                        }
                        self.free_straight(machine, &entered, region, number).map_err(refuse)
                    }
                    Give::Elsewhere => self.free_straight(machine, &entered, region, number).map_err(refuse),
                    Give::Double => Err(refuse(Refused::DoubleFree(number))),
                };
            }
            magazine.nested.add(1);
            self.check_not_cached(pin, number, 1)?;
        }
        self.free_home(machine, None, region, 1, || region.free_short_run(number, 1)).map_err(refuse)
    }

    /// Frees frames of `region` by `free`, in transit until they are counted.
    #[inline]
    pub(super) fn free_home(
        &self,
        machine: &Machine,
        entered: Option<&MagazineGuard>,
        region: &Region,
        frames: u64,
        free: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let transit = returning(entered, region);
        free()?;
        self.account_returned(machine, entered, region, frames);
        drop(transit);
        self.sweep(machine, region);
        self.waiters.note();
        Ok(())
    }

    fn account_returned(
        &self,
        machine: &Machine,
        entered: Option<&MagazineGuard>,
        region: &Region,
        frames: u64,
    ) {
        match entered {
            Some(entered) => self.account(machine, entered, region, frames as i64),
            None => self.account_shared(machine, region, frames as i64),
        }
    }

    /// Returns this CPU's magazine, drained if requested. Returns `None` if the CPU has no
    /// magazine, or is using it.
    pub(super) fn enter_answering(&self, machine: &Machine, pin: &CpuPin) -> Option<MagazineGuard> {
        let entered = self.rack.get(pin.cpu())?.enter()?;
        if entered.wants_attention() {
            self.empty(machine, &entered);
        }
        Some(entered)
    }

    /// Frees a run that the quick path did not take.
    fn free_aligned(&self, pin: &CpuPin, number: u64, order: Order) -> Result<(), FreeError> {
        let given = frame(number);
        let machine = self.machine().ok_or(FreeError::OutOfRange(given))?;
        if !number.is_multiple_of(order.frames()) {
            return Err(FreeError::Misaligned { frame: given, order });
        }
        let region = machine.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        if number + order.frames() > region.span.end {
            return Err(FreeError::OutOfRange(given));
        }
        let refuse = |why: Refused| why.error(order);
        if order < Order::HUGE {
            region.take_mark_back(number, Given::Aligned(order)).map_err(refuse)?;
            self.check_not_cached(pin, number, order.frames())?;
            self.check_not_pooled(machine, region, number, order.frames()).map_err(refuse)?;
        } else {
            // The states of the blocks cover the magazines and pools.
            region.take_block_mark_back(number, order).map_err(refuse)?;
        }
        self.clear_freed(machine, region, number, order);
        let entered = self.enter_answering(machine, pin);
        if order < Order::HUGE
            && let Some(entered) = &entered
            && self.keep_run(machine, entered, region, number, order).map_err(refuse)?
        {
            return Ok(());
        }
        self.free_home(machine, entered.as_ref(), region, order.frames(), || region.free(number, order))
            .map_err(refuse)
    }

    /// Refuses a run with a frame in this CPU's magazine: the frame is free already.
    fn check_not_cached(&self, pin: &CpuPin, first: u64, count: u64) -> Result<(), FreeError> {
        let cached = self.rack.get(pin.cpu()).and_then(|magazine| magazine.holds_of(first, count));
        cached.map_or(Ok(()), |held| Err(FreeError::DoubleFree(frame(held))))
    }

    /// Frees frames of one word, not yet in the magazine, into a separate word there. Returns false
    /// if they must go directly to the bitmap.
    #[inline(never)]
    pub(super) fn gather(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &'static Region,
        word: Word,
    ) -> Result<bool, Refused> {
        let number = word.first();
        let block = region.check_small(number, word.frames())?;
        // An edge block's reserved frames would look allocated to the magazine.
        if block.is_edge() {
            return Ok(false);
        }
        let index = region.block_of(number);
        let at = (number % BLOCK / 64) as usize;
        let free = region.line(index).load(at) & word.mask;
        if free != 0 {
            return Err(Refused::DoubleFree(Word { key: word.key, mask: free }.first()));
        }
        let home = region.home_of(index, at);
        let evict = |entry: &Entry| self.flush(machine, entered, entry);
        if is_near(entered, region) {
            entered.hold(word, home, evict);
        } else {
            entered.hold_away(word, home, evict);
        }
        Ok(true)
    }

    /// Frees one frame past the magazine, or returns the refusal.
    fn free_straight(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &Region,
        number: u64,
    ) -> Result<(), Refused> {
        self.free_home(machine, Some(entered), region, 1, || {
            // Only the longer path checks for retired frames.
            let plainly = !region.retired.touch_block_of(number) && region.free_frame(number);
            if plainly { Ok(()) } else { region.free_short_run(number, 1) }
        })?;
        entered.straight.add(1);
        Ok(())
    }

    /// Flushes the frames of an entry of the magazine, and empties it.
    pub(super) fn flush(&self, machine: &Machine, entered: &MagazineGuard, entry: &Entry) {
        match entry.read() {
            Some(word) => self.flush_word(machine, entered, word, || entry.vacate()),
            None => entry.vacate(),
        }
    }

    /// Flushes a word of the magazine, taken out by `remove`.
    pub(super) fn flush_word(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        word: Word,
        remove: impl FnOnce(),
    ) {
        let Some(region) = machine.region_of(word.first()) else { return remove() };
        let transit = entered.transit(region);
        remove();
        let block = region.block_of(word.key * 64);
        let at = word.key as usize % WORDS;
        // Frames already free in the bitmap or in the pool, or retired, were freed twice, there and
        // here. The second free is refused late, and changes nothing. The same holds for all frames
        // if the block has left the bitmap: it is whole, or a run.
        let mut bits =
            word.mask & !pooled(machine, region, word.key) & !region.retired.complete_in_word(word.key);
        if !region.has_bitmap(word.key * 64) {
            bits = 0;
        }
        for _ in 0..LATE_TRIES {
            if bits == 0 || region.free_word(block, at, bits).is_ok() {
                break;
            }
            bits &= !region.line(block).load(at);
        }
        self.account(machine, entered, region, i64::from(bits.count_ones()));
        entered.flushed(word, (word.mask & !bits).count_ones());
        drop(transit);
        self.sweep(machine, region);
        self.waiters.note();
    }

    /// Flushes everything held by a magazine: frames, blocks, its own block, its counts.
    pub(super) fn empty(&self, machine: &Machine, entered: &MagazineGuard) {
        entered.empty(|entry| self.flush(machine, entered, entry));
        entered.held.iter().for_each(|place| self.flush_words(machine, entered, place));
        while let Some((region, block)) = entered.top_huge().and_then(|first| machine.block_at(first)) {
            let transit = entered.transit(region);
            entered.drop_huge();
            region.release_blocks(block, 1);
            self.account(machine, entered, region, BLOCK as i64);
            drop(transit);
            self.sweep(machine, region);
            self.waiters.note();
        }
        if let Some((region, block)) = entered.block().and_then(|first| machine.block_at(first)) {
            self.give_block_up(machine, entered, region, block);
        }
        if let Some(node) = machine.node(entered.node) {
            for zone in Zone::ALL {
                // Until the zone has the count, it may seem to be down to its reserve.
                let _transit = entered.transit_in(zone);
                node.zones[zone.index()].add(entered.report(zone));
            }
        }
    }

    /// Ends the magazine's ownership of its block.
    pub(super) fn give_block_up(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        region: &Region,
        block: BlockIndex,
    ) {
        let transit = entered.transit(region);
        entered.set_block(None);
        region.disown(block);
        drop(transit);
        self.sweep(machine, region);
        self.waiters.note();
    }

    /// Counts frames gained or lost by a region, in the magazine if its node has the region's zone.
    pub(super) fn account(&self, machine: &Machine, entered: &MagazineGuard, region: &Region, frames: i64) {
        if entered.node != region.node {
            self.account_shared(machine, region, frames);
        } else if let Some(sum) = entered.account(region.zone, frames) {
            machine.zone_of(region).add(sum);
        }
    }

    pub(super) fn account_shared(&self, machine: &Machine, region: &Region, frames: i64) {
        machine.zone_of(region).add(frames);
    }

    /// Drains this CPU's magazine. Returns true if it held anything.
    pub(super) fn give_up_cached(&self, machine: &Machine, pin: &CpuPin) -> bool {
        let Some(entered) = self.rack.get(pin.cpu()).and_then(|magazine| magazine.enter()) else {
            return false;
        };
        if entered.words().next().is_none() && entered.blocks().next().is_none() && entered.block().is_none()
        {
            return false;
        }
        self.empty(machine, &entered);
        true
    }

    /// Frees `count` contiguous frames from [`Frames::alloc_run`].
    ///
    /// Frames of words in the CPU's magazine go there, without an atomic read-modify-write.
    ///
    /// Bound: otherwise, one compare-and-swap per 64 frames or per 2 MiB block.
    ///
    /// # Errors
    ///
    /// As for [`Frames::free`], including the double frees detected later.
    ///
    /// # Safety
    ///
    /// As for [`Frames::free`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let first = frames.alloc_run(pin, &FrameRequest::frame(), 3, 1)?;
    /// // SAFETY: the run was just allocated, and is not used.
    /// unsafe { frames.free_run(pin, first, 3)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn free_run(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        if count > 0 && count < BLOCK && self.give_frames(pin, first, count as u32) {
            return Ok(());
        }
        self.free_run_home(pin, first, count)
    }

    /// Frees a run that the quick path did not take.
    #[inline(never)]
    fn free_run_home(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        let number = number(first);
        let outside = FreeError::OutOfRange(first);
        let machine = self.machine().ok_or(outside)?;
        let region = machine.region_of(number).ok_or(outside)?;
        let end = number.checked_add(count).filter(|&end| end <= region.span.end).ok_or(outside)?;
        let refuse = |why: Refused| why.error(Order::FRAME);
        if count == 0 {
            return Err(FreeError::NotAllocated(first));
        }
        let long = count >= BLOCK;
        if long && !number.is_multiple_of(BLOCK) {
            return Err(FreeError::Misaligned { frame: first, order: Order::HUGE });
        }
        if !long && number / BLOCK != (end - 1) / BLOCK {
            // In two blocks: an error in either is found before anything changes.
            region.check_run(number, count).map_err(refuse)?;
        }
        let blocks = if long { count / BLOCK } else { 0 };
        let rest = (number + blocks * BLOCK, count - blocks * BLOCK);
        let head = region.block_of(number);
        for offset in 0..blocks {
            region.check_whole(BlockIndex(head.0 + offset as usize)).map_err(refuse)?;
        }
        if rest.1 > 0 {
            self.check_not_cached(pin, rest.0, rest.1)?;
            by_block(rest.0, rest.1)
                .try_for_each(|(first, count)| self.check_not_pooled(machine, region, first, count))
                .map_err(refuse)?;
        }
        region.take_mark_back(number, Given::Run(count)).map_err(refuse)?;
        by_block(rest.0, rest.1)
            .for_each(|(first, count)| self.clear_freed_part(machine, region, first, count));
        let entered = self.enter_answering(machine, pin);
        if let Some(entered) = &entered
            && number % 64 + count <= 64
        {
            let word = Word { key: number / 64, mask: ones(count as u32) << (number % 64) };
            if self.keep_bits(machine, entered, region, word).map_err(refuse)? {
                return Ok(());
            }
        }
        let transit = returning(entered.as_ref(), region);
        if let Err(why) =
            by_block(rest.0, rest.1).try_for_each(|(first, count)| region.free_short_run(first, count))
        {
            machine.mark_given(number, Given::Run(count));
            return Err(refuse(why));
        }
        for offset in 0..blocks {
            self.clear_freed(machine, region, number + offset * BLOCK, Order::HUGE);
            region.free(number + offset * BLOCK, Order::HUGE).map_err(refuse)?;
        }
        self.account_returned(machine, entered.as_ref(), region, count);
        drop(transit);
        self.sweep(machine, region);
        self.waiters.note();
        Ok(())
    }
}

impl<P: Platform> Frames<P> {
    /// Frees `count` frames from `number` on, of one block: the end of a run owned by the caller.
    pub(super) fn give_end(
        &self,
        machine: &Machine,
        pin: &CpuPin,
        region: &'static Region,
        number: u64,
        count: u64,
    ) -> Result<(), FreeError> {
        let refuse = |why: Refused| why.error(Order::FRAME);
        self.check_not_cached(pin, number, count)?;
        self.check_not_pooled(machine, region, number, count).map_err(refuse)?;
        self.clear_freed_part(machine, region, number, count);
        let entered = self.enter_answering(machine, pin);
        let transit = returning(entered.as_ref(), region);
        region.free_short_run(number, count).map_err(refuse)?;
        self.account_returned(machine, entered.as_ref(), region, count);
        drop(transit);
        self.sweep(machine, region);
        self.waiters.note();
        Ok(())
    }
}

/// Counts the caller in transit during a free of frames of `region`: in the magazine, if the caller
/// has entered it.
fn returning<'t>(entered: Option<&'t MagazineGuard>, region: &'t Region) -> Transit<'t> {
    entered.map_or_else(|| region.transit(), |entered| entered.transit(region))
}

/// Returns true if frames of the region belong into the magazine's near words.
pub(super) fn is_near(entered: &MagazineGuard, region: &Region) -> bool {
    region.node == entered.node && region.cached
}
