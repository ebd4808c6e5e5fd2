//! Where all CPUs wait for each other, without a lock and without keeping the CPU from interrupts.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Rig;

/// A meeting of a fixed number of CPUs; used again and again.
#[derive(Debug)]
pub(crate) struct Barrier {
    members: usize,
    arrived: AtomicUsize,
    meeting: AtomicUsize,
    abandoned: AtomicBool,
}

impl Barrier {
    pub(crate) const fn new(members: usize) -> Barrier {
        Barrier {
            members,
            arrived: AtomicUsize::new(0),
            meeting: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Lets everybody pass from now on: a member will never arrive again.
    #[cfg(feature = "sim")]
    pub(crate) fn abandon(&self) {
        // Release pairs with the Acquire of `wait`: whoever passes sees why.
        self.abandoned.store(true, Ordering::Release);
    }

    /// Comes back when all members have arrived, or the barrier has been abandoned.
    pub(crate) async fn wait(&self, rig: &impl Rig) {
        // Acquire pairs with the last arrival's Release: everybody's work before is seen after.
        let meeting = self.meeting.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.members {
            self.arrived.store(0, Ordering::Relaxed);
            self.meeting.store(meeting.wrapping_add(1), Ordering::Release);
            return;
        }
        while self.meeting.load(Ordering::Acquire) == meeting && !self.abandoned.load(Ordering::Acquire) {
            rig.rest(1).await;
        }
    }
}
