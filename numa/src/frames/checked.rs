//! The usual paths of paranoid mode: like a magazine hit, and the frame's or the run's mark.

use topomem_percpu::{CpuPin, Order, Platform};
use x86_64::structures::paging::PhysFrame;

use super::entry::Give;
use super::{Frames, Zeroing};

// Cold, so that in the usual mode a hit's registers are not kept free for these calls.
impl<P: Platform> Frames<P> {
    /// In paranoid mode, takes a frame of the CPU's current word: its physical address.
    #[cold]
    #[inline(never)]
    pub(super) fn take_checked(&self, pin: &CpuPin) -> Option<u64> {
        self.rack.with_checked(pin, |last, magazine| last.take_marked(&magazine.taken)).flatten()
    }

    /// In paranoid mode, takes a frame back if it is of the CPU's current word. False if it is not, or is to be
    /// cleared first, or refused; then nothing has changed.
    #[cold]
    #[inline(never)]
    pub(super) fn give_checked(&self, pin: &CpuPin, frame: PhysFrame) -> bool {
        self.machine().is_some_and(|machine| machine.zeroing == Zeroing::OnRequest)
            && self.rack.with_checked(pin, |last, _| last.add_marked(frame)) == Some(Give::Taken)
    }

    /// In paranoid mode, takes a run of `order` (1 to 5) of the CPU's near words: its physical address.
    #[cold]
    #[inline(never)]
    pub(super) fn take_checked_run(&self, pin: &CpuPin, order: Order) -> Option<u64> {
        self.rack.with_checked(pin, |_, magazine| magazine.take_marked_run(order)).flatten()
    }

    /// In paranoid mode, takes a run of `order` (1 to 5) back if it is of one of the CPU's near words. False if
    /// it is not, or is to be cleared first, or refused; then nothing has changed.
    #[cold]
    #[inline(never)]
    pub(super) fn give_checked_run(&self, pin: &CpuPin, first: PhysFrame, order: Order) -> bool {
        self.machine().is_some_and(|machine| machine.zeroing == Zeroing::OnRequest)
            && self.rack.with_checked(pin, |_, magazine| magazine.give_marked_run(first, order))
                == Some(Give::Taken)
    }
}
