//! Having a page of an object in memory.

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order};

use super::ObjectError;
use super::core::{MemoryObject, ObjectCore, Source};
use super::index::MOST_PAGES;
use super::queue::{PagerQueue, Wanted};
use super::wait::PageWait;
use super::word::{PageWord, State, Word};
use crate::Machine;
use crate::service::frame_memory;

/// A page that is there, and whether writes to it have to be noted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageFrame {
    pub frame: x86_64::structures::paging::PhysFrame,
    /// May an entry permit writes at once?
    pub writable: Writable,
}

/// May a shared mapping of a page permit writes?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    /// The first write has to make the page dirty.
    No,
}

/// Why a page cannot be mapped now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It lies beyond the object's end.
    BeyondEnd,
    /// It is not in memory, or on its way out or in.
    Absent,
}

/// What a page is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is read.
    Read,
    /// It is written, by all that share it.
    Write,
}

impl<P: Machine> ObjectCore<P> {
    /// Returns the page `page` if it is there, dirty if it is to be written. The caller has the claim of an
    /// entry that a record of this object's list governs: so the frame stays until the entry maps it, or
    /// the claim is released. Waits for nothing.
    pub fn find(&self, page: u64, wanted: Use) -> Result<PageFrame, Missing> {
        if page >= self.pages() {
            return Err(Missing::BeyondEnd);
        }
        let word = self.index.get(self.service, page).ok_or(Missing::Absent)?;
        word.find(wanted).ok_or(Missing::Absent)
    }

    /// Returns the frame of the page `page`, if it is there, dead or not. For who has the upkeep lock.
    pub(super) fn frame_of(&self, page: u64) -> Option<Word> {
        let word = self.index.get(self.service, page)?.load();
        matches!(word.state(), State::Present(_) | State::Dead).then_some(word)
    }

    /// Is the page `page` in memory, in `frame`?
    pub fn has_frame(&self, page: u64, frame: x86_64::structures::paging::PhysFrame) -> bool {
        self.frame_of(page).is_some_and(|word| word.frame() == frame)
    }

    /// Makes the page's frame stay while its bytes are used; returns the page's word if the page is there.
    /// [`ObjectCore::end_use`] ends it, soon and without waiting in between.
    pub(super) fn use_page(&self, word: &PageWord) -> Option<UsedPage<'_>> {
        // The reference is the index's, which lives as long as the object.
        let found = word.update(|now| matches!(now.state(), State::Present(_)).then_some(now.used()))?;
        // SAFETY: the word is one of the object's index, whose tables stay until the object ends.
        let word: &PageWord = unsafe { &*core::ptr::from_ref(word) };
        Some(UsedPage { word, found })
    }
}

/// A page whose bytes are being read or written: it does not leave meanwhile.
pub(super) struct UsedPage<'a> {
    word: &'a PageWord,
    found: Word,
}

impl UsedPage<'_> {
    pub fn frame(&self) -> x86_64::structures::paging::PhysFrame {
        self.found.frame()
    }

    /// Notes that the page is written.
    pub fn make_dirty(&self) {
        self.word.update(|now| (!now.is_dirty()).then_some(now.dirty()));
    }
}

impl Drop for UsedPage<'_> {
    fn drop(&mut self) {
        self.word.update(|now| Some(now.unused()));
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Has the page `page` be in memory, or a request for it be under way, which is the error then.
    ///
    /// # Errors
    ///
    /// [`ObjectError`].
    pub(crate) fn make_present(&self, pin: &CpuPin, page: u64) -> Result<(), ObjectError> {
        let core = self.core();
        if page >= core.pages() || page >= MOST_PAGES {
            return Err(ObjectError::BeyondEnd);
        }
        let word = core.index.make(core.service, pin, page).map_err(ObjectError::OutOfFrames)?;
        loop {
            let found = word.load();
            match (found.state(), &core.source) {
                (State::Present(_), _) => return Ok(()),
                // Whoever takes it out waits for nobody who waits for this context.
                (State::Dead, _) => core.service.platform().relax(),
                (State::Loading(slot), Source::Pager { requests, .. }) => {
                    let wanted = |wanted| matches!(wanted, Wanted::Read { page: of, .. } if of == page);
                    match requests.join(slot, self, wanted) {
                        Some(wait) => return Err(ObjectError::Waits(wait)),
                        // Not asked for yet, or answered by now.
                        None => core.service.platform().relax(),
                    }
                }
                (State::Loading(_), Source::Zeros) => return Ok(()),
                (State::Absent, Source::Zeros) => {
                    let frame = core.new_frame(pin).map_err(ObjectError::OutOfFrames)?;
                    core.resident.fetch_add(1, Ordering::Relaxed);
                    if word.replace(found, Word::present(frame).dirty()).is_ok() {
                        return Ok(());
                    }
                    core.resident.fetch_sub(1, Ordering::Relaxed);
                    core.free_frame(pin, frame);
                }
                (State::Absent, Source::Pager { requests, .. }) => {
                    if let Some(wait) = self.request(pin, requests, page, word)? {
                        return Err(ObjectError::Waits(wait));
                    }
                }
            }
        }
    }

    /// Asks for the page `page`, whose word is `word`; `None` if the page has changed meanwhile.
    fn request(
        &self,
        pin: &CpuPin,
        requests: &'static PagerQueue<P>,
        page: u64,
        word: &PageWord,
    ) -> Result<Option<PageWait>, ObjectError> {
        let core = self.core();
        if let Some(slot) = core.discarding(page) {
            return Ok(requests.join_slot(slot));
        }
        let Some((slot, wait)) = requests.reserve() else {
            return Ok(requests.join_any());
        };
        let frame = core.new_frame(pin).map_err(ObjectError::OutOfFrames)?;
        if word.replace(Word::ABSENT, Word::loading(slot)).is_err() {
            core.free_frame(pin, frame);
            return Ok(None);
        }
        requests.ask(slot, self.clone(), Wanted::Read { page, frame });
        Ok(Some(wait))
    }
}

impl<P: Machine> ObjectCore<P> {
    /// Allocates a frame of zeros, which has one holder.
    fn new_frame(&self, pin: &CpuPin) -> Result<x86_64::structures::paging::PhysFrame, AllocError> {
        let frame = self.service.alloc(pin, &self.service.blank(FrameRequest::frame()))?;
        frame_memory::take_over(self.service.frames(), frame);
        Ok(frame)
    }

    fn free_frame(&self, pin: &CpuPin, frame: x86_64::structures::paging::PhysFrame) {
        // SAFETY: `new_frame` allocated it, and nobody else has it.
        unsafe { frame_memory::release_own(self.service.frames(), pin, frame, Order::FRAME) };
    }

    /// Returns what the pager knows the object's file by, if there is a pager.
    pub fn key(&self) -> Option<u64> {
        match &self.source {
            Source::Zeros => None,
            Source::Pager { key, .. } => Some(*key),
        }
    }
}
