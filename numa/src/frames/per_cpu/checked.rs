//! The usual paths of paranoid mode: a magazine hit, plus the mark of the frame or run. And the hits of far CPUs, whose
//! magazines are not in the table itself.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::entry::Insertion;
use crate::frames::types::Zeroing;

// Cold, so that in the usual mode a hit's registers are not reserved for these calls.
impl<P: Platform> Frames<P> {
    /// Takes a frame of the CPU's current word, of a far CPU or in paranoid mode.
    #[cold]
    #[inline(never)]
    pub(in crate::frames) fn take_otherwise(&self, pin: &CpuPin) -> Option<PhysFrame> {
        let far = self.magazines.with_far(pin, |entry, magazine| magazine.take_from(entry));
        if let Some(Some(taken)) = far {
            return Some(taken);
        }
        self.magazines.with_checked(pin, |last, magazine| magazine.take_marked_from(last)).flatten()
    }

    /// Takes a run of `order` (1 to 5) of the CPU's near words, in paranoid mode.
    #[cold]
    #[inline(never)]
    pub(super) fn take_checked_run(&self, pin: &CpuPin, order: Order) -> Option<PhysFrame> {
        self.magazines.with_checked(pin, |_, magazine| magazine.take_marked_run(order)).flatten()
    }

    /// Frees a run of `order` (1 to 5) of the CPU's near words, in paranoid mode. Returns false,
    /// with nothing changed, if the run is of another word, or is to be cleared first, or is
    /// refused.
    #[cold]
    #[inline(never)]
    pub(super) fn insert_checked_run(&self, pin: &CpuPin, first: PhysFrame, order: Order) -> bool {
        self.state().is_some_and(|state| state.zeroing == Zeroing::OnRequest)
            && self.magazines.with_checked(pin, |_, magazine| magazine.insert_marked_run(first, order))
                == Some(Insertion::Taken)
    }
}
