//! Bringing a page of an object into memory.

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order};

use super::index::MOST_PAGES;
use super::word::{PageWord, State, Word};
use crate::Machine;
use crate::object::ObjectError;
use crate::object::core::{MemoryObject, ObjectCore, Source};
use crate::object::paging::queue::{PagerQueue, Wanted};
use crate::object::paging::wait::PageWait;
use crate::service::memory::frame_memory;

/// A page in memory, and whether writes have to be noted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageFrame {
    pub frame: topomem_percpu::PhysFrame,
    /// Whether an entry may permit writes at once.
    pub writable: Writable,
}

/// Whether a shared mapping of a page may permit writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    /// The first write has to make the page dirty.
    No,
}

/// The reason why a page cannot be mapped now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The page lies beyond the object's end.
    BeyondEnd,
    /// The page is not in memory, or on its way out or in.
    Absent,
}

/// The intended use of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A read.
    Read,
    /// A write, visible to all sharers.
    Write,
}

impl<P: Machine> ObjectCore<P> {
    /// Returns the page `page` if it is in memory, and makes it dirty for a write. The caller has
    /// the claim of an entry governed by a record of this object's list: the frame therefore stays
    /// until the entry maps it, or the claim is released. Never waits.
    pub(crate) fn find(&self, page: u64, wanted: Use) -> Result<PageFrame, Missing> {
        if page >= self.pages() {
            return Err(Missing::BeyondEnd);
        }
        let word = self.index.get(self.service, page).ok_or(Missing::Absent)?;
        word.find(wanted).ok_or(Missing::Absent)
    }

    /// Returns the word of the page `page`, if it is in memory, dead or alive. The caller has the
    /// upkeep lock.
    pub(in crate::object) fn frame_of(&self, page: u64) -> Option<Word> {
        let word = self.index.get(self.service, page)?.load();
        matches!(word.state(), State::Present(_) | State::Dead).then_some(word)
    }

    /// Returns whether the page `page` is in memory, in `frame`.
    pub(crate) fn has_frame(&self, page: u64, frame: topomem_percpu::PhysFrame) -> bool {
        self.frame_of(page).is_some_and(|word| word.frame() == frame)
    }

    /// Keeps the page's frame while its bytes are used, and returns the page if it is in memory.
    /// The caller drops the use soon, without waiting in between.
    pub(in crate::object) fn use_page(&self, word: &PageWord) -> Option<UsedPage<'_>> {
        // The reference belongs to the index, which lives as long as the object.
        let found = word.update(|now| matches!(now.state(), State::Present(_)).then_some(now.used()))?;
        // SAFETY: the word is in the object's index, whose tables stay until the object ends.
        let word: &PageWord = unsafe { &*core::ptr::from_ref(word) };
        Some(UsedPage { word, found })
    }
}

/// A page whose bytes are being read or written; it stays in memory meanwhile.
pub(in crate::object) struct UsedPage<'a> {
    word: &'a PageWord,
    found: Word,
}

impl UsedPage<'_> {
    pub(crate) fn frame(&self) -> topomem_percpu::PhysFrame {
        self.found.frame()
    }

    /// Notes a write to the page.
    pub(crate) fn make_dirty(&self) {
        self.word.update(|now| (!now.is_dirty()).then_some(now.dirty()));
    }
}

impl Drop for UsedPage<'_> {
    fn drop(&mut self) {
        self.word.update(|now| Some(now.unused()));
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Ensures the page `page` is in memory. Otherwise arranges a request for it, returned as the
    /// error.
    ///
    /// # Errors
    ///
    /// - [`ObjectError::Waits`] if the page is being read in.
    /// - [`ObjectError::BeyondEnd`] if the page lies beyond the object's end.
    /// - [`ObjectError::OutOfFrames`] if no frame is left.
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
                // The remover of the page does not wait for this context.
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

    /// Requests the page `page`, whose word is `word`. Returns `None` if the page has changed
    /// meanwhile.
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
    /// Allocates a frame of zeros with a single holder.
    fn new_frame(&self, pin: &CpuPin) -> Result<topomem_percpu::PhysFrame, AllocError> {
        let frame = self.service.alloc(pin, &self.service.blank(FrameRequest::frame()))?;
        frame_memory::take_over(self.service.frames(), frame);
        Ok(frame)
    }

    fn free_frame(&self, pin: &CpuPin, frame: topomem_percpu::PhysFrame) {
        // SAFETY: `new_frame` allocated the frame, and the caller owns it.
        unsafe { frame_memory::release_own(self.service.frames(), pin, frame, Order::FRAME) };
    }

    /// Returns the key of the object's file, if a pager serves the object.
    pub(crate) fn key(&self) -> Option<u64> {
        match &self.source {
            Source::Zeros => None,
            Source::Pager { key, .. } => Some(*key),
        }
    }
}
