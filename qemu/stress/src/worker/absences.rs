//! CPUs go off and come back, while the others change mappings, wait for them and check.

use core::sync::atomic::Ordering;

use super::{KERNEL, Worker};
use crate::{Course, Rig, Text};

/// A CPU is there for up to so many milliseconds between two absences.
const LONGEST_PRESENCE: u64 = 60;
/// It is away for up to so many.
const LONGEST_ABSENCE: u64 = 25;

impl<R: Rig> Worker<'_, R> {
    /// Where the scenario has CPUs come and go, and it is time, goes off and comes back. The last
    /// CPU that is there stays.
    pub(super) fn be_absent_at_times(&mut self) {
        let run = self.run;
        let now = run.elapsed();
        if run.options.scenario.course != Course::ComeAndGo || now < self.next_absence {
            return;
        }
        // Not at once: what it finds then must have come into its TLB during the run.
        if self.next_absence > 0 && run.depart() {
            self.be_absent();
            run.arrive();
        }
        self.next_absence = run.elapsed() + 1 + self.random.below(LONGEST_PRESENCE);
    }

    fn be_absent(&mut self) {
        self.activate(KERNEL);
        // What changes meanwhile must be in the TLB before, and not after.
        self.look_around(KERNEL);
        let run = self.run;
        let service = run.rig.service();
        // SAFETY: until it is online again this CPU calls wakers, which are in the direct map,
        // and parks.
        if let Err(error) = unsafe { service.cpu_offline(&self.pin) } {
            return self.refused("going offline", Text::display(&error));
        }
        // Those who wait for this CPU alone need not wait any more.
        service.wake_due(&self.pin);
        run.rig.park(1 + self.random.below(LONGEST_ABSENCE) as u32);
        // SAFETY: the kernel's tables are still active, interrupts are on, and nobody else brings
        // this CPU up.
        if let Err(error) = unsafe { service.cpu_online(&self.pin) } {
            return self.refused("coming online", Text::display(&error));
        }
        self.look_around(KERNEL);
        run.counters(self.cpu).absences.fetch_add(1, Ordering::Relaxed);
    }
}
