//! Changes of the shared pages: mmap, munmap, mprotect, madvise, and new contents.

use core::sync::atomic::Ordering;

use topomem::Access;
use topomem::region::{
    Advice, MadviseError, MapRequest, MmapError, MprotectError, MunmapError, Placement, Populate,
};

use super::{TAG_WORDS, word};
use crate::oracle::{Contents, PageState, Permits, Refusal};
use crate::shared::region_pages::{GROUP, LockedPages, REGION_PAGES};
use crate::worker::Worker;
use crate::{Rig, Text};

const fn is_mapped(state: PageState) -> bool {
    !matches!(state.permits, Permits::Vacant)
}

impl<'r, R: Rig> Worker<'r, R> {
    /// Locks at most `most` pages that are to be changed, and tells the others where to look.
    pub(super) fn lock_pages(&mut self, space: usize, most: usize) -> Option<LockedPages<'r>> {
        let first = self.random.index(REGION_PAGES);
        let count = 1 + self.random.index(most);
        let locked = self.region_pages(space).lock(first, count)?;
        let hot = first + self.random.index(locked.pages.len());
        // Relaxed: a hint.
        self.run.spaces[space].hot.store(hot as u32, Ordering::Relaxed);
        Some(locked)
    }

    /// Changes what a few pages are to be.
    pub(super) fn change_pages(&mut self, space: usize) {
        let (draw, wide) = (self.random.below(100), self.random.one_in(4));
        let populate = if self.random.one_in(4) { Populate::Now } else { Populate::OnDemand };
        let detaches = self.random.one_in(4);
        let Some(mut pages) = self.lock_pages(space, if wide { GROUP } else { 3 }) else { return };
        self.count_changes(1);
        let start = pages.start();
        if pages.all(|state| state.permits == Permits::Vacant) {
            let placement = Placement::FixedNoReplace(start);
            return self.map_pages(space, &mut pages, placement, populate);
        }
        match draw {
            0..15 => self.map_pages(space, &mut pages, Placement::Fixed(start), populate),
            15..40 => self.unmap_pages(space, &mut pages),
            40..60 if pages.all(is_mapped) => self.discard_pages(space, &mut pages, detaches),
            60..100 if pages.all(is_mapped) => {
                let (access, permits) = match draw {
                    60..78 => (Access::READ, Permits::Reads),
                    78..84 => (Access::NONE, Permits::Nothing),
                    _ => (Access::WRITE, Permits::Writes),
                };
                self.protect_pages(space, &mut pages, access, permits);
            }
            _ => {}
        }
    }

    fn map_pages(&self, space: usize, pages: &mut LockedPages<'_>, placement: Placement, populate: Populate) {
        let request = MapRequest::anonymous(pages.bytes()).placed(placement).populate(populate);
        match self.region_space(space).mmap(&self.pin, &request) {
            Ok(start) if start == pages.start() => {
                pages.become_each(|state| state.holding(Permits::Writes, Contents::Zeros));
            }
            Ok(start) => self.refused("mapping a region at a place", Text::display(&start)),
            Err(MmapError::OutOfFrames(_)) => {}
            Err(error) => self.refused("mapping a region", Text::display(&error)),
        }
    }

    pub(super) fn unmap_pages(&self, space: usize, pages: &mut LockedPages<'_>) {
        match self.region_space(space).munmap(&self.pin, pages.start(), pages.bytes()) {
            Ok(unmapping) => {
                unmapping.wait(&self.pin);
                pages.become_each(|state| state.holding(Permits::Vacant, Contents::Zeros));
            }
            Err(MunmapError::OutOfFrames(_)) => {}
            Err(error) => self.refused("unmapping a region", Text::display(&error)),
        }
    }

    /// Gives contents up; `detaches`: leaves them to the service, and waits for a ticket of its own.
    pub(super) fn discard_pages(&self, space: usize, pages: &mut LockedPages<'_>, detaches: bool) {
        let target = self.region_space(space);
        let advise = || target.madvise(&self.pin, pages.start(), pages.bytes(), Advice::DontNeed);
        match advise() {
            Ok(discarded) if detaches => {
                discarded.detach();
                match advise() {
                    Ok(again) => again.wait(&self.pin),
                    Err(error) => return self.refused("giving pages up again", Text::display(&error)),
                }
            }
            Ok(discarded) => discarded.wait(&self.pin),
            Err(MadviseError::OutOfFrames(_)) => return,
            Err(error) => return self.refused("giving pages up", Text::display(&error)),
        }
        pages.become_each(|state| state.holding(state.permits, Contents::Zeros));
    }

    pub(super) fn protect_pages(
        &self,
        space: usize,
        pages: &mut LockedPages<'_>,
        access: Access,
        permits: Permits,
    ) {
        match self.region_space(space).mprotect(&self.pin, pages.start(), pages.bytes(), access) {
            Ok(protected) => {
                protected.wait(&self.pin);
                pages.become_each(|state| state.permitting(permits));
            }
            Err(MprotectError::OutOfFrames(_)) => {}
            Err(error) => self.refused("protecting a region", Text::display(&error)),
        }
    }

    /// Gives pages that may be written new contents.
    pub(super) fn write_pages(&mut self, space: usize) {
        let Some(mut pages) = self.lock_pages(space, 4) else { return };
        for (page, state) in pages.pages.iter().zip(&mut pages.states) {
            if state.permits != Permits::Writes {
                continue;
            }
            let new = state.holding(Permits::Writes, Contents::Tag);
            if self.write_tag(space, page.address, page.tag(new.written)) {
                *state = new;
            }
        }
        self.count_changes(1);
    }

    /// Writes `tag` to a page that may be written; false without memory for it.
    pub(super) fn write_tag(&self, space: usize, page: topomem::VirtAddr, tag: u64) -> bool {
        let target = self.region_space(space);
        for offset in TAG_WORDS {
            match self.write_word(target, word(page, offset), tag) {
                Ok(()) => {}
                // Once the first word is written, the page is there.
                Err(Refusal::OutOfFrames) => return false,
                Err(error) => {
                    self.refused("writing to a page", Text::debug(&error));
                    return false;
                }
            }
        }
        true
    }
}
