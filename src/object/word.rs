//! What an object knows of one page, in one word.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

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
pub(super) struct Word(u64);

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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

/// The word of a page, shared by all that use the page.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct PageWord(AtomicU64);

impl PageWord {
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

    /// Forgets the page. Nobody else uses the object any more.
    pub fn take(&self) -> Word {
        // Acquire as in `load`.
        Word(self.0.swap(0, Ordering::Acquire))
    }
}
