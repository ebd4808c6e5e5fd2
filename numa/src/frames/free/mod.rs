//! Frees, into the CPU's magazine or into the bitmaps.

mod block;
mod list;
mod pooled;
mod run;
mod single;
mod zeroing;

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::entry::Insertion;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::free::FreeRejection;
use crate::frames::region::marks::AllocKind;
use crate::frames::region::transit::Transit;
use crate::frames::region::word::Word;
use crate::frames::types::{FrameNumber, FreeError};

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
        if order == Order::FRAME
            && self.magazines.with_near(pin, |entry, _| entry.add(frame)) == Some(Insertion::Taken)
        {
            return Ok(());
        }
        if order > Order::FRAME && order < Order::HUGE && self.insert_run(pin, frame, order) {
            return Ok(());
        }
        match order {
            Order::FRAME => self.free_frame(pin, frame),
            Order::HUGE => self.free_block(pin, FrameNumber::of(frame)),
            _ => self.free_aligned(pin, FrameNumber::of(frame), order),
        }
    }

    /// Frees a run that the quick path did not take.
    fn free_aligned(&self, pin: &CpuPin, number: FrameNumber, order: Order) -> Result<(), FreeError> {
        let given = number.frame();
        let ready = self.ready().ok_or(FreeError::OutOfRange(given))?;
        if !number.is_multiple_of(order.frames()) {
            return Err(FreeError::Misaligned { frame: given, order });
        }
        let region = ready.state.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        if number + order.frames() > region.span.end {
            return Err(FreeError::OutOfRange(given));
        }
        let refuse = |why: FreeRejection| why.error(order);
        if order < Order::HUGE {
            region.verify_free(number, AllocKind::Aligned(order)).map_err(refuse)?;
            self.check_not_cached(pin, number, order.frames())?;
            ready.state.check_not_pooled(region, number, order.frames()).map_err(refuse)?;
        } else {
            // The states of the blocks cover the magazines and pools.
            region.verify_free_of_blocks(number, order).map_err(refuse)?;
        }
        ready.clear_freed(region, number, order);
        let guard = ready.enter_magazine(pin);
        if order < Order::HUGE
            && let Some(guard) = &guard
            && ready.keep_run(guard, region, number, order).map_err(refuse)?
        {
            return Ok(());
        }
        ready.free_home(guard.as_ref(), region, order.frames(), || region.free(number, order)).map_err(refuse)
    }

    /// Refuses a run with a frame in this CPU's magazine: the frame is free already.
    fn check_not_cached(&self, pin: &CpuPin, first: FrameNumber, count: u64) -> Result<(), FreeError> {
        let cached = self.magazines.get(pin.cpu()).and_then(|magazine| magazine.holds_of(first, count));
        cached.map_or(Ok(()), |held| Err(FreeError::DoubleFree(held.frame())))
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Frees one frame that was not freed quickly: into the magazine's words, or into the bitmap. Finds every error.
    #[inline(never)]
    pub(super) fn free_frame_general(self, pin: &CpuPin, number: FrameNumber) -> Result<(), FreeError> {
        let given = number.frame();
        let region = self.state.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        let refuse = |why: FreeRejection| why.error(Order::FRAME);
        region.verify_free(number, AllocKind::Aligned(Order::FRAME)).map_err(refuse)?;
        if self.state.pooled(region, number.word()) & number.mask_in_word() != 0 {
            return Err(refuse(FreeRejection::DoubleFree(number)));
        }
        self.clear_freed_part(region, number, 1);
        if let Some(magazine) = self.frames.magazines.get(pin.cpu()) {
            if let Some(guard) = magazine.enter() {
                if guard.wants_attention() {
                    self.flush_all(&guard);
                }
                let inserted = if guard.holds_whole(number.word()) {
                    Insertion::Double
                } else if !guard.is_near(region) {
                    guard.insert_away(given)
                } else if guard.has_emptied(given) && !region.has_bitmap(number) {
                    // All of the block is free, or a run: the word in the bitmap does not tell.
                    Insertion::Elsewhere
                } else {
                    guard.insert_near(given)
                };
                // While a context waits for memory, magazines keep no free frames. A first frame of
                // its word goes directly to the bitmap, by one compare-and-swap: only later frames
                // gather, so that frees in random order do not fill the magazine with words of one
                // frame.
                return match inserted {
                    Insertion::Taken => Ok(()),
                    Insertion::Elsewhere
                        if !region.retired.touch_block_of(number)
                            && !self.frames.waiters.any()
                            && guard.freed_before(number.word()) =>
                    {
                        let word = Word { key: number.word(), mask: number.mask_in_word() };
                        if self.gather_in_word(&guard, region, word).map_err(refuse)? {
                            return Ok(());
                        }
                        self.free_bypassing_magazine(&guard, region, number).map_err(refuse)
                    }
                    Insertion::Elsewhere => {
                        self.free_bypassing_magazine(&guard, region, number).map_err(refuse)
                    }
                    Insertion::Double => Err(refuse(FreeRejection::DoubleFree(number))),
                };
            }
            magazine.count_nested();
            self.frames.check_not_cached(pin, number, 1)?;
        }
        self.free_home(None, region, 1, || region.free_short_run(number, 1)).map_err(refuse)
    }

    /// Frees frames of `region` by `free`, in transit until they are counted.
    #[inline]
    pub(super) fn free_home(
        self,
        guard: Option<&MagazineGuard>,
        region: &Region,
        frames: u64,
        free: impl FnOnce() -> Result<(), FreeRejection>,
    ) -> Result<(), FreeRejection> {
        let transit = returning(guard, region);
        free()?;
        self.account_returned(guard, region, frames);
        drop(transit);
        self.state.sweep(region);
        self.frames.waiters.note();
        Ok(())
    }

    fn account_returned(self, guard: Option<&MagazineGuard>, region: &Region, frames: u64) {
        match guard {
            Some(guard) => self.state.account(guard, region, frames as i64),
            None => self.state.account_shared(region, frames as i64),
        }
    }

    /// Frees one frame past the magazine, or returns the refusal.
    fn free_bypassing_magazine(
        self,
        guard: &MagazineGuard,
        region: &Region,
        number: FrameNumber,
    ) -> Result<(), FreeRejection> {
        self.free_home(Some(guard), region, 1, || {
            // Only the longer path checks for retired frames.
            let plainly = !region.retired.touch_block_of(number) && region.free_frame(number);
            if plainly { Ok(()) } else { region.free_short_run(number, 1) }
        })?;
        guard.count_straight();
        Ok(())
    }
}

/// Counts the caller in transit during a free of frames of `region`: in the magazine, if the caller
/// has entered it.
pub(super) fn returning<'t>(guard: Option<&'t MagazineGuard>, region: &'t Region) -> Transit<'t> {
    guard.map_or_else(|| region.transit(), |guard| guard.transit(region))
}
