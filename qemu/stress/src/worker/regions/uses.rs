//! Reads and writes of pages that other CPUs may be changing.

use alloc::vec::Vec;

use super::{TAG_WORDS, word};
use crate::Failure;
use crate::Rig;
use crate::oracle::{PageState, Permits, RegionPage};
use crate::shared::region_pages::REGION_PAGES;
use crate::worker::Worker;

/// How often a page is used while nothing changes there.
const USES: u32 = 12;

/// Where CPUs write words of their own, and how many of them do.
const OWN_WORDS: u64 = 2048;
const OWN_WORDS_COUNT: usize = 128;

/// What this CPU has written last to its own word of a page, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::worker) struct LastWrite {
    /// The page's version; 0 if there is nothing to remember.
    version: u32,
    value: u64,
}

impl LastWrite {
    /// Room for those of all pages of `spaces` spaces; `None` without memory.
    pub(in crate::worker) fn room(spaces: usize) -> Option<Vec<LastWrite>> {
        let mut room = Vec::new();
        room.try_reserve_exact(spaces * REGION_PAGES).ok()?;
        room.resize(spaces * REGION_PAGES, LastWrite::default());
        Some(room)
    }
}

impl<R: Rig> Worker<'_, R> {
    /// Uses one page over and over, until it has changed: the first times bring the translation into the
    /// TLB, the time after the change tells.
    pub(super) fn use_pages(&mut self, space: usize) {
        let number = self.draw_page(space);
        let writes = self.random.one_in(3);
        let page = self.region_pages(space).page(number);
        let first = page.state();
        for turn in 0..USES {
            let before = self.read_page(space, page, TAG_WORDS[turn as usize % 2]);
            if writes {
                self.write_own_word(space, number, page);
            }
            if before.version != first.version || self.run.is_stopped() {
                break;
            }
        }
        self.count_probes(u64::from(USES));
    }

    /// Reads a word of `page` that carries the tag. Returns the page's state from before that.
    pub(super) fn read_page(&self, space: usize, page: &RegionPage, offset: u64) -> PageState {
        let address = word(page.address, offset);
        let before = page.state();
        let outcome = self.read_word(self.region_space(space), address);
        let shown = page.judge_read(before, page.state(), outcome);
        self.report_shown(shown, self.space_name(space), address, outcome.ok());
        before
    }

    /// Writes this CPU's own word of `page`: what it has written there before must be there until the page
    /// changes.
    pub(super) fn write_own_word(&mut self, space: usize, number: usize, page: &RegionPage) {
        let cpu = self.cpu.index();
        if cpu >= OWN_WORDS_COUNT {
            return;
        }
        let address = word(page.address, OWN_WORDS + 8 * cpu as u64);
        let target = self.region_space(space);
        let last = self.last_writes[space * REGION_PAGES + number];
        let before = page.state();
        if before.permits == Permits::Writes && last.version == before.version {
            let found = self.read_word(target, address);
            self.judge_own_word(space, page, before, last.value, found.ok(), address);
        }
        self.serial = self.serial.wrapping_add(1);
        let value = (cpu as u64) << 32 | u64::from(self.serial);
        let written = self.write_word(target, address, value);
        let after = page.state();
        self.report_shown(page.judge_write(before, after, written), self.space_name(space), address, None);
        if written.is_err() {
            return;
        }
        let steady = before == after && !before.busy;
        if steady {
            let found = self.read_word(target, address);
            self.judge_own_word(space, page, before, value, found.ok(), address);
        }
        // What was written while another CPU had the page for a change may stay or go, whether the page has
        // another version afterwards or not.
        self.last_writes[space * REGION_PAGES + number] =
            if steady { LastWrite { version: before.version, value } } else { LastWrite::default() };
    }

    fn judge_own_word(
        &self,
        space: usize,
        page: &RegionPage,
        before: PageState,
        expected: u64,
        found: Option<u64>,
        address: topomem::VirtAddr,
    ) {
        if let Some(found) = found
            && found != expected
            && page.state() == before
            && !before.busy
        {
            let (cpu, space) = (self.cpu, self.space_name(space));
            self.run.fail(Failure::LostWrite { cpu, space, address, expected, found });
        }
    }
}
