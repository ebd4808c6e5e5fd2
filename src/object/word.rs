//! What an object knows of one page, in one word.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::present::{PageFrame, Use, Writable};

/// A page is there: bits 12 to 51 are the address of its frame.
const PRESENT: u64 = 1 << 0;
/// A page is being read in: bits 12 to 51 are the number of the request.
const LOADING: u64 = 1 << 1;
/// It may differ from what the pager has.
const DIRTY: u64 = 1 << 2;
/// It is being written back.
const WRITING: u64 = 1 << 3;
/// It is about to leave, unless somebody maps it before.
const EVICTING: u64 = 1 << 4;
/// It leaves: no mapping of it is made any more.
const DEAD: u64 = 1 << 5;
/// A future that waited for it has not been dropped: it does not leave for want of memory.
const PINNED: u64 = 1 << 6;
/// One context that reads or writes the frame's bytes, in the upper bits.
const USER: u64 = 1 << 52;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The word of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The page is not there.
    Absent,
    /// It is being read in by the request of this number.
    Loading(usize),
    /// It is there, and on its way out.
    Dead,
    /// It is there.
    Present(PhysFrame),
}

impl Word {
    pub const ABSENT: Word = Word(0);

    pub fn loading(request: usize) -> Word {
        Word(LOADING | (request as u64) << 12)
    }

    pub fn present(frame: PhysFrame) -> Word {
        Word(PRESENT | frame.start_address().as_u64())
    }

    pub fn state(self) -> State {
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

    /// Returns the frame of a page that is there, dead or not.
    pub fn frame(self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new_truncate(self.0 & ADDRESS))
    }

    pub fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    pub fn is_writing(self) -> bool {
        self.0 & WRITING != 0
    }

    pub fn is_evicting(self) -> bool {
        self.0 & EVICTING != 0
    }

    pub fn is_used(self) -> bool {
        self.0 >= USER
    }

    /// May it leave for want of memory?
    pub fn is_idle(self) -> bool {
        self.0 & (DIRTY | WRITING | PINNED | DEAD | PRESENT) == PRESENT && !self.is_used()
    }

    pub fn dirty(self) -> Word {
        Word(self.0 | DIRTY)
    }

    pub fn dead(self) -> Word {
        Word(self.0 | DEAD)
    }

    pub fn alive(self) -> Word {
        Word(self.0 & !DEAD)
    }

    pub fn pinned(self) -> Word {
        Word(self.0 | PINNED)
    }

    pub fn unpinned(self) -> Word {
        Word(self.0 & !PINNED)
    }

    pub fn evicting(self) -> Word {
        Word(self.0 | EVICTING)
    }

    /// The same page, mapped again or used.
    pub fn wanted(self) -> Word {
        Word(self.0 & !EVICTING)
    }

    pub fn used(self) -> Word {
        Word((self.0 & !EVICTING) + USER)
    }

    pub fn unused(self) -> Word {
        Word(self.0 - USER)
    }

    /// The same page while what it has now is written back.
    pub fn writing(self) -> Word {
        Word(self.0 & !DIRTY | WRITING)
    }

    /// The same page when it has been written back.
    pub fn written(self) -> Word {
        Word(self.0 & !WRITING)
    }
}

/// What a look for a page to write back has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// The page is marked as being written from now on.
    Begun,
    /// The page is being written already.
    UnderWay,
    /// There is nothing to write.
    Nothing,
}

/// The word of a page, shared by all that use the page.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct PageWord(AtomicU64);

impl PageWord {
    /// Returns the word of a page that is there.
    #[cfg(all(loom, test))]
    pub fn of(word: Word) -> PageWord {
        PageWord(AtomicU64::new(word.0))
    }

    pub fn load(&self) -> Word {
        // Acquire pairs with the Release in `replace`: who sees the page sees its bytes.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Replaces `current` by `new`, or returns what it is instead.
    pub fn replace(&self, current: Word, new: Word) -> Result<(), Word> {
        // Release and Acquire as in `load`, in both directions: who takes a page out sees all uses of it.
        match self.0.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Replaces the word by what `change` makes of it, unless that is `None`. Returns the former word then.
    pub fn update(&self, mut change: impl FnMut(Word) -> Option<Word>) -> Option<Word> {
        let mut now = self.load();
        loop {
            let new = change(now)?;
            match self.replace(now, new) {
                Ok(()) => return Some(now),
                Err(other) => now = other,
            }
        }
    }

    /// Returns the page if it is there, dirty if it is to be written. The caller has the claim of an entry that
    /// may map the page.
    // Always: faults look for the pages around theirs, too.
    #[inline(always)]
    pub fn find(&self, wanted: Use) -> Option<PageFrame> {
        let make = |now: Word| match now.state() {
            State::Present(_) if wanted == Use::Write => Some(now.wanted().dirty()),
            State::Present(_) => Some(now.wanted()),
            _ => None,
        };
        let mut now = self.load();
        loop {
            let new = make(now)?;
            // A page that is as it is wanted is not written to: CPUs that map it share no line for that.
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

    /// Has the page leave: no mapping of it is made from now on.
    pub fn kill(&self) {
        self.update(|now| match now.state() {
            State::Present(_) => Some(now.dead()),
            // What the pager answers is not wanted any more.
            State::Loading(_) => Some(Word::ABSENT),
            State::Absent | State::Dead => None,
        });
    }

    /// Marks the page as being written, if it is dirty. Its bytes may be read once no CPU can write to it.
    pub fn begin_writing(&self) -> WriteBack {
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

    /// Ends what [`PageWord::begin_writing`] began. If the bytes were not written, the page is as dirty as it was.
    pub fn end_writing(&self, written: Result<(), ()>) {
        self.update(|now| {
            let ended = now.written();
            now.is_writing().then_some(if written.is_ok() { ended } else { ended.dirty() })
        });
    }

    /// Forgets the page. Nobody else uses the object any more.
    pub fn take(&self) -> Word {
        // Acquire as in `load`.
        Word(self.0.swap(0, Ordering::Acquire))
    }
}
