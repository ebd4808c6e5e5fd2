//! Changes that two CPUs make of one page, the second right after the first: the second CPU's ticket
//! says that no CPU has the translation which the first has removed.

use topomem::address_space::RemapError;
use topomem::{Machine, Platform, Unmapping, VirtAddr};

use crate::oracle::{Phase, SlotChange, SlotState};
use crate::shared::rendezvous::{Announcement, Meeting, PairedChange, Stage};
use crate::shared::shared_space::{Backing, SharedSpace, SlotPage};
use crate::worker::{KERNEL, Worker};
use crate::{Rig, Text};

/// For how many milliseconds a CPU waits for a second one.
const OFFERED_FOR: u64 = 2;

impl<R: Rig> Worker<'_, R> {
    /// Changes the page numbered `index` of the space numbered `space` together with another CPU, if one
    /// comes soon.
    pub(super) fn change_in_pair(&mut self, space: usize, index: usize, change: SlotChange<'_>) {
        let run = self.run;
        let writable = change.state().phase == Phase::Writable;
        let kind = match self.random.below(3) {
            0 if writable => PairedChange::ProtectTwice,
            1 => PairedChange::RemapAndUnmap,
            _ => PairedChange::UnmapTwice,
        };
        let announcement =
            if self.random.one_in(2) { Announcement::Immediate } else { Announcement::Batched };
        let shared = &run.spaces[space];
        let page = &shared.pages[index];
        let Some(backing) = page.backing() else { return };
        let meeting = Meeting { space, page: index, change: kind, announcement };
        if !run.rendezvous.offer(meeting) {
            return;
        }
        let until = run.elapsed() + OFFERED_FOR;
        while run.rendezvous.stage() == Stage::Offered {
            if run.elapsed() >= until && run.rendezvous.withdraw(meeting) {
                return;
            }
            self.relax();
        }
        self.wait_for(Stage::Ready);
        change.begin();
        if kind == PairedChange::UnmapTwice {
            self.let_go(backing);
        }
        change.hand_over();
        run.rendezvous.enter(Stage::HandedOver);
        match announcement {
            Announcement::Immediate => self.announce_first(shared, page, kind),
            Announcement::Batched => self.keep_first(shared, page, kind),
        }
        self.wait_for_end();
    }

    /// Makes the first of two changes, and waits until it is complete.
    fn announce_first(&self, shared: &SharedSpace<R::Machine>, page: &SlotPage, kind: PairedChange) {
        let (space, range) = (shared.space(), page.range());
        let changed = match kind {
            PairedChange::UnmapTwice => {
                space.unmap(&self.pin, range).map_err(|error| self.first_refused(&error))
            }
            PairedChange::ProtectTwice => space
                .protect(&self.pin, range, shared.read_only())
                .map_err(|error| self.first_refused(&error)),
            PairedChange::RemapAndUnmap => {
                space.remap(&self.pin, range, shared.moved(page)).map_err(|error| self.remap_refused(&error))
            }
        };
        if let Ok(changed) = changed {
            changed.wait(&self.pin);
        }
    }

    /// Makes the first of two changes in a batch, and issues that once the second is complete.
    fn keep_first(&self, shared: &SharedSpace<R::Machine>, page: &SlotPage, kind: PairedChange) {
        let range = page.range();
        let mut batch = shared.space().batch(&self.pin);
        let changed = match kind {
            PairedChange::UnmapTwice => batch.unmap(range).map_err(|error| self.first_refused(&error)),
            PairedChange::ProtectTwice => {
                batch.protect(range, shared.read_only()).map_err(|error| self.first_refused(&error))
            }
            PairedChange::RemapAndUnmap => {
                batch.remap(range, shared.moved(page)).map_err(|error| self.remap_refused(&error))
            }
        };
        if changed.is_ok() {
            self.wait_for(Stage::Done);
            batch.issue().wait(&self.pin);
        }
    }

    fn remap_refused(&self, error: &RemapError) {
        if matches!(error, RemapError::OutOfFrames(_)) {
            // Memory may be short.
            self.run.rendezvous.enter(Stage::Refused);
        } else {
            self.first_refused(error);
        }
    }

    fn first_refused(&self, error: &dyn core::fmt::Display) {
        self.refused("changing a page that another CPU changes, too", Text::display(&error));
        self.run.rendezvous.enter(Stage::Refused);
    }

    /// The first CPU's end of a meeting.
    fn wait_for_end(&self) {
        self.wait_for(Stage::Done);
        self.run.rendezvous.enter(Stage::Empty);
    }

    /// Makes the second of two changes, if another CPU offers to make the first; says whether one did.
    pub(in crate::worker) fn join_pair(&mut self) -> bool {
        let run = self.run;
        let Some(meeting) = run.rendezvous.accept::<Meeting>() else { return false };
        let space = &run.spaces[meeting.space];
        let page = &space.pages[meeting.page];
        if meeting.space != KERNEL {
            self.activate(meeting.space);
        }
        // What changes must be in the TLB before.
        self.probe(meeting.space, page);
        let before = page.slot.state();
        run.rendezvous.enter(Stage::Ready);
        let first = loop {
            match run.rendezvous.stage() {
                Stage::HandedOver if self.is_first_seen(space, page, meeting.change) => break true,
                Stage::Refused => break false,
                _ => self.relax(),
            }
        };
        let change = page.slot.take_over();
        if !first {
            change.publish(before.version, before.phase);
        } else if let Some(backing) = page.backing() {
            self.change_again(space, page, &change, (before, backing), meeting.change);
            // This CPU must have dropped its translation, too.
            self.probe(meeting.space, page);
        }
        drop(change);
        run.rendezvous.enter(Stage::Done);
        true
    }

    /// Does the page table show the first CPU's change?
    fn is_first_seen(&self, space: &SharedSpace<R::Machine>, page: &SlotPage, kind: PairedChange) -> bool {
        let find = |address: VirtAddr| space.space().translate(&self.pin, address);
        match kind {
            PairedChange::UnmapTwice => find(page.address).is_none(),
            PairedChange::ProtectTwice => {
                find(page.address).is_some_and(|found| found.leaf.protection == space.read_only())
            }
            PairedChange::RemapAndUnmap => find(space.moved(page)).is_some(),
        }
    }

    /// Makes the second change, and waits for its ticket alone. `known` is how the slot was before the
    /// first.
    fn change_again(
        &mut self,
        space: &SharedSpace<R::Machine>,
        page: &SlotPage,
        change: &SlotChange<'_>,
        known: (SlotState, Backing),
        kind: PairedChange,
    ) {
        let (before, backing) = known;
        let pages = match kind {
            PairedChange::ProtectTwice => {
                let protected = space.space().protect(&self.pin, page.range(), space.read_only());
                protected.map(|changed| self.complete(changed)).map_err(|error| Text::display(&error))
            }
            PairedChange::UnmapTwice => {
                let unmapped = space.space().unmap(&self.pin, page.range());
                unmapped.map(|changed| self.complete(changed)).map_err(|error| Text::display(&error))
            }
            PairedChange::RemapAndUnmap => {
                self.let_go(backing);
                let unmapped = space.space().unmap(&self.pin, space.moved_range(page));
                unmapped.map(|changed| self.complete(changed)).map_err(|error| Text::display(&error))
            }
        };
        let expected = u64::from(kind == PairedChange::RemapAndUnmap);
        match pages {
            Err(error) => return self.refused("changing a page again", error),
            Ok(pages) if pages != expected => {
                return self.refused("changing a page again changed another number", Text::debug(&pages));
            }
            Ok(_) => {}
        }
        match kind {
            PairedChange::ProtectTwice => change.publish(before.version, Phase::ReadOnly),
            PairedChange::UnmapTwice | PairedChange::RemapAndUnmap => {
                self.settle(space, page, change, backing);
            }
        }
    }

    /// Waits for `changed`; says how many pages it changed.
    fn complete<P: Machine>(&self, changed: Unmapping<'_, P>) -> u64 {
        let pages = changed.pages();
        changed.wait(&self.pin);
        pages
    }

    fn wait_for(&self, stage: Stage) {
        while self.run.rendezvous.stage() != stage {
            self.relax();
        }
    }

    /// One turn of a loop that waits for the other CPU; serves shootdowns.
    fn relax(&self) {
        self.run.rig.service().platform().relax();
    }
}
