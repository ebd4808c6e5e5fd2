//! Runs of orders 1 to 9 from the CPU's magazine, like single frames.
//!
//! Runs of up to 32 frames are bits of the magazine's words, and come with the same refills from
//! the CPU's own block. Longer runs are whole words, held by block ([`crate::frames::magazine::held_words`]): freed
//! runs, and the rest of a block broken up for a run. A run of order 9 is a held block.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::entry::Insertion;
use crate::frames::magazine::held_words::is_of_words;
use crate::frames::region::marks::AllocKind;

impl<P: Platform> Frames<P> {
    /// Takes a run of orders 1 to 8 from the CPU's magazine.
    #[inline]
    pub(in crate::frames) fn take_run(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        if is_of_words(order) { self.take_words(pin, order) } else { self.take_short(pin, order) }
    }

    /// Takes a block held by this CPU.
    #[inline(never)]
    pub(in crate::frames) fn take_held_block(&self, pin: &CpuPin) -> Option<PhysFrame> {
        let guard = self.magazines.get(pin.cpu())?.enter()?;
        let number = guard.take_huge()?.allocate();
        if guard.is_checked() {
            self.state()?.record_alloc(number, AllocKind::Aligned(Order::HUGE));
        }
        Some(number.frame())
    }

    // Not inlined, since not all callers have a constant order. Far CPUs' uses are apart, so that near CPUs' save no
    // registers for the way to a far magazine.

    #[inline(never)]
    fn take_short(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        match self.magazines.near(pin.cpu()) {
            Some(magazine) => self.take_short_of(pin, magazine, order),
            None => self.take_short_far(pin, order),
        }
    }

    #[inline(never)]
    fn take_short_far(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        self.take_short_of(pin, self.magazines.far(pin.cpu())?, order)
    }

    #[inline(always)]
    fn take_short_of(&self, pin: &CpuPin, magazine: &Magazine, order: Order) -> Option<PhysFrame> {
        let taken = magazine.with_open(|magazine| magazine.take_run(order)).flatten();
        taken.or_else(|| self.take_checked_run(pin, order))
    }

    #[inline(never)]
    fn take_words(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        match self.magazines.near(pin.cpu()) {
            Some(magazine) => magazine.with_open(|magazine| magazine.take_words(order)).flatten(),
            None => self.take_words_far(pin, order),
        }
    }

    #[inline(never)]
    fn take_words_far(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        self.magazines.far(pin.cpu())?.with_open(|magazine| magazine.take_words(order)).flatten()
    }

    /// Frees a run of orders 1 to 8 into the CPU's magazine, if it has a place for it.
    #[inline]
    pub(in crate::frames) fn insert_run(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> bool {
        let inserted = if is_of_words(order) {
            self.insert_words(pin, frame, order)
        } else {
            self.insert_short(pin, frame, order)
        };
        inserted == Insertion::Taken
    }

    #[inline(never)]
    fn insert_short(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Insertion {
        if frame.start_address().as_u64() & (order.bytes() - 1) != 0 {
            return Insertion::Elsewhere;
        }
        match self.magazines.near(pin.cpu()) {
            Some(magazine) => self.insert_short_of(pin, magazine, frame, order),
            None => self.insert_short_far(pin, frame, order),
        }
    }

    #[inline(never)]
    fn insert_short_far(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Insertion {
        let Some(magazine) = self.magazines.far(pin.cpu()) else { return Insertion::Elsewhere };
        self.insert_short_of(pin, magazine, frame, order)
    }

    #[inline(always)]
    fn insert_short_of(
        &self,
        pin: &CpuPin,
        magazine: &Magazine,
        frame: PhysFrame,
        order: Order,
    ) -> Insertion {
        match magazine.with_open(|magazine| magazine.insert_run(frame, order)) {
            Some(inserted) => inserted,
            None if self.insert_checked_run(pin, frame, order) => Insertion::Taken,
            None => Insertion::Elsewhere,
        }
    }

    /// Frees consecutive frames, fewer than 512, into the CPU's magazine, if it has all of their
    /// words.
    #[inline]
    pub(in crate::frames) fn insert_frames(&self, pin: &CpuPin, first: PhysFrame, count: u32) -> bool {
        let cpu = pin.cpu();
        let magazine = self.magazines.near(cpu).or_else(|| self.magazines.far(cpu));
        let inserted =
            magazine.and_then(|magazine| magazine.with_open(|magazine| magazine.insert_frames(first, count)));
        inserted == Some(Insertion::Taken)
    }

    #[inline(never)]
    fn insert_words(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Insertion {
        let Some(magazine) = self.magazines.near(pin.cpu()) else {
            return self.insert_words_far(pin, frame, order);
        };
        let inserted = magazine.with_open(|magazine| magazine.insert_words(frame, order));
        inserted.unwrap_or(Insertion::Elsewhere)
    }

    #[inline(never)]
    fn insert_words_far(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Insertion {
        let magazine = self.magazines.far(pin.cpu());
        let inserted =
            magazine.and_then(|magazine| magazine.with_open(|magazine| magazine.insert_words(frame, order)));
        inserted.unwrap_or(Insertion::Elsewhere)
    }
}
