//! Reclaim in the background, before memory runs out.

use topomem_percpu::CpuPin;

use crate::Machine;
use crate::address_space::Collected;
use crate::budget::Budget;
use crate::service::MemoryService;

impl<P: Machine> MemoryService<P> {
    /// If a node is under pressure, frees what is kept for later use until each zone of it has its high watermark's
    /// frames: what magazines and pools of zeroed frames hold, freed ranges of kernel addresses, what the heap holds
    /// in reserve, and empty page tables. Other CPUs' tasks are woken to give back what their magazines hold.
    ///
    /// One pass, however little it frees: [`Frames::reclaim`](topomem_numa::frames::Frames::reclaim) says when the
    /// next one is due.
    pub(in crate::service) fn balance(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let steps: [fn(&Self, &CpuPin, &mut Budget) -> Collected; 3] =
            [Self::flush_ranges, Self::reclaim_objects, Self::reclaim_tables];
        let mut steps = steps.into_iter();
        let mut all = Collected::NOTHING;
        let reclaimed = self.frames.reclaim(pin, || {
            let done = steps.next()?(self, pin, budget);
            all = all.and(done);
            Some(done.freed)
        });
        let Some(reclaimed) = reclaimed else { return Collected::NOTHING };
        let mut others = reclaimed.asked;
        if steps.len() < 2 {
            // The heap has asked all of them.
            others = self.shootdown.kernel().cpus();
        }
        others.remove(pin.cpu());
        others.iter().for_each(|cpu| self.task_wakers.note(cpu));
        all
    }
}
