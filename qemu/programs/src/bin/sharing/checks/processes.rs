//! What processes see of each other's writes.

use std::ffi::c_long;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{File, Mapped, ensure, in_child, joined, start};

/// Shared anonymous memory is one for a process, its children and theirs, and keeps what a process wrote that
/// has ended.
pub(super) fn memory() -> Result<(), u8> {
    const PAGES: usize = 20;
    let shared = Mapped::inherited(PAGES)?;
    for page in 0..PAGES {
        ensure(shared.read(page, 7) == 0, 1)?;
    }
    // Some pages are written before the fork, others after it.
    (0..PAGES / 2).for_each(|page| shared.write(page, 0, page as u8 + 1));
    in_child(|| {
        for page in 0..PAGES / 2 {
            ensure(shared.read(page, 0) == page as u8 + 1, 2)?;
        }
        (0..PAGES).for_each(|page| shared.write(page, 1, page as u8 + 100));
        in_child(|| {
            for page in 0..PAGES {
                ensure(shared.read(page, 1) == page as u8 + 100, 3)?;
                shared.write(page, 4095, page as u8 + 50);
            }
            Ok(())
        })?;
        // What this child unmaps, the parent keeps.
        shared.unmap()
    })?;
    for page in 0..PAGES {
        ensure(shared.read(page, 1) == page as u8 + 100, 4)?;
        ensure(shared.read(page, 4095) == page as u8 + 50, 5)?;
    }
    // What is given up comes back: it is shared.
    ensure(shared.advise(0, PAGES, libc::MADV_DONTNEED) == 0, 6)?;
    ensure(shared.read(3, 1) == 103, 7)?;
    shared.unmap()
}

/// Processes count together, on pages that each of them finds first.
pub(super) fn counters() -> Result<(), u8> {
    const PROCESSES: u32 = 4;
    const ROUNDS: u32 = 500;
    const PAGES: usize = 8;
    let shared = Mapped::inherited(PAGES)?;
    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        children.push(start(|| {
            for round in 0..ROUNDS {
                for page in 0..PAGES {
                    shared.word(page, (round % 8) as usize).fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })?);
    }
    for child in children {
        joined(child)?;
    }
    for page in 0..PAGES {
        let sum: u32 = (0..8).map(|number| shared.word(page, number).load(Ordering::Relaxed)).sum();
        ensure(sum == PROCESSES * ROUNDS, 1)?;
    }
    shared.unmap()
}

/// Waits while the word is `value`; wakes all that wait for it.
fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        let none = ptr::null::<libc::timespec>();
        // SAFETY: the word is there; without the private flag the memory may be shared.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, none) };
    }
}

fn wake(word: &AtomicU32) -> c_long {
    // SAFETY: the word is there.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) }
}

/// A process waits for a word until another changes it: in anonymous memory, and in a file that the two have
/// mapped at different addresses.
pub(super) fn futex() -> Result<(), u8> {
    const ROUNDS: u32 = 50;
    let anonymous = Mapped::inherited(1)?;
    let file = File::in_memory(3 * super::PAGE)?;
    let in_file = Mapped::shared(&file, 3)?;
    for (number, shared, page) in [(1, anonymous, 0), (2, in_file, 2)] {
        let child = start(|| {
            let mine = if number == 2 {
                // At another address, and another page of it.
                Mapped::new(Some(&file), 2, 1, super::WRITE, libc::MAP_SHARED).ok_or(10)?
            } else {
                shared
            };
            let word = mine.word(0, 3);
            for round in 0..ROUNDS {
                wait_while(word, 2 * round);
                ensure(word.load(Ordering::Acquire) == 2 * round + 1, 11)?;
                word.store(2 * round + 2, Ordering::Release);
                wake(word);
            }
            Ok(())
        })?;
        let word = shared.word(page, 3);
        for round in 0..ROUNDS {
            word.store(2 * round + 1, Ordering::Release);
            wake(word);
            wait_while(word, 2 * round + 1);
            ensure(word.load(Ordering::Acquire) == 2 * round + 2, 20 + number)?;
        }
        joined(child)?;
    }
    // Private memory of a child is other memory, at the same address.
    let own = Mapped::new(None, 0, 1, super::WRITE, libc::MAP_PRIVATE).ok_or(30)?;
    own.write(0, 0, 0);
    in_child(|| {
        own.write(0, 0, 1);
        ensure(wake(own.word(0, 0)) == 0, 31)
    })?;
    ensure(own.read(0, 0) == 0, 32)
}

/// What is private stays so, and nobody finds what others have left in memory.
pub(super) fn isolation() -> Result<(), u8> {
    const PAGES: usize = 32;
    let file = File::in_memory(PAGES * super::PAGE)?;
    let shared = Mapped::shared(&file, PAGES)?;
    (0..PAGES).for_each(|page| shared.write(page, 9, 77));
    let private = Mapped::private(&file, PAGES)?;
    private.write(1, 9, 1);
    in_child(|| {
        // Inherited as the parent had it, and its own from now on.
        ensure(private.read(1, 9) == 1 && private.read(2, 9) == 77, 1)?;
        private.write(1, 9, 2);
        private.write(2, 9, 3);
        ensure(shared.read(1, 9) == 77 && shared.read(2, 9) == 77, 2)?;
        shared.write(3, 9, 4);
        ensure(private.read(3, 9) == 4, 3)
    })?;
    ensure(private.read(1, 9) == 1 && private.read(2, 9) == 77, 4)?;
    ensure(private.read(3, 9) == 4 && shared.read(2, 9) == 77, 5)?;
    private.unmap()?;
    shared.unmap()?;
    drop(file);
    // The frames come back to somebody, as zeros.
    for _ in 0..4 {
        let file = File::in_memory(PAGES * super::PAGE)?;
        let (fresh, memory) = (Mapped::shared(&file, PAGES)?, Mapped::inherited(PAGES)?);
        for page in 0..PAGES {
            ensure(fresh.read(page, 9) == 0 && memory.read(page, 9) == 0, 6)?;
            fresh.write(page, 9, 99);
            memory.write(page, 9, 88);
        }
        fresh.unmap()?;
        memory.unmap()?;
    }
    Ok(())
}
