//! Regions of this CPU's own, wherever the space puts them: they begin with zeros, and are nobody else's.

use topomem::VirtAddr;
use topomem::region::{Advice, MapRequest, Populate, Relocation};

use super::word;
use crate::oracle::{Refusal, RegionTag};
use crate::worker::Worker;
use crate::{Failure, Rig, Text};

/// How many pages such a region has at most.
const MOST: u64 = 40;
/// In the place of a space's number in tags of this CPU's own pages.
const OWN: u8 = 14;

impl<R: Rig> Worker<'_, R> {
    pub(super) fn use_elsewhere(&mut self, space: usize) {
        let pages = 1 + self.random.below(MOST);
        let populate = if self.random.one_in(2) { Populate::Now } else { Populate::OnDemand };
        let target = self.region_space(space);
        let request = MapRequest::anonymous(pages << 12).populate(populate);
        let Ok(mut start) = target.mmap(&self.pin, &request) else { return };
        self.run.spaces[space].note_placed(start);
        let mut length = pages;
        let written = self.fill_own(space, start, pages);
        if self.random.one_in(2) {
            // Longer: where it is, or elsewhere with its contents.
            if let Ok(moved) =
                target.mremap(&self.pin, start, pages << 12, (pages + 3) << 12, Relocation::MayMove)
            {
                self.run.spaces[space].note_placed(moved);
                (start, length) = (moved, pages + 3);
                (0..length).for_each(|page| self.check_own(space, start, page, written));
            }
        }
        if self.random.one_in(2)
            && let Ok(discarded) = target.madvise(&self.pin, start, length << 12, Advice::DontNeed)
        {
            discarded.wait(&self.pin);
            (0..length).for_each(|page| self.check_own(space, start, page, 0));
        }
        match target.munmap(&self.pin, start, length << 12) {
            Ok(unmapping) if self.random.one_in(2) => unmapping.detach(),
            Ok(unmapping) => unmapping.wait(&self.pin),
            Err(error) => self.refused("unmapping a region of its own", Text::display(&error)),
        }
        self.count_changes(1);
        self.count_probes(pages);
    }

    /// All pages are zero; they get tags. Returns the set of those that have one, as bits: there may be no
    /// memory for others.
    fn fill_own(&mut self, space: usize, start: VirtAddr, pages: u64) -> u64 {
        let mut written = 0;
        for page in 0..pages {
            // Reads find the frame of zeros that is shared, or not.
            if self.random.one_in(2) {
                self.check_own(space, start, page, 0);
            }
            let address = word(start, page << 12);
            let target = self.region_space(space);
            match self.write_word(target, word(address, 0), self.own_tag(page)) {
                Ok(()) => written |= 1 << page,
                Err(Refusal::OutOfFrames) => continue,
                Err(error) => {
                    self.refused("writing to a region of its own", Text::debug(&error));
                    break;
                }
            }
            let offset = 8 * (1 + self.random.below(511));
            self.expect_own(space, word(address, offset), 0);
        }
        written
    }

    fn own_tag(&self, page: u64) -> u64 {
        RegionTag { space: OWN, page: self.cpu.index() as u16, written: page as u32 }.encode()
    }

    /// The page holds its tag, if `written` has it, else zero.
    fn check_own(&self, space: usize, start: VirtAddr, page: u64, written: u64) {
        let address = word(start, page << 12);
        let expected = if written & 1 << page == 0 { 0 } else { self.own_tag(page) };
        self.expect_own(space, address, expected);
    }

    fn expect_own(&self, space: usize, address: VirtAddr, expected: u64) {
        match self.read_word(self.region_space(space), address) {
            Ok(found) if found == expected => {}
            Ok(found) => {
                let (cpu, space) = (self.cpu, self.space_name(space));
                self.run.fail(Failure::WrongContents { cpu, space, address, expected, found });
            }
            Err(Refusal::OutOfFrames) => {}
            Err(error) => self.refused("reading a region of its own", Text::debug(&error)),
        }
    }
}
