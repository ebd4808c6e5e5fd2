//! Bad frames: one that is about to be freed is retired, and must not be seen again.

use topomem::{Order, PhysFrame};

use crate::oracle::Conflict;
use crate::shared::transfer::HeldFrames;
use crate::worker::Worker;
use crate::{Failure, Rig, Text};

/// How many frames each of the first few CPUs retires in a run: every one costs a huge page.
pub(in crate::worker) const RETIREMENTS: u32 = 2;
/// How many CPUs.
const RETIRING_CPUS: usize = 4;

impl<R: Rig> Worker<'_, R> {
    /// Now and then says of a frame of the run that it is bad: that frame.
    pub(super) fn retire_one_of(&mut self, held: HeldFrames) -> Option<PhysFrame> {
        if self.cpu.index() >= RETIRING_CPUS || self.retirements == 0 || !self.random.one_in(64) {
            return None;
        }
        let bad = held.frame + self.random.below(held.order.frames());
        match self.run.rig.service().frames().retire(&self.pin, bad) {
            Ok(_) => {
                self.retirements -= 1;
                Some(bad)
            }
            Err(error) => {
                self.refused("retiring a frame", Text::display(&error));
                None
            }
        }
    }

    /// Keeps a retired frame on the account for good, now that it was freed: whoever is handed it
    /// finds it taken.
    pub(super) fn keep_retired(&mut self, bad: PhysFrame) {
        let holder = self.next_holder(Order::FRAME);
        if let Err(Conflict::Held { frame, by }) = self.run.ownership.claim(bad, Order::FRAME, holder) {
            self.run.fail(Failure::FrameTwice { frame, first: holder, second: by });
        }
    }
}
