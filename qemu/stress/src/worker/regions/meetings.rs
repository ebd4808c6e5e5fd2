//! Changes before a witness: another CPU that has a translation of the page in its TLB before the change, and
//! uses the page right after it.

use topomem::Platform;

use super::{TAG_WORDS, WITNESS_WORD, word};
use crate::Rig;
use crate::shared::region_pages::REGION_PAGES;
use crate::shared::rendezvous::{Agreement, Stage};
use crate::worker::Worker;

/// What the witness does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeetingKind {
    /// It gives the page up at the place that it is moved to, as soon as it is there.
    Move,
    /// It reads the page before the change, and uses it after.
    Reader,
    /// It reads and writes the page before the change and after.
    Writer,
    /// It uses the page during the change and after.
    Race,
    /// It writes to the page of the file before it is written back and after.
    File,
}

/// What two CPUs have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegionMeeting {
    /// Index of the space among the run's.
    pub space: usize,
    /// The number of the page among the space's.
    pub page: usize,
    /// The number of the page that it is moved to.
    pub to: usize,
    pub kind: MeetingKind,
}

impl Agreement for RegionMeeting {
    fn encode(self) -> u64 {
        (self.space as u64) << 32
            | (self.page as u64) << 24
            | (self.to as u64) << 16
            | (self.kind as u64) << 8
    }

    fn decode(word: u64) -> Option<RegionMeeting> {
        const KINDS: [MeetingKind; 5] = [
            MeetingKind::Move,
            MeetingKind::Reader,
            MeetingKind::Writer,
            MeetingKind::Race,
            MeetingKind::File,
        ];
        Some(RegionMeeting {
            space: (word >> 32) as usize,
            page: (word >> 24) as u8 as usize % REGION_PAGES,
            to: (word >> 16) as u8 as usize % REGION_PAGES,
            kind: *KINDS.get((word >> 8) as u8 as usize)?,
        })
    }
}

/// For how many milliseconds a CPU waits for a witness.
const OFFERED_FOR: u64 = 3;

impl<R: Rig> Worker<'_, R> {
    /// Makes a change before a witness, if one comes soon. `change` says what the witness is told then.
    pub(super) fn before_a_witness(
        &mut self,
        meeting: RegionMeeting,
        change: impl FnOnce(&mut Self) -> Option<Stage>,
    ) {
        let run = self.run;
        let meetings = &run.witnessed;
        if !meetings.offer(meeting) {
            return;
        }
        let until = self.run.elapsed() + OFFERED_FOR;
        while meetings.stage() == Stage::Offered {
            if self.run.elapsed() >= until && meetings.withdraw(meeting) {
                return;
            }
            self.turn();
        }
        self.wait_for_witness(Stage::Ready);
        if let Some(stage) = change(self) {
            meetings.enter(stage);
        }
        self.wait_for_witness(Stage::Done);
        meetings.enter(Stage::Empty);
    }

    /// Is the witness of another CPU's change, if one asks for it; says whether one did.
    pub(super) fn be_witness(&mut self) -> bool {
        let run = self.run;
        let Some(meeting) = run.witnessed.accept::<RegionMeeting>() else { return false };
        let RegionMeeting { space, page: number, to, kind } = meeting;
        if kind == MeetingKind::File {
            self.witness_writing_back(number);
            return true;
        }
        let pages = self.region_pages(space);
        let page = pages.page(number);
        self.activate(space);
        match kind {
            MeetingKind::Move => self.give_up_moved(space, page.address, pages.page(to).address),
            MeetingKind::Reader => {
                self.read_page(space, page, TAG_WORDS[0]);
                run.witnessed.enter(Stage::Ready);
            }
            MeetingKind::Writer => {
                self.read_page(space, page, TAG_WORDS[0]);
                self.write_own_word(space, number, page);
                run.witnessed.enter(Stage::Ready);
            }
            MeetingKind::Race => {
                run.witnessed.enter(Stage::Ready);
                self.read_page(space, page, TAG_WORDS[0]);
            }
            MeetingKind::File => {}
        }
        if kind != MeetingKind::Move {
            self.wait_for_witness(Stage::HandedOver);
            self.read_page(space, page, TAG_WORDS[0]);
            self.write_own_word(space, number, page);
            // Not permitted, perhaps.
            let value = u64::from(self.serial);
            let _ = self.write_word(self.region_space(space), word(page.address, WITNESS_WORD), value);
        }
        run.witnessed.enter(Stage::Done);
        true
    }

    pub(super) fn wait_for_witness(&self, stage: Stage) {
        while self.run.witnessed.stage() != stage {
            self.turn();
        }
    }

    /// One turn of a loop that waits for the other CPU; serves shootdowns.
    pub(super) fn turn(&self) {
        self.run.rig.service().platform().relax();
    }
}
