//! Pages that are moved, and given up at the new place by another CPU as soon as they are there: its ticket
//! says that no CPU has the translation of the old place, either.

use topomem::VirtAddr;
use topomem::region::{Advice, MremapError, Relocation};

use super::meetings::{MeetingKind, RegionMeeting};
use super::{TAG_WORDS, word};
use crate::oracle::{Contents, PageState, Permits, RegionPage};
use crate::shared::region_pages::{LockedPages, REGION_PAGES};
use crate::shared::rendezvous::Stage;
use crate::worker::Worker;
use crate::{Failure, Rig, Text};

impl<R: Rig> Worker<'_, R> {
    /// Moves pages that may be written to vacant ones.
    pub(super) fn move_pages(&mut self, space: usize) {
        let Some(mut old) = self.lock_pages(space, 4) else { return };
        let first = self.random.index(REGION_PAGES);
        let Some(mut new) = self.region_pages(space).lock(first, old.pages.len()) else { return };
        let is_written = |state: PageState| state.permits == Permits::Writes;
        let is_vacant = |state: PageState| state.permits == Permits::Vacant;
        if new.pages.len() != old.pages.len() || !old.all(is_written) || !new.all(is_vacant) {
            return;
        }
        self.count_changes(1);
        if self.remap(space, &old, &new) {
            self.settle_move(space, &mut old, &mut new);
        }
    }

    /// False without memory.
    fn remap(&self, space: usize, old: &LockedPages<'_>, new: &LockedPages<'_>) -> bool {
        let target = self.region_space(space);
        let to = Relocation::Fixed(new.start());
        match target.mremap(&self.pin, old.start(), old.bytes(), new.bytes(), to) {
            Ok(_) => true,
            Err(MremapError::OutOfFrames(_)) => false,
            Err(error) => {
                self.refused("moving a region", Text::display(&error));
                false
            }
        }
    }

    /// The pages are at their new place, with the contents that they had, and get tags of that place.
    fn settle_move(&self, space: usize, old: &mut LockedPages<'_>, new: &mut LockedPages<'_>) {
        for (number, page) in new.pages.iter().enumerate() {
            let (from, had) = (&old.pages[number], old.states[number]);
            let expected = from.expected(had);
            self.expect_moved(space, page, expected);
            let state = new.states[number].holding(Permits::Writes, had.contents);
            // It is mapped if it has a tag: no memory is needed.
            if had.contents == Contents::Tag {
                self.write_tag(space, page.address, page.tag(state.written));
            }
            new.states[number] = state;
        }
        old.become_each(|state| state.holding(Permits::Vacant, Contents::Zeros));
    }

    fn expect_moved(&self, space: usize, page: &RegionPage, expected: u64) {
        for offset in TAG_WORDS {
            let address = word(page.address, offset);
            if let Ok(found) = self.read_word(self.region_space(space), address)
                && found != expected
            {
                let (cpu, space) = (self.cpu, self.space_name(space));
                self.run.fail(Failure::WrongContents { cpu, space, address, expected, found });
            }
        }
    }

    /// Moves a page, and has another CPU give it up at the new place, if one comes soon.
    pub(super) fn move_before_a_witness(&mut self, space: usize) {
        let pages = self.region_pages(space);
        let Some(mut old) = self.lock_pages(space, 1) else { return };
        let places = [(); 4].map(|()| self.random.index(REGION_PAGES));
        let is_vacant = |place: &usize| pages.page(*place).state().permits == Permits::Vacant;
        let Some(to) = places.into_iter().find(is_vacant) else { return };
        let Some(mut new) = pages.lock(to, 1) else { return };
        let (page, state) = (&old.pages[0], old.states[0]);
        if state.permits != Permits::Writes || new.states[0].permits != Permits::Vacant {
            return;
        }
        // It must be mapped.
        let tagged = state.holding(Permits::Writes, Contents::Tag);
        if !self.write_tag(space, page.address, page.tag(tagged.written)) {
            return;
        }
        old.states[0] = tagged;
        self.count_changes(1);
        let from = pages.number_of(page);
        let mut moved = false;
        self.before_a_witness(RegionMeeting { space, page: from, to, kind: MeetingKind::Move }, |this| {
            moved = this.remap(space, &old, &new);
            (!moved).then_some(Stage::Refused)
        });
        if moved {
            new.become_each(|state| state.holding(Permits::Writes, Contents::Zeros));
            old.become_each(|state| state.holding(Permits::Vacant, Contents::Zeros));
        }
    }

    /// Gives up a page that another CPU moves from `old` to `new`, as soon as it is there.
    pub(super) fn give_up_moved(&self, space: usize, old: VirtAddr, new: VirtAddr) {
        let (run, target) = (self.run, self.region_space(space));
        // The translation must be in the TLB before.
        let _ = self.read_word(target, old);
        run.witnessed.enter(Stage::Ready);
        while target.translate(&self.pin, new).is_none() {
            if run.witnessed.stage() == Stage::Refused {
                return;
            }
            self.turn();
        }
        self.give_up(space, new);
        if let Some(found) = run.rig.load(old) {
            let (cpu, space) = (self.cpu, self.space_name(space));
            run.fail(Failure::StillMapped { cpu, space, address: old, found });
        }
    }

    /// Gives up the page at `page`, which another CPU has just moved there, and waits for that alone.
    fn give_up(&self, space: usize, page: VirtAddr) {
        match self.region_space(space).madvise(&self.pin, page, 4096, Advice::DontNeed) {
            Ok(discarded) => discarded.wait(&self.pin),
            Err(error) => self.refused("giving up a page that was moved", Text::display(&error)),
        }
    }
}
