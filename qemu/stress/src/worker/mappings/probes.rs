//! Reads and writes of shared mappings, judged.

use core::sync::atomic::Ordering;

use topomem::VirtAddr;

use crate::oracle::Verdict;
use crate::shared::shared_space::SlotPage;
use crate::worker::{KERNEL, Worker};
use crate::{Failure, Rig};

/// How often a slot is probed while nothing changes there.
const PROBES: u32 = 24;

impl<R: Rig> Worker<'_, R> {
    /// Probes one slot of the kernel's or the active space, over and over, until it has changed:
    /// the first probes bring the translation into the TLB, the one after the change tells.
    pub(in crate::worker) fn probe_step(&mut self) {
        let run = self.run;
        let index = if self.random.one_in(2) { KERNEL } else { self.active };
        let space = &run.spaces[index];
        let slot = if self.random.one_in(2) {
            space.hot.load(Ordering::Relaxed) as usize
        } else {
            self.random.index(space.pages.len())
        };
        let page = &space.pages[slot];
        let writes = self.random.one_in(3);
        let first = page.slot.state();
        for _ in 0..PROBES {
            let state = page.slot.state();
            self.read(index, page);
            if writes {
                self.write(index, page);
            }
            if state != first || run.is_stopped() {
                break;
            }
        }
        run.counters(self.cpu).probes.fetch_add(u64::from(PROBES), Ordering::Relaxed);
    }

    /// Reads each slot of `space`, the kernel's or the active one, once.
    pub(in crate::worker) fn look_around(&self, space: usize) {
        let pages = &self.run.spaces[space].pages;
        pages.iter().for_each(|page| self.read(space, page));
        self.run.counters(self.cpu).probes.fetch_add(pages.len() as u64, Ordering::Relaxed);
    }

    /// Reads and writes `page` of `space`, the kernel's or the active one.
    pub(in crate::worker) fn probe(&self, space: usize, page: &SlotPage) {
        self.read(space, page);
        self.write(space, page);
    }

    fn read(&self, space: usize, page: &SlotPage) {
        let before = page.slot.state();
        let outcome = self.run.rig.load(page.address);
        let verdict = page.slot.judge_read(before, outcome);
        self.judge(space, page.address, verdict, outcome.unwrap_or(0));
    }

    fn write(&self, space: usize, page: &SlotPage) {
        let address = page.address.as_u64() + u64::from(self.scratch_offset());
        let address = VirtAddr::new_truncate(address);
        let before = page.slot.state();
        let mut outcome = self.run.rig.store(address, self.cpu.index() as u64);
        if outcome.is_none() {
            // A page that has become writable may fault once more by a translation that is
            // merely too strict; the fault drops it.
            outcome = self.run.rig.store(address, self.cpu.index() as u64);
        }
        self.judge(space, address, page.slot.judge_write(before, outcome), 0);
    }

    fn judge(&self, space: usize, address: VirtAddr, verdict: Verdict, found: u64) {
        let (cpu, space) = (self.cpu, self.space_name(space));
        match verdict {
            Verdict::Fine => {}
            Verdict::Stale { expected } => {
                self.run.fail(Failure::StaleTranslation { cpu, space, address, expected, found });
            }
            Verdict::StaleWrite => self.run.fail(Failure::StaleWrite { cpu, space, address }),
            Verdict::Missing => self.run.fail(Failure::MissingMapping { cpu, space, address }),
        }
    }
}
