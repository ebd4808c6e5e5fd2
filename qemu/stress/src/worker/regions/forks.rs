//! Copies of the shared spaces: each has what its parent had, and neither sees what the other writes.

use topomem::AddressSpace;
use topomem::region::ForkError;

use super::meetings::RegionMeeting;
use super::{TAG_WORDS, WITNESS_WORD, word};
use crate::oracle::{PageState, Permits, Refusal, RegionPage, RegionTag, Space};
use crate::shared::region_pages::REGION_PAGES;
use crate::shared::rendezvous::Stage;
use crate::worker::Worker;
use crate::{Failure, Rig, Text};

/// In the place of a space's number in tags that are written to copies.
const COPY: u8 = 15;

/// How many pages of a copy are looked at in one visit.
const LOOKED_AT: usize = 24;

/// A copy of a shared space, which this CPU alone uses.
pub(in crate::worker) struct Child<R: Rig> {
    space: AddressSpace<R::Machine>,
    /// The number of the space among the run's that it is a copy of.
    of: usize,
    known: [Known; REGION_PAGES],
}

/// What is known of a page of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// What it was at the time of the fork, if no CPU was changing it.
    AtFork(Option<PageState>),
    /// It was looked at: no access, or these words: the two that carry tags, and the witness's.
    Refused(Refusal),
    Holds([u64; 3]),
}

impl<R: Rig> Worker<'_, R> {
    /// Makes a copy of `space`, or looks at the copy that there is.
    pub(super) fn fork_or_visit(&mut self, space: usize) {
        match self.child.take() {
            None => self.child = self.fork_shared(space),
            Some(mut child) => {
                self.activate_other(&child.space);
                self.visit(&mut child);
                let grandchild = if self.random.one_in(4) { self.fork_again(&child) } else { None };
                self.activate(space);
                self.child = match grandchild {
                    Some(grandchild) => Some(grandchild),
                    None if self.random.one_in(3) => None,
                    None => Some(child),
                };
            }
        }
    }

    /// Copies `space` before a witness, which writes to the page between two looks at the copy: that must not
    /// change.
    pub(super) fn fork_before_a_witness(&mut self, meeting: RegionMeeting) {
        let page = self.region_pages(meeting.space).page(meeting.page);
        let mut copy = None;
        self.before_a_witness(meeting, |this| {
            copy = this.fork(this.region_space(meeting.space)).map(|child| {
                this.activate_other(&child);
                let known = this.look_at_copy(&child, page);
                (child, known)
            });
            Some(Stage::HandedOver)
        });
        if let Some((child, known)) = copy {
            let found = self.look_at_copy(&child, page);
            if let (Some(known), Some(found)) = (known, found) {
                self.judge_copy(page, known, found);
            }
            self.activate(meeting.space);
        }
    }

    pub(super) fn fork_shared(&mut self, space: usize) -> Option<Child<R>> {
        let pages = self.region_pages(space).all();
        let mut known = [Known::AtFork(None); REGION_PAGES];
        let mut before = [PageState::NEW; REGION_PAGES];
        pages.iter().zip(&mut before).for_each(|(page, before)| *before = page.state());
        let child = self.fork(self.region_space(space))?;
        for ((page, before), known) in pages.iter().zip(before).zip(&mut known) {
            if page.state() == before && !before.busy {
                *known = Known::AtFork(Some(before));
            }
        }
        self.count_changes(1);
        Some(Child { space: child, of: space, known })
    }

    /// The copy of a copy has what that has.
    fn fork_again(&self, child: &Child<R>) -> Option<Child<R>> {
        let space = self.fork(&child.space)?;
        self.count_changes(1);
        Some(Child { space, of: child.of, known: child.known })
    }

    fn fork(&self, space: &AddressSpace<R::Machine>) -> Option<AddressSpace<R::Machine>> {
        match space.fork(&self.pin) {
            Ok(child) => Some(child),
            Err(ForkError::OutOfFrames(_)) => None,
            Err(error) => {
                self.refused("copying a space", Text::display(&error));
                None
            }
        }
    }

    /// Looks at some pages of `child`, which is active, and writes to others.
    fn visit(&mut self, child: &mut Child<R>) {
        for _ in 0..LOOKED_AT {
            let number = self.random.index(REGION_PAGES);
            let page = self.region_pages(child.of).page(number);
            let known = &mut child.known[number];
            let Some(found) = self.look_at_copy(&child.space, page) else { continue };
            self.judge_copy(page, *known, found);
            *known = found;
            if matches!(found, Known::Holds(_)) && self.random.one_in(3) {
                self.serial = self.serial.wrapping_add(1);
                let tag = RegionTag { space: COPY, page: self.cpu.index() as u16, written: self.serial };
                if let Some(written) = self.write_to_copy(&child.space, page, tag.encode()) {
                    *known = written;
                }
            }
        }
        self.count_probes(LOOKED_AT as u64);
    }

    /// `None` without memory for the page.
    fn look_at_copy(&self, space: &AddressSpace<R::Machine>, page: &RegionPage) -> Option<Known> {
        let mut words = [0; 3];
        for (value, offset) in words.iter_mut().zip(TAG_WORDS.into_iter().chain([WITNESS_WORD])) {
            match self.read_word(space, word(page.address, offset)) {
                Ok(found) => *value = found,
                Err(Refusal::OutOfFrames) => return None,
                Err(error) => return Some(Known::Refused(error)),
            }
        }
        Some(Known::Holds(words))
    }

    fn write_to_copy(&self, space: &AddressSpace<R::Machine>, page: &RegionPage, tag: u64) -> Option<Known> {
        for offset in TAG_WORDS.into_iter().chain([WITNESS_WORD]) {
            // Not permitted, or there is no memory: the page is as before.
            self.write_word(space, word(page.address, offset), tag).ok()?;
        }
        Some(Known::Holds([tag; 3]))
    }

    /// Is a page of a copy `found` to be what is `known` of it?
    fn judge_copy(&self, page: &RegionPage, known: Known, found: Known) {
        let expected = match known {
            Known::AtFork(None) => return,
            Known::AtFork(Some(state)) => match state.permits {
                Permits::Vacant => Known::Refused(Refusal::NotMapped),
                Permits::Nothing => Known::Refused(Refusal::Denied),
                Permits::Reads | Permits::Writes => {
                    let expected = page.expected(state);
                    // What a witness has written before is not known.
                    let witness = if let Known::Holds([.., witness]) = found { witness } else { 0 };
                    Known::Holds([expected, expected, witness])
                }
            },
            known => known,
        };
        let (cpu, space, address) = (self.cpu, Space::Private, page.address);
        match (expected, found) {
            (expected, found) if expected == found => {}
            (Known::Holds(expected), Known::Holds(found)) => {
                let words = expected.into_iter().zip(found);
                for (expected, found) in words.filter(|(expected, found)| expected != found) {
                    self.run.fail(Failure::WrongContents { cpu, space, address, expected, found });
                }
            }
            (Known::Refused(_), Known::Holds([found, ..])) => {
                self.run.fail(Failure::StillMapped { cpu, space, address, found });
            }
            _ => self.run.fail(Failure::MissingMapping { cpu, space, address }),
        }
    }

    /// Gives the copy back; none of its pages may be in use.
    pub(in crate::worker) fn drop_child(&mut self) {
        self.child = None;
    }
}
