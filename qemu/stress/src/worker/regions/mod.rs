//! Regions of shared spaces: mapped, unmapped, protected, given up, moved, copied by forks, and used by all
//! CPUs meanwhile.

mod changes;
mod elsewhere;
mod files;
mod forks;
mod meetings;
mod migrations;
mod moves;
mod uses;
mod witnessed;

pub(super) use forks::Child;
pub(super) use uses::LastWrite;

use core::sync::atomic::Ordering;

use topomem::region::{FaultAccess, PageFault};
use topomem::{AddressSpace, VirtAddr, WakersDue};

use super::{KERNEL, Worker};
use crate::oracle::{Refusal, Shown, Space};
use crate::shared::region_pages::{REGION_PAGES, RegionPages};
use crate::{Failure, Rig, Text};

/// How often an access that faults is tried again: others may take the page away in between.
const TRIES: u32 = 10_000;

/// The words of a page that carry its tag: the first and the last.
const TAG_WORDS: [u64; 2] = [0, 4088];

/// The word that a CPU writes which witnesses a fork.
const WITNESS_WORD: u64 = 1024;

/// In the place of the active space's number: one that is no space of the run.
const ELSEWHERE: usize = usize::MAX;

fn word(address: VirtAddr, offset: u64) -> VirtAddr {
    VirtAddr::new_truncate(address.as_u64() + offset)
}

impl<'r, R: Rig> Worker<'r, R> {
    /// One operation on regions of one of the shared spaces.
    pub(super) fn regions_step(&mut self) {
        if self.be_witness() {
            return;
        }
        let spaces = self.run.spaces.len();
        let space = match self.active {
            KERNEL | ELSEWHERE => 1 + self.random.index(spaces - 1),
            _ if self.random.one_in(12) => 1 + self.random.index(spaces - 1),
            active => active,
        };
        self.activate(space);
        match self.random.below(100) {
            0..28 => self.use_pages(space),
            28..31 => self.use_file(),
            31..34 => self.migrate_pages(space),
            34..54 => self.change_pages(space),
            54..64 => self.write_pages(space),
            64..70 => self.move_pages(space),
            70..86 => self.change_before_a_witness(space),
            86..90 => self.use_elsewhere(space),
            _ => self.fork_or_visit(space),
        }
    }

    /// The pages of the run's space number `space`.
    fn region_pages(&self, space: usize) -> &'r RegionPages {
        &self.run.spaces[space].regions
    }

    /// The run's space number `space`.
    fn region_space(&self, space: usize) -> &'r AddressSpace<R::Machine> {
        self.run.spaces[space].space()
    }

    /// Makes `space` the active one, which is none of the run's.
    fn activate_other(&mut self, space: &AddressSpace<R::Machine>) {
        // SAFETY: as in `activate`; the space outlives its activity here.
        let due = unsafe { space.activate(&self.pin) };
        self.active = ELSEWHERE;
        if due == WakersDue::Perhaps {
            self.run.rig.service().wake_due(&self.pin);
        }
    }

    /// Reads the word at `address` of `space`, which is active, as a program does.
    fn read_word(&self, space: &AddressSpace<R::Machine>, address: VirtAddr) -> Result<u64, Refusal> {
        self.access(space, address, FaultAccess::Read, || self.run.rig.load(address))
    }

    /// Writes the word at `address` of `space`, which is active, as a program does.
    fn write_word(
        &self,
        space: &AddressSpace<R::Machine>,
        address: VirtAddr,
        value: u64,
    ) -> Result<(), Refusal> {
        self.access(space, address, FaultAccess::Write, || self.run.rig.store(address, value))
    }

    fn access<T>(
        &self,
        space: &AddressSpace<R::Machine>,
        address: VirtAddr,
        access: FaultAccess,
        attempt: impl Fn() -> Option<T>,
    ) -> Result<T, Refusal> {
        for _ in 0..TRIES {
            if let Some(done) = attempt() {
                return Ok(done);
            }
            space.on_page_fault(&self.pin, PageFault::new(address, access))?;
        }
        self.refused("an access whose fault is answered", Text::display(&"it faults again and again"));
        Err(Refusal::NotMapped)
    }

    /// Reports what an access of the word at `address` has shown.
    fn report_shown(&self, shown: Shown, space: Space, address: VirtAddr, found: Option<u64>) {
        let cpu = self.cpu;
        let failure = match (shown, found) {
            (Shown::Fine, _) => return,
            (Shown::Stale(expected), _) => {
                Failure::StaleTranslation { cpu, space, address, expected, found: found.unwrap_or(0) }
            }
            (Shown::Foreign(expected), _) => {
                Failure::WrongContents { cpu, space, address, expected, found: found.unwrap_or(0) }
            }
            (Shown::Permitted, Some(found)) => Failure::StillMapped { cpu, space, address, found },
            (Shown::Permitted, None) => Failure::StaleWrite { cpu, space, address },
            (Shown::Refused, _) => Failure::MissingMapping { cpu, space, address },
        };
        self.run.fail(failure);
    }

    fn count_changes(&self, changes: u64) {
        self.run.counters(self.cpu).changes.fetch_add(changes, Ordering::Relaxed);
    }

    fn count_probes(&self, probes: u64) {
        self.run.counters(self.cpu).probes.fetch_add(probes, Ordering::Relaxed);
    }

    /// A page that is being changed, or any.
    fn draw_page(&mut self, space: usize) -> usize {
        if self.random.one_in(2) {
            // Relaxed: a hint.
            self.run.spaces[space].hot.load(Ordering::Relaxed) as usize % REGION_PAGES
        } else {
            self.random.index(REGION_PAGES)
        }
    }
}
