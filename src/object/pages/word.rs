//! The state of an object's page, in a word.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{PhysAddr, PhysFrame};

use super::present::{PageFrame, Use, Writable};

/// The page is in memory: bits 12 to 51 are the address of its frame.
const PRESENT: u64 = 1 << 0;
/// The page is being read in: bits 12 to 51 are the number of the request.
const LOADING: u64 = 1 << 1;
/// The page may differ from the pager's version.
const DIRTY: u64 = 1 << 2;
/// The page is being written back.
const WRITING: u64 = 1 << 3;
/// The page is about to leave memory, unless it is mapped before.
const EVICTING: u64 = 1 << 4;
/// The page is leaving: it gets no new mapping.
const DEAD: u64 = 1 << 5;
/// A future waiting for the page has not been dropped: the page does not leave for want of memory.
const PINNED: u64 = 1 << 6;
/// A context reading or writing the frame's bytes, counted in the upper bits.
const USER: u64 = 1 << 52;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The word of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// The state of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The page is not in memory.
    Absent,
    /// The page is being read in by the request with this number.
    Loading(usize),
    /// The page is in memory, and on its way out.
    Dead,
    /// The page is in memory.
    Present(PhysFrame),
}

impl Word {
    pub(crate) const ABSENT: Word = Word(0);

    pub(crate) fn loading(request: usize) -> Word {
        Word(LOADING | (request as u64) << 12)
    }

    pub(crate) fn present(frame: PhysFrame) -> Word {
        Word(PRESENT | frame.start_address().as_u64())
    }

    pub(crate) fn state(self) -> State {
        if self.0 & LOADING != 0 {
            State::Loading(((self.0 & ADDRESS) >> 12) as usize)
        } else if self.0 & PRESENT == 0 {
            State::Absent
        } else if self.0 & DEAD != 0 {
            State::Dead
        } else {
            State::Present(self.frame())
        }
    }

    /// Returns the frame of a page in memory, dead or alive.
    pub(crate) fn frame(self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(self.0 & ADDRESS))
    }

    pub(crate) fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    pub(crate) fn is_writing(self) -> bool {
        self.0 & WRITING != 0
    }

    pub(crate) fn is_evicting(self) -> bool {
        self.0 & EVICTING != 0
    }

    pub(crate) fn is_used(self) -> bool {
        self.0 >= USER
    }

    /// Returns whether the page may leave for want of memory.
    pub(crate) fn is_idle(self) -> bool {
        self.0 & (DIRTY | WRITING | PINNED | DEAD | PRESENT) == PRESENT && !self.is_used()
    }

    pub(crate) fn dirty(self) -> Word {
        Word(self.0 | DIRTY)
    }

    pub(crate) fn dead(self) -> Word {
        Word(self.0 | DEAD)
    }

    pub(crate) fn alive(self) -> Word {
        Word(self.0 & !DEAD)
    }

    pub(crate) fn pinned(self) -> Word {
        Word(self.0 | PINNED)
    }

    pub(crate) fn unpinned(self) -> Word {
        Word(self.0 & !PINNED)
    }

    pub(crate) fn evicting(self) -> Word {
        Word(self.0 | EVICTING)
    }

    /// Returns the word after a mapping or a use of the page.
    pub(crate) fn wanted(self) -> Word {
        Word(self.0 & !EVICTING)
    }

    pub(crate) fn used(self) -> Word {
        Word((self.0 & !EVICTING) + USER)
    }

    pub(crate) fn unused(self) -> Word {
        Word(self.0 - USER)
    }

    /// Returns the word for the page while its present contents are written back.
    pub(crate) fn writing(self) -> Word {
        Word(self.0 & !DIRTY | WRITING)
    }

    /// Returns the word after the page has been written back.
    pub(crate) fn written(self) -> Word {
        Word(self.0 & !WRITING)
    }
}

/// The outcome of a look for a page to write back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// The page is marked as being written from now on.
    Begun,
    /// The page is being written already.
    UnderWay,
    /// The page needs no write.
    Nothing,
}

/// The word of a page, shared by all users of the page.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct PageWord(AtomicU64);

impl PageWord {
    /// Returns the word of a page in memory.
    #[cfg(all(loom, test))]
    pub fn of(word: Word) -> PageWord {
        PageWord(AtomicU64::new(word.0))
    }

    pub(crate) fn load(&self) -> Word {
        // Acquire pairs with the Release in `replace`: a reader of the page's word sees the page's
        // bytes.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Replaces `current` by `new`, or returns the present word instead.
    pub(crate) fn replace(&self, current: Word, new: Word) -> Result<(), Word> {
        // Release and Acquire as in `load`, in both directions: the remover of a page sees all of
        // its uses.
        match self.0.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Replaces the word by the result of `change`, unless the result is `None`. Returns the former
    /// word if replaced.
    pub(crate) fn update(&self, mut change: impl FnMut(Word) -> Option<Word>) -> Option<Word> {
        let mut now = self.load();
        loop {
            let new = change(now)?;
            match self.replace(now, new) {
                Ok(()) => return Some(now),
                Err(other) => now = other,
            }
        }
    }

    /// Returns the page if it is in memory, and makes it dirty for a write. The caller has the
    /// claim of an entry for the page.
    // Always inlined: faults look for the surrounding pages, too.
    #[inline(always)]
    pub(crate) fn find(&self, wanted: Use) -> Option<PageFrame> {
        let make = |now: Word| match now.state() {
            State::Present(_) if wanted == Use::Write => Some(now.wanted().dirty()),
            State::Present(_) => Some(now.wanted()),
            _ => None,
        };
        let mut now = self.load();
        loop {
            let new = make(now)?;
            // A page already in the wanted state is not written to: CPUs mapping the page then
            // share no line.
            if new == now {
                break;
            }
            match self.replace(now, new) {
                Ok(()) => now = new,
                Err(other) => now = other,
            }
        }
        let writable = if now.is_dirty() && !now.is_writing() || wanted == Use::Write {
            Writable::Yes
        } else {
            Writable::No
        };
        Some(PageFrame { frame: now.frame(), writable })
    }

    /// Marks the page as leaving: it gets no new mapping.
    pub(crate) fn kill(&self) {
        self.update(|now| match now.state() {
            State::Present(_) => Some(now.dead()),
            // The pager's answer is not wanted any more.
            State::Loading(_) => Some(Word::ABSENT),
            State::Absent | State::Dead => None,
        });
    }

    /// Marks the page as being written, if it is dirty. Its bytes may be read after no CPU can
    /// write to it.
    pub(crate) fn begin_writing(&self) -> WriteBack {
        let mut found = WriteBack::Nothing;
        self.update(|now| {
            let is_dirty = matches!(now.state(), State::Present(_)) && now.is_dirty();
            found = match now.is_writing() {
                true => WriteBack::UnderWay,
                false if is_dirty => WriteBack::Begun,
                false => WriteBack::Nothing,
            };
            (found == WriteBack::Begun).then_some(now.writing())
        });
        found
    }

    /// Ends the write begun by [`PageWord::begin_writing`]. If the bytes were not written, the page
    /// is dirty again.
    pub(crate) fn end_writing(&self, written: Result<(), ()>) {
        self.update(|now| {
            let ended = now.written();
            now.is_writing().then_some(if written.is_ok() { ended } else { ended.dirty() })
        });
    }

    /// Forgets the page. Nothing else uses the object any more.
    pub(crate) fn take(&self) -> Word {
        // Acquire, as in `load`.
        Word(self.0.swap(0, Ordering::Acquire))
    }
}
