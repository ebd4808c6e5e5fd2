//! What the processes of a run and the runner share.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::compare::answer::Answer;
use crate::log::slots::{Layout, Slots};

/// Answers that a run has room for.
const ROOM: usize = 1 << 16;

/// The bit of the turn that says that no step is due any more: a process has ended before its steps were done.
const GIVEN_UP: u32 = 1 << 31;

/// Whether a process may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its step is due.
    Due,
    /// The run was given up.
    GivenUp,
}

/// Memory that is mapped shared by all processes of a run.
///
/// The process whose turn it is uses the slots and writes the answers.
pub(super) struct Shared {
    /// The step that is due, and whether the run was given up ([`GIVEN_UP`]).
    turn: AtomicU32,
    filled: AtomicUsize,
    slots: UnsafeCell<Slots>,
    answers: UnsafeCell<[MaybeUninit<(usize, Answer)>; ROOM]>,
}

impl Shared {
    /// Waits until step `step` is due, or no step is due any more.
    pub(super) fn wait_for(&self, step: usize) -> Turn {
        loop {
            // Acquire: pairs with the Release of `done`; what the last step's process wrote is seen.
            let due = self.turn.load(Ordering::Acquire);
            if due & GIVEN_UP != 0 {
                return Turn::GivenUp;
            }
            if due as usize == step {
                return Turn::Due;
            }
            // SAFETY: the word is mapped as long as the process lives.
            unsafe {
                libc::syscall(libc::SYS_futex, self.turn.as_ptr(), libc::FUTEX_WAIT, due, ptr::null::<u8>())
            };
        }
    }

    /// Makes the next step due.
    pub(super) fn done(&self) {
        // Release: pairs with the Acquire of `wait_for`.
        self.turn.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Gives the run up: all processes that wait for a step end.
    pub(super) fn give_up(&self) {
        // Relaxed: nothing is told by it but that the run is over.
        self.turn.fetch_or(GIVEN_UP, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // SAFETY: as for the wait.
        unsafe { libc::syscall(libc::SYS_futex, self.turn.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Returns the step that is due.
    pub(super) fn due(&self) -> usize {
        // Relaxed: for messages about a run that is over.
        (self.turn.load(Ordering::Relaxed) & !GIVEN_UP) as usize
    }

    /// Returns the slots.
    ///
    /// # Safety
    ///
    /// It is the caller's turn, and it has no other reference to them.
    #[expect(clippy::mut_from_ref, reason = "turns make it exclusive")]
    pub(super) unsafe fn slots(&self) -> &mut Slots {
        // SAFETY: the caller has the turn.
        unsafe { &mut *self.slots.get() }
    }

    /// Adds an answer.
    ///
    /// # Safety
    ///
    /// It is the caller's turn.
    pub(super) unsafe fn push(&self, step: usize, answer: Answer) {
        // Relaxed: turns order it.
        let index = self.filled.load(Ordering::Relaxed);
        if index < ROOM {
            // SAFETY: the index is inside, and nobody else writes there during this turn.
            unsafe {
                let answers = self.answers.get().cast::<MaybeUninit<_>>();
                answers.add(index).write(MaybeUninit::new((step, answer)));
            }
            self.filled.store(index + 1, Ordering::Relaxed);
        }
    }
}

/// The mapping of a [`Shared`].
pub(super) struct Mapping(NonNull<Shared>);

impl Mapping {
    pub(super) fn create(layout: Layout) -> io::Result<Mapping> {
        // SAFETY: a new mapping, whose zeros are valid for all fields but the slots, which are written before
        // anybody reads them.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(ptr::null_mut(), size_of::<Shared>(), access, flags, -1, 0);
            let memory = NonNull::new(memory.cast::<Shared>()).filter(|_| memory != libc::MAP_FAILED);
            let memory = memory.ok_or_else(io::Error::last_os_error)?;
            (*memory.as_ptr()).slots = UnsafeCell::new(Slots::new(layout));
            Ok(Mapping(memory))
        }
    }

    /// Returns the answers of a run that is over.
    pub(super) fn answers(&self) -> Vec<(usize, Answer)> {
        let filled = self.filled.load(Ordering::Relaxed);
        // SAFETY: the processes have ended, and they have written that many answers.
        unsafe { std::slice::from_raw_parts(self.answers.get().cast::<(usize, Answer)>(), filled) }.to_vec()
    }
}

impl Deref for Mapping {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        // SAFETY: mapped until the drop.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Shared>()) };
    }
}
